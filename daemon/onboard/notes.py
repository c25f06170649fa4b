"""Notes of quality that wait for the link: few, the newest, and each is sent once."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Final

from daemon.link.quality_note import QualityNote
from daemon.metrics import FlightMetrics

MAX_NOTES: Final = 256
"""Most that wait; one more costs the oldest."""
_F32_MAX: Final = 3.4028234e38


class NoteQueue:
    """Put by one thread, taken by another.

    Args:
        metrics: Told of notes that had to go unsent.
    """

    def __init__(self, metrics: FlightMetrics) -> None:
        self._metrics, self._lock = metrics, threading.Lock()
        self._waiting: deque[QualityNote] = deque()

    def put(self, tile_id: bytes, row: int, col: int, psnr_db: float, max_abs_error: float) -> None:
        """Have a patch's quality told; what no note can say is not."""
        if not (math.isfinite(psnr_db) and 0 <= max_abs_error <= _F32_MAX):
            return
        note = QualityNote(
            tile_id=tile_id,
            row=row,
            col=col,
            psnr_db=float(psnr_db),
            max_abs_error=float(max_abs_error),
        )
        with self._lock:
            self._waiting.append(note)
            self._bound()

    def take(self) -> QualityNote | None:
        """Take the oldest, to send it."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def give_back(self, note: QualityNote) -> None:
        """The link did not take it: it is the next one again."""
        with self._lock:
            self._waiting.appendleft(note)
            self._bound()

    def _bound(self) -> None:
        if len(self._waiting) > MAX_NOTES:
            self._waiting.popleft()
            self._metrics.quality_notes_dropped.inc()
