"""Parts of tiles in, tiles out: whole as soon as they are, or as they are when time is up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from codec.decoder import DecodedPatch
from codec.errors import TileError
from codec.frame import SideFrame
from codec.tile import Tile, fill_value
from daemon.clock import Clock
from daemon.ground.items import RestoredTile, TilePart
from daemon.metrics import GroundMetrics

_DONE_KEPT: Final = 4096
"""Finished tiles remembered, so that a frame that comes again does not begin them anew."""


@dataclass(slots=True)
class _OpenTile:
    side: SideFrame
    touched_s: float
    patches: dict[tuple[int, int], DecodedPatch] = field(default_factory=dict)
    frames: dict[tuple[int, int], int] = field(default_factory=dict)


class MosaicWorker:
    """Puts patches in their places.

    Args:
        deadline_s: A tile that got nothing for this long is handed on with holes [s].
        max_tile_bytes: Tiles of more samples are refused: a side frame is believed only so far.
        clock: Measures the deadline.
        metrics: Counts patches missing at the deadline.
    """

    def __init__(
        self, *, deadline_s: float, max_tile_bytes: int, clock: Clock, metrics: GroundMetrics
    ) -> None:
        self._deadline_s, self._max_tile_bytes = deadline_s, max_tile_bytes
        self._clock, self._metrics = clock, metrics
        self._open: dict[bytes, _OpenTile] = {}
        self._done: OrderedDict[bytes, None] = OrderedDict()

    def accept(self, item: TilePart) -> Iterator[RestoredTile]:
        """Take one part; return its tile if that was the last.

        Raises:
            TileError: If the tile would be larger than allowed.
        """
        tile_id = item.side.tile_id
        if tile_id in self._done:
            return
        size_bytes = np.dtype(item.side.dtype).itemsize * int(
            np.prod(item.side.shape, dtype=object)
        )
        if size_bytes > self._max_tile_bytes:
            raise TileError(f"a tile of {size_bytes} bytes; {self._max_tile_bytes} are allowed")
        tile = self._open.setdefault(tile_id, _OpenTile(item.side, 0.0))
        tile.touched_s = self._clock.monotonic_s()
        tile.frames[item.frame.boot_id, item.frame.frame_id] = item.frame.size_bytes
        if item.patch is not None:
            tile.patches[item.patch.patch_row, item.patch.patch_col] = item.patch
            if len(tile.patches) == len(tile.side.grid):
                yield self._close(tile_id)

    def tick(self) -> Iterator[RestoredTile]:
        """Hand on tiles whose deadline has passed."""
        oldest_s = self._clock.monotonic_s() - self._deadline_s
        for tile_id in [i for i, tile in self._open.items() if tile.touched_s <= oldest_s]:
            yield self._close(tile_id)

    def finish(self) -> Iterator[RestoredTile]:
        """Hand on what is open."""
        for tile_id in list(self._open):
            yield self._close(tile_id)

    def _close(self, tile_id: bytes) -> RestoredTile:
        tile = self._open.pop(tile_id)
        self._done[tile_id] = None
        if len(self._done) > _DONE_KEPT:
            self._done.popitem(last=False)
        side, grid = tile.side, tile.side.grid
        dtype = np.dtype(side.dtype)
        samples = np.full(side.shape, fill_value(dtype, side.info.nodata), dtype=dtype)
        for (row, col), patch in tile.patches.items():
            samples[(slice(None), *grid.extent(row, col).slices)] = patch.samples
        missing = tuple(position for position in grid if position not in tile.patches)
        self._metrics.patches_missing.inc(len(missing))
        return RestoredTile(
            tile=Tile(samples=samples, info=side.info),
            side=side,
            missing=missing,
            frames=tuple(tile.frames),
            frame_bytes=sum(tile.frames.values()),
        )
