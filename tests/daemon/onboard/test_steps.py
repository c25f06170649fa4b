"""Each tile on board gets the step that meets the target: a rate on average, a quality about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BundleError, TileError
from codec.frame import SideFrame, parse
from codec.speeds import FASTEST
from codec.targets import Target, mean_psnr_db
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from daemon.onboard.steps import OpenedTile, StepControl
from fakes import cubes
from fakes.bundles import klt_bundle, minmax_bundle

DATA = Path(__file__).resolve().parents[2] / "data"
WATER, SALTON = DATA / "hyspecnet-11k", DATA / "aviris_salton_sea.npz"
IN_FLIGHT = 2
"""Tiles that are opened before the frames of the first are heard of."""


def all_components() -> Bundle:
    """The linear codec, free to send every component a tile has."""
    return klt_bundle(step=192.0, components=512)


def encoder(bundle: Bundle | None = None) -> Encoder:
    """On PyTorch wherever the tests run."""
    return Encoder(bundle or all_components(), backend="torch-cpu")


def stream(path: Path, count: int) -> list[Tile]:
    """Tiles of one instrument: a real scene, mirrored, moved and darkened."""
    scene = read_tile(find_scenes(path)[0])
    tiles = []
    for i in range(count):
        samples = np.roll(scene.samples, 7 * i, axis=1)[:, :: (-1) ** i]
        darker = np.where(scene.valid()[:, :1, :1], samples * (1 - 0.03 * (i % 4)), samples)
        tiles.append(
            Tile(
                samples=np.ascontiguousarray(darker.astype(scene.samples.dtype)),
                info=replace(scene.info, sequence=i),
            )
        )
    return tiles


def fly(steps: StepControl, coder: Encoder, tiles: Sequence[Tile]) -> Iterator[list[bytes]]:
    """The frames of each tile; the control hears of them some tiles later, as in the pipeline."""
    late: list[tuple[OpenedTile, list[bytes]]] = []
    for tile in tiles:
        opened = steps.open(tile)
        frames = coder.encode_batch(opened.job.patches)
        late.append((opened, frames))
        if len(late) > IN_FLIGHT:
            heard, sizes = late.pop(0)
            for patch, expected, raw in zip(
                heard.job.patches, heard.expected_bytes, sizes, strict=True
            ):
                steps.learn(patch, expected, len(raw))
        yield [opened.job.side_frame, *frames]


def bpppc(tile: Tile, frames: Sequence[bytes]) -> float:
    """Bits per valid sample."""
    return 8 * sum(map(len, frames)) / int(np.count_nonzero(tile.valid()))


@pytest.mark.parametrize("path", [WATER, SALTON], ids=["water", "salton"])
@pytest.mark.parametrize("rate", [0.05, 0.3, 2.0])
def test_a_rate_is_met_on_average(path: Path, rate: float) -> None:
    """Within 5 % over twelve tiles; after the first, each tile within 20 %."""
    coder, tiles = encoder(), stream(path, 12)
    steps = StepControl(coder, Target(kind="rate", value=rate))
    found = [bpppc(t, f) for t, f in zip(tiles, fly(steps, coder, tiles), strict=True)]

    assert np.mean(found) == pytest.approx(rate, rel=0.05)
    assert found[1:] == pytest.approx([rate] * 11, rel=0.2)


@pytest.mark.parametrize(("path", "psnr"), [(WATER, 58.0), (SALTON, 45.0), (SALTON, 70.0)])
def test_a_quality_is_met_about(path: Path, psnr: float) -> None:
    """Within half a decibel from the second tile on, though nobody on board decodes."""
    coder, tiles = encoder(all_components().for_flight()), stream(path, 4)
    steps = StepControl(coder, Target(kind="psnr", value=psnr))
    decoder = Decoder(all_components())
    found = [
        mean_psnr_db(tile, decoder.decode(frames))
        for tile, frames in zip(tiles, fly(steps, coder, tiles), strict=True)
    ]

    assert found[1:] == pytest.approx([psnr] * 3, abs=0.5)


def test_a_tile_of_several_patches_is_met_as_a_whole() -> None:
    """Fill, patches of several sizes, one of them with nothing in it."""
    tiles = [
        cubes.tile(bands=12, rows=140, cols=300, noise_dn=30.0, nodata=-1.0, fill_pixels=0.45,
                   sequence=i)
        for i in range(4)
    ]  # fmt: skip
    coder = encoder()
    steps = StepControl(coder, Target(kind="rate", value=0.5))
    found = [bpppc(t, f) for t, f in zip(tiles, fly(steps, coder, tiles), strict=True)]

    assert found[1:] == pytest.approx([0.5] * 3, rel=0.2)


def test_what_the_encoder_really_makes_corrects_the_estimate() -> None:
    """Where frames take half as much again as expected, steps grow until the rate is met."""
    coder, tiles = encoder(), stream(SALTON, 12)
    steps = StepControl(coder, Target(kind="rate", value=0.3))
    found = []
    for tile in tiles:
        opened = steps.open(tile)
        sizes = [1.5 * len(raw) for raw in coder.encode_batch(opened.job.patches)]
        for patch, expected, size in zip(
            opened.job.patches, opened.expected_bytes, sizes, strict=True
        ):
            steps.learn(patch, expected, round(size))
        samples = int(np.count_nonzero(tile.valid()))
        found.append(8 * (len(opened.job.side_frame) + sum(sizes)) / samples)

    assert found[0] > 1.25 * 0.3
    assert np.mean(found[6:]) == pytest.approx(0.3, rel=0.08)


def test_a_tile_like_the_last_is_opened_once() -> None:
    """Fitting a tile takes a third of its time on board: it is repeated only for a reason."""
    opened = 0

    @contextmanager
    def timer(stage: str) -> Iterator[None]:
        nonlocal opened
        opened += stage == "condition"
        yield

    coder = Encoder(all_components(), backend="torch-cpu", timer=timer)
    steps = StepControl(coder, Target(kind="psnr", value=55.0))
    tile = stream(SALTON, 1)[0]
    steps.open(tile)
    steps.open(tile)
    opened = 0
    steps.open(tile)

    assert opened == 1


def test_instruments_do_not_disturb_each_other() -> None:
    """Each has its own step, though their tiles take turns; a few are remembered."""
    coder = encoder()
    steps = StepControl(coder, Target(kind="rate", value=0.3))
    dark, bright = (
        cubes.tile(bands=12, rows=64, cols=64, mean_dn=mean, noise_dn=noise, sensor=name)
        for mean, noise, name in ((300.0, 3.0, "dark"), (6000.0, 90.0, "bright"))
    )
    for _ in range(3):
        found = [steps.open(tile).job.patches[0].conditioning.component_unit
                 for tile in (dark, bright)]  # fmt: skip
    assert found[1] > 4 * found[0]
    for i in range(100):
        steps.open(cubes.tile(bands=3, rows=8, cols=8, sensor=f"sensor {i}"))
    assert len(steps._instruments) <= 16


@pytest.mark.parametrize(("kind", "value"), [("rate", 2.0), ("psnr", 70.0)])
def test_what_is_out_of_reach_comes_as_near_as_it_can(kind: str, value: float) -> None:
    """A constant tile and one of fill pass; a tile of few components does not waste its bits."""
    coder = encoder(klt_bundle(step=192.0, components=6))
    steps = StepControl(coder, Target(kind=kind, value=value))  # type: ignore[arg-type]  # one of two
    flat = Tile(samples=np.full((5, 40, 24), 500, dtype=np.int16), info=TileInfo())
    fill = Tile(samples=np.full((5, 40, 24), -1, dtype=np.int16), info=TileInfo(nodata=-1.0))
    scene = stream(SALTON, 1)[0]
    *_, last = fly(steps, coder, [flat, fill, scene, scene, scene, flat, scene])

    if kind == "psnr":
        best = mean_psnr_db(scene, Decoder(coder.bundle).decode(coder.encode(scene, 1.0)))
        assert mean_psnr_db(scene, Decoder(coder.bundle).decode(last)) > best - 1.0
        assert bpppc(scene, last) < 0.7 * bpppc(scene, coder.encode(scene, 1.0))


def test_a_step_too_fine_for_the_next_tile_loses_it_not() -> None:
    """An instrument that suddenly sees far more light is still coded."""
    steps = StepControl(encoder(), Target(kind="rate", value=16.0))
    dim = cubes.tile(bands=4, dtype="float32", mean_dn=100.0, noise_dn=1.0)
    bright = cubes.tile(bands=4, dtype="float32", mean_dn=3e6, noise_dn=300.0)
    for _ in range(3):
        fine = steps.open(dim).job.patches[0].conditioning.component_unit
    with pytest.raises(TileError, match="too large"):
        encoder().open(bright, fine)

    assert isinstance(parse(steps.open(bright).job.side_frame), SideFrame)


def test_without_a_target_every_tile_has_the_encoders_step() -> None:
    """And nobody looks at it."""
    coder = encoder()
    opened = StepControl(coder).open(cubes.tile(rows=130))
    assert opened.job.side_frame == coder.open(cubes.tile(rows=130)).side_frame
    assert opened.expected_bytes == (None, None)


def test_a_model_that_cannot_be_estimated_takes_no_target() -> None:
    """It is said at the start, not with the first tile."""
    with pytest.raises(BundleError, match="no shortcut"):
        StepControl(encoder(minmax_bundle(5)), Target(kind="rate", value=0.1))


def test_a_target_takes_no_larger_steps() -> None:
    """Hurried as it may be, a tile with a target keeps to it: speed 3 is for steps alone."""
    coder = encoder()
    tile = cubes.tile(bands=6, rows=24, cols=24)
    plain = StepControl(coder).open(tile, FASTEST).job.side_frame
    assert plain == coder.open(tile, coder.step * math.sqrt(2), speed=FASTEST - 1).side_frame
    target = Target(kind="psnr", value=45.0)
    hurried = StepControl(coder, target).open(tile, FASTEST).job.side_frame
    assert hurried == StepControl(coder, target).open(tile, FASTEST - 1).job.side_frame
