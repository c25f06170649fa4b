"""Rules of `codec.patching`: patches are where the grid says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.errors import TileError
from codec.patch_grid import PatchGrid
from codec.patching import split

GRID = PatchGrid(tile_rows=9, tile_cols=17, patch_px=8)


def image(rows: int, cols: int, bands: int = 2) -> NDArray[Any]:
    """Samples that are all different."""
    return np.arange(bands * rows * cols, dtype=np.int32).reshape(bands, rows, cols)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16]))
def test_patches_make_the_tile(rows: int, cols: int, patch_px: int) -> None:
    """Each put in its place gives the same samples, whatever the tile's size."""
    grid = PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=patch_px)
    again = np.zeros_like(image(rows, cols))
    for (row, col), patch in zip(grid, split(image(rows, cols), grid), strict=True):
        again[:, *grid.extent(row, col).slices] += patch
    assert np.array_equal(again, image(rows, cols))


def test_splitting_copies_nothing() -> None:
    """Patches are views: cutting a large tile takes no memory."""
    samples = image(9, 17)
    assert all(np.shares_memory(samples, patch) for patch in split(samples, GRID))


def test_another_extent_is_refused() -> None:
    """A grid cuts arrays of its own extent only."""
    with pytest.raises(TileError, match="9×17 px"):
        split(image(17, 9), GRID)
