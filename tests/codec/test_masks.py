"""Rules of `codec.masks`: which samples are valid comes back exactly."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from codec import masks
from codec.errors import BitstreamError
from codec.tile import Tile, TileInfo

SHAPE = (5, 9, 11)
RNG = np.random.default_rng(0)
SCATTERED = RNG.random(SHAPE) > 0.1
PIXELS = np.broadcast_to(RNG.random((1, 9, 11)) > 0.3, SHAPE)


@given(arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_round_trip(valid: NDArray[Any]) -> None:
    """Any pattern of any shape comes back; None stands for "all"."""
    again = masks.unpack(masks.pack(valid), valid.shape)
    assert valid.all() if again is None else np.array_equal(again, valid)


def test_all_valid_costs_nothing() -> None:
    """Most patches have no fill, and pay no byte for it."""
    assert masks.pack(np.ones(SHAPE, dtype=np.bool_)) == b""
    assert masks.unpack(b"", SHAPE) is None


def test_no_band_is_all_valid() -> None:
    """A patch of a tile without any valid band has nothing to describe."""
    assert masks.pack(np.ones((0, 9, 11), dtype=np.bool_)) == b""


@pytest.mark.parametrize(
    ("valid", "kind"), [pytest.param(PIXELS, b"P", id="P"), pytest.param(SCATTERED, b"S", id="S")]
)
def test_the_kind_fits_the_pattern(valid: NDArray[Any], kind: bytes) -> None:
    """Whole pixels take one bit each, single samples one bit per sample."""
    packed = masks.pack(valid)
    assert packed[:1] == kind
    bits = valid[:1] if kind == b"P" else valid
    assert zlib.decompress(packed[1:]) == np.packbits(bits).tobytes()


@pytest.mark.parametrize("valid", [PIXELS, SCATTERED])
def test_any_cut_is_reported(valid: NDArray[Any]) -> None:
    """A mask cut anywhere but before its first byte is an error, never a mask of zeros."""
    packed = masks.pack(valid)
    for length in range(1, len(packed)):
        with pytest.raises(BitstreamError):
            masks.unpack(packed[:length], SHAPE)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"X", id="unknown kind"),
        pytest.param(b"P" + b"\x00" * 9, id="not deflated"),
        pytest.param(b"P" + zlib.compress(b"\x00" * 12), id="too short"),
        pytest.param(b"P" + zlib.compress(b"\x00" * 14), id="too long"),
        pytest.param(b"S" + zlib.compress(b"\x00" * 10_000_000, 9), id="a bomb"),
        pytest.param(masks.pack(PIXELS) + b"\x00", id="something behind"),
    ],
)
def test_damaged_masks_are_refused(packed: bytes) -> None:
    """Bytes that are no mask of this shape are an error before they are memory."""
    with pytest.raises(BitstreamError):
        masks.unpack(packed, SHAPE)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("fill", ["none", "a band", "all", "a sample", "a band and a sample"])
def test_validity_is_found(dtype: str, fill: str) -> None:
    """Whole bands of fill are left out; a mask is made only where it says something."""
    samples = np.ones((4, 6, 5), dtype)
    if "all" in fill:
        samples[:] = 7
    if "a band" in fill:
        samples[2] = 7
    if "a sample" in fill:
        samples[0, 1, 2] = 7
    tile = Tile(samples=samples, info=TileInfo(sensor="x", nodata=7))
    bands, valid = masks.validity(tile)
    assert bands.tolist() == [(samples[band] != 7).any() for band in range(4)]
    if "a sample" not in fill:
        assert valid is None
    else:
        assert valid is not None
        assert np.array_equal(valid, samples[bands] != 7)


def test_without_a_fill_value_all_integers_are_valid() -> None:
    """There is nothing that stands for a missing sample."""
    tile = Tile(samples=np.zeros((2, 3, 3), np.int16), info=TileInfo(sensor="x"))
    bands, valid = masks.validity(tile)
    assert bands.all()
    assert valid is None
