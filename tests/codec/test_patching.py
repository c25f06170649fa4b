"""Rules of `codec.patching`: what is split is what is joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.errors import TileError
from codec.patch_grid import PatchGrid
from codec.patching import join, split

GRID = PatchGrid(tile_rows=9, tile_cols=17, patch_px=8)


def image(rows: int, cols: int, bands: int = 2) -> NDArray[Any]:
    """Samples that are all different."""
    return np.arange(bands * rows * cols, dtype=np.int32).reshape(bands, rows, cols)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16]))
def test_join_undoes_split(rows: int, cols: int, patch_px: int) -> None:
    """Splitting and joining gives the same samples, whatever the tile's size."""
    grid = PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=patch_px)
    patches = split(image(rows, cols), grid)
    assert len(patches) == len(grid)
    assert np.array_equal(join(patches, grid), image(rows, cols))


def test_splitting_copies_nothing() -> None:
    """Patches are views: cutting a large tile takes no memory."""
    samples = image(9, 17)
    assert all(np.shares_memory(samples, patch) for patch in split(samples, GRID))


def test_another_extent_is_refused() -> None:
    """A grid cuts arrays of its own extent only."""
    with pytest.raises(TileError, match="9×17 px"):
        split(image(17, 9), GRID)


def test_a_missing_patch_is_refused() -> None:
    """A tile with a hole is not joined in silence."""
    with pytest.raises(TileError, match="5 patches for a grid of 6"):
        join(split(image(9, 17), GRID)[1:], GRID)


def test_a_patch_of_another_shape_is_refused() -> None:
    """A patch that would be broadcast over its place is refused."""
    patches = split(image(9, 17), GRID)
    patches[2] = patches[2][:, :, :1][:, :1]
    with pytest.raises(TileError, match=r"patch \(0, 2\)"):
        join(patches, GRID)
