"""Scores of baselines are kept under all they depend on, and read where none of it changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.cubes import tile
from training.baseline_cache import Baselines, baselines_of
from training.config import BaselineSettings
from training.errors import TrainingError
from training.scenes import Scene

SETTINGS = BaselineSettings(
    components=(2, 4), steps=(256.0, 64.0), reversible_steps=(), band_steps=(256.0,), distances=()
)
NORTH, SOUTH = (
    Scene(name=name, group=name, tile=tile(bands=8, rows=24, cols=24, seed=seed, noise_dn=20.0))
    for seed, name in enumerate(("north", "south"))
)


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """A thread in place of processes, which take seconds to start; the report's tests have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "training.baseline_cache.ProcessPoolExecutor", lambda size, *_: ThreadPoolExecutor(size)
        )
        yield


def scored(file: Path, *scenes: Scene, settings: BaselineSettings = SETTINGS) -> Baselines:
    """Read or score."""
    return baselines_of(scenes, settings, file, workers=1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the scores of one scene."""
    file = tmp_path_factory.mktemp("kept") / "baselines.json"
    assert scored(file, NORTH).read == ()
    return file


def test_what_was_scored_is_read(kept: Path) -> None:
    """The same samples under another name are the same scores, in that name."""
    first, second = scored(kept, NORTH), scored(kept, replace(NORTH, name="x", group="y"))

    assert (first.read, second.read) == (("north",), ("x",))
    assert {(score.scene, score.group) for score in second.scores["x"]} == {("x", "y")}
    assert [s.bytes for s in first.scores["north"]] == [s.bytes for s in second.scores["x"]]


def test_a_new_scene_is_added(kept: Path, tmp_path: Path) -> None:
    """Only what is missing is scored; the file has both afterwards."""
    file = tmp_path / "baselines.json"
    file.write_bytes(kept.read_bytes())

    assert scored(file, NORTH, SOUTH).read == ("north",)
    assert set(scored(file, NORTH, SOUTH).read) == {"north", "south"}


def test_other_settings_or_samples_are_scored_anew(kept: Path, tmp_path: Path) -> None:
    """A score under other settings, or of one other sample, is no score of this."""
    file = tmp_path / "baselines.json"
    file.write_bytes(kept.read_bytes())
    samples = NORTH.tile.samples.copy()
    samples[0, 0, 0] += 1
    touched = replace(NORTH, tile=replace(NORTH.tile, samples=samples))

    assert scored(file, touched).read == ()
    assert scored(file, NORTH, settings=SETTINGS.model_copy(update={"components": (2,)})).read == ()


def test_the_curves_are_of_all_variants(kept: Path) -> None:
    """One curve per baseline; what makes it is shown, with the lossless references."""
    found = scored(kept, NORTH)

    assert found.curves()["klt-j2k"]["north"]
    assert found.curves()["klt-j2k-5/3"]["north"] == []
    shown = {score.codec for score in found.shown()}
    assert {"j2k-band", "jxl-lossless", "j2k-lossless", "jls-lossless"} <= shown


@pytest.mark.parametrize("text", ["no json", "[1]", json.dumps({"x": [{"scene": "north"}]})])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    """A file that holds something else is named and left as it is."""
    file = tmp_path / "notes.json"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(TrainingError, match=r"notes\.json: no scores of baselines; remedy"):
        scored(file, NORTH)
    assert file.read_text(encoding="utf-8") == text
