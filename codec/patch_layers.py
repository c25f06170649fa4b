"""What is known of restored samples beside these: what came, and how finely, by patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileError
from codec.patch_grid import PatchGrid, PatchLattice
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

    grid: PatchGrid | PatchLattice
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
        lengths = map(np.diff, (self.grid.row_edges, self.grid.col_edges))
        rows, cols = (np.repeat(np.arange(len(n)), n) for n in lengths)
        return self.received[np.ix_(rows, cols)]

    def valid(self, tile: Tile, lines: slice = slice(None)) -> NDArray[np.bool_]:
        """Mark the samples that came and were measured.

        Without them a tile that has no fill value of its own could not tell a hole from samples.

        Args:
            tile: Of the grid's size.
            lines: Which of its rows.

        Returns:
            Shape (bands, rows, cols).

        Raises:
            TileError: If the tile is not of the grid's size.
        """
        shape = self.grid.row_edges[-1], self.grid.col_edges[-1]
        if tile.samples.shape[1:] != shape:
            raise TileError(f"a tile of {tile.samples.shape} on a grid of {shape} px")
        part = Tile(samples=tile.samples[:, lines], info=tile.info)
        valid: NDArray[np.bool_] = part.valid() & self.received_pixels()[lines]
        return valid
