"""What is known of a restored tile beside its samples: what came, and how finely, by patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileError
from codec.patch_grid import PatchGrid
from codec.tile import Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchLayers:
    """One value per patch, each array of the shape of the grid.

    Attributes:
        grid: Where the patches sit.
        received: Whether the patch came.
        step: Quantizer step [10⁻⁴ reflectance; min–max: latent units], NaN where nothing came.
        psnr_db: PSNR as measured on board [dB], NaN where it is not known.
        model: Name of the model that coded them.

    Raises:
        TileError: If an array is of another shape.
    """

    grid: PatchGrid
    received: NDArray[np.bool_]
    step: NDArray[np.float32]
    psnr_db: NDArray[np.float32]
    model: str

    def __post_init__(self) -> None:
        for name in ("received", "step", "psnr_db"):
            if (shape := getattr(self, name).shape) != self.grid.shape:
                raise TileError(f"{name} is of shape {shape}, the grid of {self.grid.shape}")

    def received_pixels(self) -> NDArray[np.bool_]:
        """Mark the pixels of patches that came, shape (rows, cols)."""
        rows, cols = (np.arange(n) // self.grid.patch_px for n in self._tile_shape)
        return self.received[np.ix_(rows, cols)]

    def valid(self, tile: Tile) -> NDArray[np.bool_]:
        """Mark the samples that came and were measured, shape (bands, rows, cols).

        Without them a tile that has no fill value of its own could not tell a hole from samples.

        Raises:
            TileError: If the tile is not of the grid's size.
        """
        if tile.samples.shape[1:] != self._tile_shape:
            raise TileError(f"a tile of {tile.samples.shape} on a grid of {self._tile_shape} px")
        valid: NDArray[np.bool_] = tile.valid() & self.received_pixels()
        return valid

    @property
    def _tile_shape(self) -> tuple[int, int]:
        return self.grid.tile_rows, self.grid.tile_cols
