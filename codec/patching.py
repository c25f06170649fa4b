"""`split` and `join`: arrays over a tile ↔ arrays over its patches, each other's inverse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileError
from codec.patch_grid import PatchGrid

T = TypeVar("T", bound=np.generic)


def split(samples: NDArray[T], grid: PatchGrid) -> list[NDArray[T]]:
    """Cut the last two axes into patches.

    Args:
        samples: Shape (..., tile_rows, tile_cols).
        grid: Where the patches sit.

    Returns:
        One view per patch in the grid's order, of the pixels that exist.

    Raises:
        TileError: If the array does not have the grid's extent.
    """
    if samples.shape[-2:] != (grid.tile_rows, grid.tile_cols):
        raise TileError(f"{samples.shape} is no array over {grid.tile_rows}×{grid.tile_cols} px")
    return [samples[(..., *grid.extent(row, col).slices)] for row, col in grid]


def join(patches: Iterable[NDArray[T]], grid: PatchGrid) -> NDArray[T]:
    """Put patches back in the grid's order; inverse of `split`.

    Returns:
        Shape (..., tile_rows, tile_cols), new.

    Raises:
        TileError: If a patch is missing, too many, or not of its extent's shape.
    """
    patches = list(patches)
    if len(patches) != len(grid):
        raise TileError(f"{len(patches)} patches for a grid of {len(grid)}")
    lead = patches[0].shape[:-2]
    joined = np.empty((*lead, grid.tile_rows, grid.tile_cols), dtype=patches[0].dtype)
    for (row, col), patch in zip(grid, patches, strict=True):
        extent = grid.extent(row, col)
        if patch.shape != (*lead, *extent.shape):
            raise TileError(f"patch ({row}, {col}) is {patch.shape}, not {(*lead, *extent.shape)}")
        joined[(..., *extent.slices)] = patch
    return joined
