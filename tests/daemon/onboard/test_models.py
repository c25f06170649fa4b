"""The model on board is loaded, checked and warm before the first tile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codec.encoder import NO_TIMER, Encoder
from codec.tile import Tile
from daemon.config_models import FlightModelSettings
from daemon.errors import ConfigError
from daemon.onboard.models import control_steps, load_encoder
from fakes.bundles import klt_bundle, minmax_bundle
from fakes.cubes import tile


def test_the_bundle_is_loaded_with_its_step(bundle_file: Path) -> None:
    """The settings' step wins over the bundle's; the flight part of the bundle is enough."""
    made = load_encoder(FlightModelSettings(bundle=bundle_file, backend="torch"), NO_TIMER)
    other = load_encoder(
        FlightModelSettings(bundle=bundle_file, backend="torch", step=7.0), NO_TIMER
    )

    assert made.bundle.name == klt_bundle().name
    assert (made.step, other.step) == (klt_bundle().default_step, 7.0)


def test_a_target_of_the_settings_gives_each_tile_its_step(bundle_file: Path) -> None:
    """A rate or a quality; without either every tile has the encoder's step."""

    def step(**target: float) -> float:
        settings = FlightModelSettings(bundle=bundle_file, backend="torch", **target)  # type: ignore[arg-type]  # floats
        control = control_steps(settings, load_encoder(settings, NO_TIMER))
        return control.open(tile(bands=3)).job.patches[0].conditioning.component_unit

    assert step() == klt_bundle().default_step
    assert step(step=7.0) == 7.0
    assert step(rate_bpppc=0.2) > 1.5 * step(rate_bpppc=0.8)
    assert step(psnr_db=50.0) > 1.5 * step(psnr_db=60.0)


def test_a_target_that_the_model_cannot_meet_is_an_error_of_the_settings(tmp_path: Path) -> None:
    """It names the bundle and what to set instead; a restart would not help."""
    path = tmp_path / "minmax.safetensors"
    path.write_bytes(minmax_bundle(bands=5).to_bytes())
    settings = FlightModelSettings(bundle=path, backend="torch", rate_bpppc=0.1)
    with pytest.raises(ConfigError, match=r"minmax\.safetensors.*set model\.step instead"):
        control_steps(settings, load_encoder(settings, NO_TIMER))


def test_warming_up_is_not_timed(bundle_file: Path) -> None:
    """What is measured is work for the instrument: stages count from the first real tile."""
    stages: list[str] = []

    @contextmanager
    def timer(stage: str) -> Iterator[None]:
        stages.append(stage)
        yield

    made = load_encoder(FlightModelSettings(bundle=bundle_file, backend="torch"), timer)
    assert stages == []
    made.encode(tile(bands=3, rows=8, cols=8))
    assert set(stages) == {"condition", "analyze", "quantize", "entropy_code"}


def test_the_encoder_itself_is_warmed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runtimes prepare, they prepare for one encoder: another one's warmth is of no use."""
    warmed: list[tuple[Encoder, Tile]] = []

    def encode(self: Encoder, tile: Tile) -> list[bytes]:
        warmed.append((self, tile))
        return []

    monkeypatch.setattr(Encoder, "encode", encode)
    path = tmp_path / "minmax.safetensors"
    path.write_bytes(minmax_bundle(bands=5).for_flight().to_bytes())
    made = load_encoder(FlightModelSettings(bundle=path, backend="torch"), NO_TIMER)

    assert [encoder for encoder, _ in warmed] == [made]
    assert warmed[0][1].samples.shape == (5, 128, 128)


def test_a_bundle_that_cannot_be_used_is_an_error_of_the_settings(tmp_path: Path) -> None:
    """It names the file once, on one line, with what to change; a restart would not help."""
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no bundle")
    with pytest.raises(ConfigError) as caught:
        load_encoder(FlightModelSettings(bundle=path), NO_TIMER)

    text = str(caught.value)
    assert text.count(str(path)) == 1
    assert "change model.bundle" in text
    assert "\n" not in text


def test_a_step_that_cannot_be_used_is_an_error_of_the_settings(bundle_file: Path) -> None:
    """It is refused before the first tile, not with it."""
    settings = FlightModelSettings.model_construct(
        bundle=bundle_file, backend="torch", threads=None, step=1e9
    )
    with pytest.raises(ConfigError, match=r"change model\.bundle, backend or step"):
        load_encoder(settings, NO_TIMER)
