"""Tiles of which patches are missing, as the ground restores them."""

from __future__ import annotations

import numpy as np

from codec.patch_grid import PatchGrid
from codec.patch_layers import PatchLayers
from codec.tile import Tile, fill_value


def with_holes(tile: Tile, *missing: tuple[int, int]) -> tuple[Tile, PatchLayers]:
    """The tile with fill where these patches are, and layers that say so."""
    _, rows, cols = tile.samples.shape
    grid = PatchGrid(tile_rows=rows, tile_cols=cols)
    samples, received = tile.samples.copy(), np.ones(grid.shape, dtype=np.bool_)
    for row, col in missing:
        received[row, col] = False
        extent = grid.extent(row, col).slices
        samples[(slice(None), *extent)] = fill_value(samples.dtype, tile.info.nodata)
    layers = PatchLayers(
        grid=grid,
        received=received,
        step=np.where(received, np.float32(32), np.float32(np.nan)),
        psnr_db=np.full(grid.shape, np.nan, dtype=np.float32),
        model="ab",
    )
    return Tile(samples=samples, info=tile.info), layers
