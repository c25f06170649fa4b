"""Samples in memory, of tiles that come in and of tiles read back: bounded by bytes.

Nothing is copied on the way in. Of an open tile these are the arrays that the mosaic holds, and of
a closed one the array that is written; what is not needed there any more is held here alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.frame import SideFrame
from codec.patch_grid import PatchGrid
from codec.tile import Samples, Tile, TileInfo
from daemon.ground.items import RestoredTile, TilePart

MISSING: Final = 0
"""In a map of patches: it has not come, or is not at hand."""
PRESENT: Final = 1

Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileSamples:
    """The samples of one tile that are at hand.

    Attributes:
        info: All about the tile but its samples.
        shape: (bands, rows, cols) of the tile.
        grid: Where its patches sit.
        valid_bands: Bands that hold anything, shape (bands,).
        dtype: Of the samples.
        pieces: Samples by (patch_row, patch_col), shape (bands, rows, cols) each.
        size_bytes: Memory that they take [bytes].
    """

    info: TileInfo
    shape: tuple[int, int, int]
    grid: PatchGrid
    valid_bands: NDArray[np.bool_]
    dtype: np.dtype[Any]
    pieces: Mapping[Place, Samples]
    size_bytes: int

    @classmethod
    def of_tile(
        cls,
        tile: Tile,
        patch_px: int,
        missing: frozenset[Place] = frozenset(),
        valid_bands: NDArray[np.bool_] | None = None,
    ) -> TileSamples:
        """All of a tile but for missing patches; views of its array.

        Args:
            tile: The tile.
            patch_px: Edge of its patches [px].
            missing: (patch_row, patch_col) of those that did not come.
            valid_bands: Bands that hold anything; None: looked for.
        """
        if valid_bands is None:
            valid_bands = np.array([_holds_any(band, tile.info.nodata) for band in tile.samples])
        _, rows, cols = tile.samples.shape
        grid = PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=patch_px)
        return cls(
            info=tile.info,
            shape=tile.samples.shape,
            grid=grid,
            valid_bands=valid_bands,
            dtype=tile.samples.dtype,
            pieces={
                place: tile.samples[(slice(None), *grid.extent(*place).slices)]
                for place in grid
                if place not in missing
            },
            size_bytes=tile.samples.nbytes,
        )

    def bands(self, bands: tuple[int, ...], stride: int) -> tuple[bytes, Samples]:
        """Cut some bands, every so many pixels.

        Returns:
            One byte for each patch, `PRESENT` or `MISSING`; and samples, little-endian, shape
            (bands, rows, cols), zero where patches are missing.
        """
        _, rows, cols = self.shape
        cut = np.zeros(
            (len(bands), -(-rows // stride), -(-cols // stride)), self.dtype.newbyteorder("<")
        )
        for place, piece in self.pieces.items():
            extent = self.grid.extent(*place)
            row, col = -extent.row_start % stride, -extent.col_start % stride
            height, width = piece[0, row::stride, col::stride].shape
            top, left = (extent.row_start + row) // stride, (extent.col_start + col) // stride
            for index, band in enumerate(bands):
                cut[index, top : top + height, left : left + width] = piece[
                    band, row::stride, col::stride
                ]
        return bytes(PRESENT if place in self.pieces else MISSING for place in self.grid), cut

    def pixel(self, row: int, col: int) -> list[float | None] | None:
        """The samples of a pixel, None for those that are fill; None: they are not at hand."""
        edge = self.grid.patch_px
        piece = self.pieces.get((row // edge, col // edge))
        if piece is None:
            return None
        values = piece[:, row % edge, col % edge]
        valid = Tile(samples=values[:, None, None], info=self.info).valid()[:, 0, 0]
        return [value.item() if ok else None for value, ok in zip(values, valid, strict=True)]


class _Open:
    """A tile that patches are still put into."""

    def __init__(self, side: SideFrame, sent_as: tuple[int, int]) -> None:
        self.side, self.sent_as = side, sent_as
        self.pieces: dict[Place, Samples] = {}
        self.size_bytes = 0

    def samples(self) -> TileSamples:
        return TileSamples(
            info=self.side.info,
            shape=self.side.shape,
            grid=self.side.grid,
            valid_bands=self.side.valid_bands,
            dtype=np.dtype(self.side.dtype),
            pieces=dict(self.pieces),
            size_bytes=self.size_bytes,
        )


class KeptSamples:
    """Samples of tiles; any thread.

    Args:
        max_bytes: Most that are kept [bytes]. Beyond it those go that were least lately added to
            or asked for.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, TileSamples | _Open] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is kept [bytes]."""
        return self._bytes

    def part(self, item: TilePart) -> None:
        """A tile took a part."""
        tile_id = item.side.tile_id.hex()
        with self._lock:
            kept = self._kept.get(tile_id)
            if not isinstance(kept, _Open) or kept.sent_as != item.sent_as:
                self._drop(tile_id)
                kept = self._kept[tile_id] = _Open(item.side, item.sent_as)
            if item.patch is not None:
                place = item.patch.patch_row, item.patch.patch_col
                if place not in kept.pieces:
                    kept.pieces[place] = item.patch.samples
                    kept.size_bytes += item.patch.samples.nbytes
                    self._bytes += item.patch.samples.nbytes
            self._kept.move_to_end(tile_id)
            self._make_room()

    def closed(self, item: RestoredTile) -> None:
        """A tile is as whole as it gets, unless it is being sent anew."""
        with self._lock:
            kept = self._kept.get(item.side.tile_id.hex())
        if isinstance(kept, _Open) and kept.sent_as != item.sent_as:
            return
        self.put(
            item.side.tile_id.hex(),
            TileSamples.of_tile(
                item.tile, item.side.patch_px, frozenset(item.missing), item.side.valid_bands
            ),
        )

    def put(self, tile_id: str, samples: TileSamples) -> None:
        """Keep the samples of a tile in place of those at hand."""
        with self._lock:
            self._drop(tile_id)
            self._kept[tile_id] = samples
            self._bytes += samples.size_bytes
            self._make_room()

    def get(self, tile_id: str) -> TileSamples | None:
        """What is at hand of a tile; None: nothing."""
        with self._lock:
            kept = self._kept.get(tile_id)
            if kept is None:
                return None
            self._kept.move_to_end(tile_id)
            return kept.samples() if isinstance(kept, _Open) else kept

    def drop(self, tile_id: str) -> None:
        """Keep a tile no longer."""
        with self._lock:
            self._drop(tile_id)

    def _drop(self, tile_id: str) -> None:
        if (kept := self._kept.pop(tile_id, None)) is not None:
            self._bytes -= kept.size_bytes

    def _make_room(self) -> None:
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))


def _holds_any(band: Samples, nodata: float | None) -> bool:
    """Whether a band, shape (rows, cols), has a sample that is no fill."""
    if band.dtype.kind == "f":
        finite = np.isfinite(band)
        return bool((finite & (band != nodata) if nodata is not None else finite).any())
    return nodata is None or bool((band != nodata).any())
