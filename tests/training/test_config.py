"""Settings are checked whole, and every problem is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import Settings, load_settings
from training.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]


def written(tmp_path: Path, text: str) -> Path:
    """Write a settings file."""
    path = tmp_path / "training.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_gives_the_defaults() -> None:
    """Every default stands in the models, so a file is optional."""
    assert load_settings(None) == Settings()


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    """A file of comments is a file of defaults."""
    assert load_settings(written(tmp_path, "# nothing\n")) == Settings()


def test_the_shipped_settings_load() -> None:
    """The settings the shipped bundle was trained with are valid, and hold scenes back."""
    settings = load_settings(ROOT / "deploy" / "training.yaml")

    assert settings.scenes.validation
    assert settings.network.spec().latent_channels == 64 * settings.network.components


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("fit: {epoch: 3}", r"fit\.epoch: .*got 3", id="unknown key"),
        pytest.param("fit: {crop_px: 60}", r"fit\.crop_px: .*multiple of 8, got 60", id="range"),
        pytest.param("seed: many", "seed: .*got 'many'", id="type"),
        pytest.param("network: {shortcut: fft}", r"network\.shortcut: .*got 'fft'", id="choice"),
        pytest.param("report: {steps: [1, 2]}", r"report\.steps: .*must descend", id="order"),
        pytest.param("report: {ranges: [[2, 1]]}", r"ranges\.0: .*must ascend", id="range order"),
        pytest.param("- 1", r"file: .*got \[1\]", id="no mapping"),
        pytest.param("a: [", "remedy: name a readable YAML file", id="no YAML"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """The message holds the file, the key and the value, and fits on one line."""
    path = written(tmp_path, text)

    with pytest.raises(SettingsError, match=complaint) as caught:
        load_settings(path)

    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is a settings error, not a traceback."""
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        load_settings(tmp_path / "absent.yaml")


def test_two_problems_are_two_lines(tmp_path: Path) -> None:
    """Everything wrong is said at once."""
    path = written(tmp_path, "seed: -1\nfit: {epochs: 0}")

    with pytest.raises(SettingsError) as caught:
        load_settings(path)

    assert len(str(caught.value).splitlines()) == 2
