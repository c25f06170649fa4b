"""Samples in memory: the very ones, bounded, cut as they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from codec.decoded_patch import DecodedPatch
from daemon.ground.web.kept_samples import MISSING, PRESENT, KeptSamples, TileSamples
from fakes import cubes
from fakes.ground import decoder, frames, parts_of
from fakes.web import restored

TILE = cubes.tile(bands=3, rows=260, cols=150, sequence=7, nodata=-7.0, fill_samples=0.01)
PARTS = parts_of(TILE)
WHOLE = decoder().decode(frame.raw for frame in frames(TILE))
ID = TILE.info.tile_id.hex()
BYTES = TILE.samples.nbytes


def kept(max_bytes: int = 1 << 24) -> KeptSamples:
    """With the whole tile, part by part."""
    samples = KeptSamples(max_bytes)
    for part in PARTS:
        samples.part(part)
    return samples


def of(samples: KeptSamples, tile_id: str = ID) -> TileSamples:
    """Those of a tile."""
    found = samples.get(tile_id)
    assert found is not None
    return found


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 64])
def test_bands_are_the_samples(stride: int) -> None:
    """In the order they were asked for, every so many pixels, from patches or from a tile."""
    closed = kept()
    closed.closed(restored(WHOLE, parts=PARTS))
    expected = WHOLE.samples[[2, 0, 2], ::stride, ::stride]
    for samples in (kept(), closed):
        present, cut = of(samples).bands((2, 0, 2), stride)
        assert present == bytes([PRESENT]) * 6
        assert cut.dtype == np.dtype("<i2")
        np.testing.assert_array_equal(cut, expected)


@pytest.mark.parametrize("stride", [1, 5])
def test_what_has_not_come_is_zero_and_marked(stride: int) -> None:
    """One byte for each patch says which."""
    samples = KeptSamples(1 << 24)
    for part in PARTS[:3]:
        samples.part(part)
    present, cut = of(samples).bands((0, 1, 2), stride)

    assert present == bytes([PRESENT, PRESENT, MISSING, MISSING, MISSING, MISSING])
    rows = -(-128 // stride)
    np.testing.assert_array_equal(cut[:, :rows], WHOLE.samples[:, :128:stride, ::stride])
    assert not cut[:, rows:].any()
    assert of(samples).pixel(128, 0) is None


def test_a_pixel_is_the_files() -> None:
    """Every band, fill as nothing."""
    samples = of(kept())
    for row, col in [(0, 0), (127, 149), (128, 128), (259, 149), (17, 33)]:
        values = samples.pixel(row, col)
        expected = WHOLE.samples[:, row, col]
        assert values == [None if v == -7 else int(v) for v in expected]
    assert any(None in (samples.pixel(0, col) or []) for col in range(150))


def test_floats_are_not_rounded() -> None:
    """A float32 is the same number in JSON; NaN and infinity are nothing."""
    tile = cubes.tile(bands=4, rows=8, cols=8, dtype="float32")
    tile.samples[1, 0, 0], tile.samples[2, 0, 0] = np.nan, np.inf
    samples = KeptSamples(1 << 20)
    samples.closed(restored(tile))
    assert of(samples, tile.info.tile_id.hex()).pixel(0, 0) == [
        float(tile.samples[0, 0, 0]), None, None, float(tile.samples[3, 0, 0]),
    ]  # fmt: skip


def test_nothing_is_copied() -> None:
    """What the mosaic holds is what is held here."""
    piece = of(kept()).pieces[0, 0]
    patch = PARTS[1].patch
    assert isinstance(patch, DecodedPatch)
    assert piece is patch.samples


def test_it_is_bounded() -> None:
    """By what is least lately used; a tile that is too large by itself is not kept."""
    samples = KeptSamples(2 * BYTES)
    tiles = [cubes.tile(bands=3, rows=260, cols=150, sequence=i) for i in range(4)]
    ids = [tile.info.tile_id.hex() for tile in tiles]
    for tile in tiles[:2]:
        samples.closed(restored(tile))
    assert samples.get(ids[0]) is not None
    samples.closed(restored(tiles[2]))
    assert [samples.get(one) is not None for one in ids] == [True, False, True, False]
    assert samples.bytes <= samples.max_bytes

    small = KeptSamples(BYTES // 2)
    for part in PARTS:
        small.part(part)
        assert small.bytes <= small.max_bytes
    small.closed(restored(WHOLE, parts=PARTS))
    assert small.bytes <= small.max_bytes


def test_what_goes_gives_its_room_back() -> None:
    """All of it, patches and whole tiles."""
    samples = kept()
    samples.closed(restored(WHOLE, parts=PARTS))
    assert samples.bytes == BYTES
    samples.drop(ID)
    samples.drop("never seen")
    assert (samples.bytes, samples.get(ID)) == (0, None)


def test_what_is_sent_anew_is_not_mixed() -> None:
    """Patches of the one before are gone, also if its end is told later."""
    samples = KeptSamples(1 << 24)
    for part in PARTS[:4]:
        samples.part(part)
    anew = parts_of(TILE)
    for part in anew[:2]:
        samples.part(part)
    samples.closed(restored(WHOLE, parts=PARTS))
    assert list(of(samples).pieces) == [(0, 0)]
    assert of(samples).pieces[0, 0] is anew[1].patch.samples  # type: ignore[union-attr]


def test_missing_patches_of_a_closed_tile_are_missing() -> None:
    """Their fill is not taken for samples."""
    samples = KeptSamples(1 << 24)
    samples.closed(restored(WHOLE, missing=((0, 1),), parts=PARTS))
    present, _ = of(samples).bands((0, 0, 0), 1)
    assert present == bytes([1, 0, 1, 1, 1, 1])
    assert of(samples).pixel(0, 128) is None


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -7.0), ("float32", None)])
def test_bands_that_hold_nothing_are_found(dtype: str, nodata: float | None) -> None:
    """In a tile that was read back."""
    tile = cubes.tile(bands=4, rows=9, cols=9, dtype=dtype, nodata=nodata, fill_bands=(1, 3))
    samples = TileSamples.of_tile(tile, 128)
    assert samples.valid_bands.tolist() == [True, False, True, False]
