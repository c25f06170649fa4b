"""How the board does against EnMAP: patches encoded in the last minute over what it would send."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from daemon.clock import Clock
from daemon.feed import ENMAP_PATCHES_PER_S

WINDOW_S: Final = 60.0
_BIN_S: Final = 1.0


class RealtimeFactor:
    """A sliding minute, in bins of a second. Any thread may count, and ask.

    Args:
        clock: Tells what is a minute ago.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._began_s = clock.monotonic_s()
        self._bins: deque[tuple[float, int]] = deque()

    def add(self, patches: int) -> None:
        """Count patches that are encoded."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._forget(now_s)
            if self._bins and now_s - self._bins[-1][0] < _BIN_S:
                since_s, before = self._bins.pop()
                self._bins.append((since_s, before + patches))
            else:
                self._bins.append((now_s, patches))

    def value(self) -> float:
        """Multiple of EnMAP's rate [1]; of a process younger than a minute, since it began."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._forget(now_s)
            seconds = min(WINDOW_S, max(_BIN_S, now_s - self._began_s))
            return sum(patches for _, patches in self._bins) / seconds / ENMAP_PATCHES_PER_S

    def _forget(self, now_s: float) -> None:
        while self._bins and now_s - self._bins[0][0] > WINDOW_S:
            self._bins.popleft()
