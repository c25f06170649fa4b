"""Parts of tiles in, tiles out: whole as soon as they are, or as they are when time is up."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from codec.decoded_patch import DecodedPatch
from codec.errors import TileError
from codec.frame import SideFrame
from codec.tile import Tile, fill_value
from daemon.clock import Clock
from daemon.ground.items import PatchRecord, RestoredTile, TilePart
from daemon.ground.metrics import GroundMetrics

_EMPTY_KEPT: Final = 1024
"""Tiles that wait for their first patch: the decoder knows no more of them, either."""

_DONE_KEPT: Final = 2048
"""Finished tiles remembered, so that a patch that comes late does not begin them anew."""

LATE: Final = "late"
"""Why a decoded patch was dropped: its tile had been handed on without it, or sent anew."""

REPEATED: Final = "repeated"
"""Why a decoded patch was dropped: its tile had it already."""


EMPTY: Final = "empty"
"""Why a tile was dropped: no patch of it came."""


@dataclass(slots=True)
class _OpenTile:
    side: SideFrame
    sent_as: tuple[int, int]
    touched_s: float
    patches: dict[tuple[int, int], DecodedPatch] = field(default_factory=dict)
    records: dict[tuple[int, int], PatchRecord] = field(default_factory=dict)
    frames: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of its samples, of which some may yet have to come."""
        return np.dtype(self.side.dtype).itemsize * math.prod(self.side.shape)


class MosaicWorker:
    """Puts patches in their places.

    A tile that was sent anew, under side information of its own, is a tile of its own and ends
    the one before, of which nothing is taken after that. A tile that was handed on is begun anew
    by its side information, if that was read from the archive. One of which no patch came is never
    handed on: it waits, and is counted if it ends like that.

    Args:
        deadline_s: A tile that got nothing for this long is handed on with holes [s].
        max_bytes: Most bytes of samples of all open tiles that have a patch. Beyond it the one that
            has got nothing for longest is handed on; a tile that is larger by itself is refused.
        clock: Measures the deadline.
        metrics: Counts the patches that no tile took, and tiles without any.
        on_part: Told each part that a tile took, some patches more than once. Must neither raise
            nor wait.
        on_empty: Told the side information, and `sent_as`, of a tile of which no patch came, at its
            deadline or end. Must not raise.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        max_bytes: int,
        clock: Clock,
        metrics: GroundMetrics,
        on_part: Callable[[TilePart], object] = lambda _: None,
        on_empty: Callable[[SideFrame, tuple[int, int]], object] = lambda *_: None,
    ) -> None:
        self._on_part, self._on_empty = on_part, on_empty
        self._deadline_s, self._max_bytes = deadline_s, max_bytes
        self._clock, self._metrics = clock, metrics
        self._open: OrderedDict[bytes, _OpenTile] = OrderedDict()
        self._open_bytes = 0
        self._done: OrderedDict[tuple[int, int], None] = OrderedDict()

    def accept(self, item: TilePart) -> Iterator[RestoredTile]:
        """Take one part; return its tile if that was the last.

        Raises:
            TileError: If the tile would be larger than allowed.
        """
        tile_id = item.side.tile_id
        tile = self._open.get(tile_id)
        if item.patch is None and item.frame.replayed:
            self._done.pop(item.sent_as, None)
        if item.sent_as in self._done or (tile is not None and _precedes(item, tile)):
            self._drop(item, LATE)
            return
        if tile is None or tile.sent_as != item.sent_as:
            tile = _OpenTile(item.side, item.sent_as, 0.0)
            yield from self._begin(tile)
        tile.touched_s = self._clock.monotonic_s()
        self._open.move_to_end(tile_id)
        tile.frames[item.frame.boot_id, item.frame.frame_id] = item.frame.size_bytes
        self._on_part(item)
        if item.patch is not None:
            position = item.patch.patch_row, item.patch.patch_col
            if position in tile.patches:
                self._drop(item, REPEATED)
            else:
                if not tile.patches:
                    yield from self._make_room(tile)
                tile.patches[position] = item.patch
                tile.records[position] = PatchRecord(
                    step=item.patch.step, packets=item.frame.packets
                )
            if len(tile.patches) == len(tile.side.grid):
                yield from self._close(tile_id)

    def tick(self) -> Iterator[RestoredTile]:
        """Hand on tiles whose deadline has passed."""
        oldest_s = self._clock.monotonic_s() - self._deadline_s
        for tile_id, tile in list(self._open.items()):
            if tile.touched_s > oldest_s:
                continue
            if tile.patches:
                yield from self._close(tile_id)
            else:  # once, until there is news of it
                tile.touched_s = math.inf
                self._on_empty(tile.side, tile.sent_as)

    def finish(self) -> Iterator[RestoredTile]:
        """Hand on what is open."""
        for tile_id in list(self._open):
            yield from self._close(tile_id)

    def _drop(self, item: TilePart, reason: str) -> None:
        if item.patch is not None:
            self._metrics.dropped_patches.labels("mosaic", reason).inc()

    def _begin(self, tile: _OpenTile) -> Iterator[RestoredTile]:
        """Open a tile; end the one that it replaces, and one too many that waits."""
        if tile.size_bytes > self._max_bytes:
            raise TileError(f"a tile of {tile.size_bytes} bytes; {self._max_bytes} are allowed")
        tile_id = tile.side.tile_id
        if tile_id in self._open:
            yield from self._close(tile_id)
        self._open[tile_id] = tile
        empty = [known for known, other in self._open.items() if not other.patches]
        if len(empty) > _EMPTY_KEPT:
            yield from self._close(empty[0])

    def _make_room(self, tile: _OpenTile) -> Iterator[RestoredTile]:
        """Make room for a tile's samples; hand on those that have to give way."""
        while self._open_bytes + tile.size_bytes > self._max_bytes:
            yield from self._close(next(i for i, other in self._open.items() if other.patches))
        self._open_bytes += tile.size_bytes

    def _close(self, tile_id: bytes) -> Iterator[RestoredTile]:
        tile = self._open.pop(tile_id)
        self._done[tile.sent_as] = None
        if len(self._done) > _DONE_KEPT:
            self._done.popitem(last=False)
        if tile.patches:
            self._open_bytes -= tile.size_bytes
            yield _restored(tile)
        else:
            self._on_empty(tile.side, tile.sent_as)
            self._metrics.dropped_tiles.labels("mosaic", EMPTY).inc()


def _restored(tile: _OpenTile) -> RestoredTile:
    side, grid = tile.side, tile.side.grid
    dtype = np.dtype(side.dtype)
    samples = np.full(side.shape, fill_value(dtype, side.info.nodata), dtype=dtype)
    for (row, col), patch in tile.patches.items():
        samples[(slice(None), *grid.extent(row, col).slices)] = patch.samples
    missing = tuple(position for position in grid if position not in tile.patches)
    return RestoredTile(
        tile=Tile(samples=samples, info=side.info),
        side=side,
        sent_as=tile.sent_as,
        missing=missing,
        frames=tuple(tile.frames),
        frame_bytes=sum(tile.frames.values()),
        records=tile.records,
    )


def _precedes(item: TilePart, tile: _OpenTile) -> bool:
    """Whether a part is of a tile that the same boot has sent anew since."""
    boot_id, frame_id = item.sent_as
    return boot_id == tile.sent_as[0] and frame_id < tile.sent_as[1]
