"""Rules of `codec.subbands`: as many coefficients as pixels, each in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.shortcut import CHANNELS, Wavelet
from codec.subbands import SUBBANDS, to_images, to_symbols

EDGES = st.integers(1, 40)


def numbered(count: int, rows: int, cols: int) -> NDArray[np.int32]:
    """Latents of `count` components, all different and none zero."""
    shape = count * CHANNELS, -(-rows // 8), -(-cols // 8)
    return np.arange(1, 1 + np.prod(shape), dtype=np.int32).reshape(shape)


def test_the_order_is_frozen() -> None:
    """Parents before children; HL, LH, HH of each level: decoders everywhere count on it."""
    details = ((False, True), (True, False), (True, True))
    named = [(b.level, b.high_rows, b.high_cols) for b in SUBBANDS]
    assert named == [
        (5, False, False),
        *((level, *detail) for level in (5, 4, 3, 2, 1) for detail in details),
    ]
    channels = [(b.channels.start, b.channels.stop) for b in SUBBANDS]
    assert channels[:7] == [(0, 1)] * 7
    assert channels[7:10] == [(1, 2), (2, 3), (3, 4)]
    assert channels[10:13] == [(4, 8), (8, 12), (12, 16)]
    assert channels[13:] == [(16, 32), (32, 48), (48, 64)]


def test_a_subband_lies_in_one_group() -> None:
    """All channels of a subband are of one group of the scale model: its first tells its scale."""
    for band in SUBBANDS:
        assert len(set(Wavelet.GROUPS[band.channels])) == 1


@given(EDGES, EDGES)
def test_as_many_coefficients_as_pixels(rows: int, cols: int) -> None:
    """No size of a patch costs a coefficient more than it has pixels."""
    shapes = [band.shape(rows, cols) for band in SUBBANDS]
    assert sum(height * width for height, width in shapes) == rows * cols


@given(st.integers(0, 3), EDGES, EDGES)
def test_there_and_back(count: int, rows: int, cols: int) -> None:
    """Images give back every symbol of the patch; what lies beyond is zero, and twice is once."""
    symbols = numbered(count, rows, cols)
    images = to_images(symbols, rows, cols)
    assert [image.shape for image in images] == [(count, *b.shape(rows, cols)) for b in SUBBANDS]
    again = to_symbols(images, rows, cols)
    kept = again != 0
    assert again.dtype == symbols.dtype
    assert kept.sum() == count * rows * cols
    assert np.array_equal(again[kept], symbols[kept])
    for image, twice in zip(images, to_images(again, rows, cols), strict=True):
        assert np.array_equal(image, twice)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 40), (8, 16), (13, 9), (33, 1), (37, 22)])
def test_the_wavelet_fills_nothing_else(rows: int, cols: int) -> None:
    """Every coefficient the transform makes is coded: what is left out was zero."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 2, rows, cols, generator=generator) * 1000
    latents = (Wavelet.forward(pixels)[0].numpy() * 1000).astype(np.int32)
    assert np.array_equal(to_symbols(to_images(latents, rows, cols), rows, cols), latents)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("down", "across"), [(False, True), (True, False), (True, True)])
def test_a_place_is_a_place(level: int, down: bool, across: bool) -> None:
    """A spot in the picture is large at its own place of each subband image, at every level."""
    pixels = torch.zeros(1, 1, 64, 64)
    pixels[..., 40, 16] = 1000.0
    images = to_images(Wavelet.forward(pixels)[0].numpy().astype(np.int32), 64, 64)
    (band,) = [
        i
        for i, b in enumerate(SUBBANDS)
        if (b.level, b.high_rows, b.high_cols) == (level, down, across)
    ]
    row, col = np.unravel_index(np.abs(images[band][0]).argmax(), images[band].shape[1:])
    assert abs((row + 0.5 * down) * 2**level - 40) <= 2**level
    assert abs((col + 0.5 * across) * 2**level - 16) <= 2**level
