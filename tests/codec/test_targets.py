"""A tile is brought to the rate or the quality that was asked for, or the error says how near."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import TileError
from codec.frame import SideFrame, parse
from codec.quality import measure
from codec.targets import CodedTile, StepRange, Target, code, mean_psnr_db, search
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from fakes import cubes
from fakes.bundles import klt_bundle, minmax_bundle

DATA = Path(__file__).resolve().parents[1] / "data"
WATER, SALTON = DATA / "hyspecnet-11k", DATA / "aviris_salton_sea.npz"


def all_components() -> Bundle:
    """The linear codec, free to send every component a tile has."""
    return klt_bundle(step=192.0, components=512)


@cache
def scene(path: Path) -> Tile:
    """A real scene."""
    return read_tile(find_scenes(path)[0])


def coded(tile: Tile, kind: str, value: float, bundle: Bundle | None = None) -> CodedTile:
    """Bring a tile to a target."""
    bundle = bundle or all_components()
    encoder = Encoder(bundle, backend="torch-cpu")
    target = Target(kind=kind, value=value)  # type: ignore[arg-type]  # one of two
    return code(encoder, tile, target, Decoder(bundle) if kind == "psnr" else None)


def constant(value: int = 500, **info: float) -> Tile:
    """A tile of one value."""
    return Tile(samples=np.full((5, 40, 24), value, dtype=np.int16), info=TileInfo(**info))  # type: ignore[arg-type]  # floats


# ---------------------------------------------------------------- what is met


@pytest.mark.parametrize("path", [WATER, SALTON], ids=["water", "salton"])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 2.0])
def test_one_bundle_meets_any_rate(path: Path, rate: float) -> None:
    """From 0.02 to 2 bits per valid sample within 5 %, every byte of every frame counted."""
    tile = scene(path)
    made = coded(tile, "rate", rate)
    bits = 8 * sum(map(len, made.frames))

    assert bits / np.count_nonzero(tile.valid()) == pytest.approx(rate, rel=0.05)
    assert made.bpppc == bits / np.count_nonzero(tile.valid())


@pytest.mark.parametrize(
    ("path", "psnr"), [(WATER, 56.0), (WATER, 75.0), (SALTON, 40.0), (SALTON, 55.0), (SALTON, 75.0)]
)
def test_one_bundle_meets_any_quality(path: Path, psnr: float) -> None:
    """Within 0.3 dB of what decoding the frames gives, over valid samples."""
    tile = scene(path)
    made = coded(tile, "psnr", psnr)
    restored = Decoder(all_components()).decode(made.frames)

    assert measure(tile, restored).psnr_db == pytest.approx(psnr, abs=0.3)
    assert made.psnr_db == pytest.approx(measure(tile, restored).psnr_db)


def test_the_step_that_was_found_is_the_one_that_travels() -> None:
    """Encoding at it again gives the same frames; they say it."""
    made = coded(scene(SALTON), "rate", 0.3)
    side = parse(made.frames[0])

    assert Encoder(all_components(), backend="torch-cpu").encode(scene(SALTON), made.step) == list(
        made.frames
    )
    assert isinstance(side, SideFrame)
    assert side.step == np.float32(made.step)


@pytest.mark.parametrize(("kind", "value"), [("rate", 0.5), ("psnr", 58.0)])
def test_a_tile_of_several_patches_is_met_as_a_whole(kind: str, value: float) -> None:
    """All its frames count to its rate; its quality is that of its patches, averaged."""
    tile = cubes.tile(bands=12, rows=140, cols=150, noise_dn=30.0, nodata=-1.0, fill_pixels=0.1)
    made = coded(tile, kind, value)
    assert len(made.frames) == 1 + 4
    if kind == "rate":
        assert made.bpppc == pytest.approx(value, rel=0.05)
        return
    restored = Decoder(all_components()).decode(made.frames)
    corners = [
        np.s_[:, r, c] for r in (np.s_[:128], np.s_[128:]) for c in (np.s_[:128], np.s_[128:])
    ]
    parts = [
        measure(
            *(replace(t, samples=np.ascontiguousarray(t.samples[at])) for t in (tile, restored))
        )
        for at in corners
    ]
    assert np.mean([part.psnr_db for part in parts]) == pytest.approx(value, abs=0.3)


def test_the_papers_codec_meets_a_rate_too() -> None:
    """Its steps are of another kind; they are looked for about its own."""
    tile = cubes.tile(bands=5, rows=64, cols=64)
    assert coded(tile, "rate", 0.5, minmax_bundle(5)).bpppc == pytest.approx(0.5, rel=0.05)


# ---------------------------------------------------------------- what cannot be met


def test_what_needs_fewer_bits_takes_fewer() -> None:
    """A constant tile has nothing to spend a rate on, and is no error; nor is one of fill."""
    for tile in (constant(), constant(-1, nodata=-1.0)):
        made = coded(tile, "rate", 2.0)
        assert made.size_bytes < 300
    assert np.array_equal(Decoder(all_components()).decode(made.frames).samples, tile.samples)


def test_what_is_better_at_any_step_stays_better() -> None:
    """Where a jump leaves out the quality asked for, the better side of it is taken."""
    made = coded(constant(), "psnr", 55.0)
    assert made.psnr_db is not None
    assert made.psnr_db > 55.0 - 0.3


@pytest.mark.parametrize(("kind", "value"), [("rate", 0.0005), ("psnr", 75.0)])
def test_what_is_out_of_reach_is_an_error_with_the_nearest(kind: str, value: float) -> None:
    """More bits, or a worse quality, than asked for: one line says what can be had, and where."""
    few = klt_bundle(step=192.0, components=6)
    with pytest.raises(
        TileError, match=rf"^{value:g} \S.* is out of reach; the nearest is"
    ) as said:
        coded(scene(SALTON), kind, value, few)
    nearest, step = (
        float(x) for x in str(said.value).split("nearest is ")[1].split(", at a step of ")
    )
    again = Encoder(few, backend="torch-cpu").encode(scene(SALTON), step)
    if kind == "rate":
        bits = 8 * sum(map(len, again)) / np.count_nonzero(scene(SALTON).valid())
        assert bits == pytest.approx(nearest, rel=0.01)
    else:
        quality = mean_psnr_db(scene(SALTON), Decoder(few).decode(again))
        assert quality == pytest.approx(nearest, abs=0.05)


def test_steps_too_fine_for_a_tile_are_passed_over() -> None:
    """Samples far above reflectance 1 cannot be coded at the finest steps, only at others."""
    bright = cubes.tile(bands=4, dtype="float32", mean_dn=3e6, noise_dn=300.0)
    made = coded(bright, "rate", 30.0)

    assert made.bpppc < 30.0
    with pytest.raises(TileError, match="too large"):
        Encoder(all_components(), backend="torch-cpu").encode(bright, made.step / 4)


def test_a_tile_that_no_step_suits_says_why() -> None:
    """The reason is the tile's, not the target's."""
    with pytest.raises(TileError, match="takes 5 bands, the tile has 6"):
        coded(cubes.tile(bands=6), "rate", 0.5, minmax_bundle(5))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_target_is_a_positive_number(value: float) -> None:
    """And of one of two kinds."""
    with pytest.raises(TileError, match="must be positive"):
        Target(kind="rate", value=value)
    with pytest.raises(TileError, match="a rate or a psnr"):
        Target(kind="step", value=1.0)  # type: ignore[arg-type]  # what is tested


def test_a_quality_is_not_guessed() -> None:
    """Without a decoder it cannot be measured."""
    with pytest.raises(ValueError, match="decoder"):
        code(
            Encoder(all_components(), backend="torch-cpu"),
            cubes.tile(),
            Target(kind="psnr", value=50.0),
        )


# ---------------------------------------------------------------- the parts


def test_without_a_target_the_step_is_the_encoders() -> None:
    """Then nothing is searched, and nothing decoded."""
    encoder = Encoder(all_components(), step=70.0, backend="torch-cpu")
    made = code(encoder, cubes.tile())
    assert (made.step, made.psnr_db) == (70.0, None)
    assert list(made.frames) == encoder.encode(cubes.tile())


def test_patches_without_error_stay_out_of_the_mean() -> None:
    """They have no PSNR; with them in it the mean of all others would not count."""
    tile = cubes.tile(bands=3, rows=20, cols=140)
    off = tile.samples.copy()
    off[:, :, 128:] += 10
    assert mean_psnr_db(tile, replace(tile, samples=off)) == pytest.approx(60.0)
    assert mean_psnr_db(tile, tile) == math.inf
    empty = constant(-1, nodata=-1.0)
    assert math.isnan(mean_psnr_db(empty, empty))


@pytest.mark.parametrize("first", [0.5, 100.0, 1e6])
def test_the_search_finds_a_steep_and_a_bent_curve(first: float) -> None:
    """From any side, in few steps, as every step is an encoding."""
    for curve in (lambda x: 9 - x, lambda x: 40 / (x + 4) - 5, lambda x: 0.2 * (9 - x)):
        seen: list[float] = []

        def excess(step: float, curve=curve, seen=seen) -> float:  # type: ignore[no-untyped-def]
            seen.append(curve(math.log2(step)))
            return seen[-1]

        search(excess, first, StepRange(finest=-2, coarsest=20), close=0.01, most_trials=24)
        assert abs(seen[-1]) <= 0.01
        assert len(seen) <= 12


def test_the_search_ends_at_jumps_and_ends() -> None:
    """Where nothing is close: on either side of the jump, or at the end that is nearest."""
    steps = StepRange(finest=-2, coarsest=20)

    def found(curve) -> float:  # type: ignore[no-untyped-def]
        step = search(lambda step: curve(math.log2(step)), 100.0, steps, close=0.01, most_trials=40)
        return math.log2(step)

    assert found(lambda x: 1.0 if x < 3 else -1.0) == pytest.approx(3, abs=1 / 32)
    assert found(lambda x: math.inf if x < 3 else -1.0) == pytest.approx(3, abs=1 / 32)
    assert found(lambda _: 1.0) == 20
    assert found(lambda _: -1.0) == -2
