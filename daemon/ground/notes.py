"""What the board measured of patches, by tile: the newest notes, whether their tiles are here yet.

A note names its tile and not the frames it was sent as: of a tile that is sent anew the newest
note of a patch counts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, TypeAlias

from daemon.link.quality_note import Measured, QualityNote

MAX_NOTES: Final = 4096
"""Most that are kept; one more costs the oldest."""
_Key: TypeAlias = tuple[bytes, tuple[int, int]]
"""A tile's id, and (row, col) of a patch."""


class QualityNotes:
    """Put by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, QualityNote] = OrderedDict()
        self._fresh = set[_Key]()

    def put(self, note: QualityNote) -> None:
        """Keep a note."""
        key = note.tile_id, note.place
        with self._lock:
            self._known[key] = note
            self._known.move_to_end(key)
            self._fresh.add(key)
            if len(self._known) > MAX_NOTES:
                oldest, _ = self._known.popitem(last=False)
                self._fresh.discard(oldest)

    def of(self, tile_id: bytes) -> dict[tuple[int, int], Measured]:
        """What is known of a tile's patches, by (row, col)."""
        with self._lock:
            return {at: note.measured for (of, at), note in self._known.items() if of == tile_id}

    def news(self) -> set[bytes]:
        """Ids of the tiles of which notes came since this was last asked."""
        with self._lock:
            fresh, self._fresh = self._fresh, set()
        return {tile_id for tile_id, _ in fresh}
