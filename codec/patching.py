"""`split`: an array over a tile to arrays over its patches."""

from __future__ import annotations

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
