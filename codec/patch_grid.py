"""Where the patches of a tile sit, and those of tiles side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from codec.errors import TileError

PATCH_PX: Final = 128
"""Edge of a patch [px]: HySpecNet-11k's, and one eighth of it is SSCNet's 16×16 bottleneck."""

LATENT_PX: Final = 8
"""Edge of the square of pixels behind one latent position: SSCNet halves three times [px]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchExtent:
    """The pixels of one patch that exist: half-open ranges of the tile's rows and columns."""

    row_start: int
    row_stop: int
    col_start: int
    col_stop: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the patch in the last two axes of the tile."""
        return slice(self.row_start, self.row_stop), slice(self.col_start, self.col_stop)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels that exist, (rows, cols)."""
        return self.row_stop - self.row_start, self.col_stop - self.col_start


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGrid:
    """A tile cut into square patches, counted row by row.

    Patches at the bottom and right edge are smaller; every pixel of the tile belongs to exactly
    one patch.

    Attributes:
        tile_rows: Height of the tile [px], along track.
        tile_cols: Width of the tile [px], across track.
        patch_px: Edge of a whole patch [px], a multiple of `LATENT_PX`.

    Raises:
        TileError: If a length is not positive, or `patch_px` not a multiple of `LATENT_PX`.
    """

    tile_rows: int
    tile_cols: int
    patch_px: int = PATCH_PX

    def __post_init__(self) -> None:
        for name in ("tile_rows", "tile_cols", "patch_px"):
            if (value := getattr(self, name)) <= 0:
                raise TileError(f"{name} must be positive, got {value}")
        if self.patch_px % LATENT_PX:
            raise TileError(f"patch_px must be a multiple of {LATENT_PX}, got {self.patch_px}")

    @property
    def shape(self) -> tuple[int, int]:
        """Patches along (rows, cols), the smaller ones at the edges included."""
        return -(-self.tile_rows // self.patch_px), -(-self.tile_cols // self.patch_px)

    @property
    def row_edges(self) -> tuple[int, ...]:
        """First line of each row of patches, then the height of the tile [px]."""
        return *range(0, self.tile_rows, self.patch_px), self.tile_rows

    @property
    def col_edges(self) -> tuple[int, ...]:
        """First pixel of each column of patches, then the width of the tile [px]."""
        return *range(0, self.tile_cols, self.patch_px), self.tile_cols

    def __len__(self) -> int:
        rows, cols = self.shape
        return rows * cols

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (patch_row, patch_col), row by row."""
        rows, cols = self.shape
        return ((row, col) for row in range(rows) for col in range(cols))

    def extent(self, patch_row: int, patch_col: int) -> PatchExtent:
        """Return the pixels of one patch.

        Raises:
            TileError: If the grid has no such patch.
        """
        rows, cols = self.shape
        if not (0 <= patch_row < rows and 0 <= patch_col < cols):
            raise TileError(f"no patch ({patch_row}, {patch_col}) in a grid of {rows}×{cols}")
        row_start, col_start = patch_row * self.patch_px, patch_col * self.patch_px
        return PatchExtent(
            row_start=row_start,
            row_stop=min(row_start + self.patch_px, self.tile_rows),
            col_start=col_start,
            col_stop=min(col_start + self.patch_px, self.tile_cols),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLattice:
    """Patches of tiles side by side: where a tile ends, its last patches are smaller.

    Attributes:
        row_edges: First line of each row of patches, then the height of all [px].
        col_edges: First pixel of each column of patches, then the width of all [px].
        patch_px: Edge of a whole patch [px].

    Raises:
        TileError: If edges do not ascend from zero.
    """

    row_edges: tuple[int, ...]
    col_edges: tuple[int, ...]
    patch_px: int = PATCH_PX

    def __post_init__(self) -> None:
        for name in ("row_edges", "col_edges"):
            edges = getattr(self, name)
            if len(edges) < 2 or edges[0] or any(a >= b for a, b in pairwise(edges)):
                raise TileError(f"{name} must ascend from 0")

    @property
    def shape(self) -> tuple[int, int]:
        """Patches along (rows, cols)."""
        return len(self.row_edges) - 1, len(self.col_edges) - 1
