"""What becomes of freed memory."""

from __future__ import annotations

import ctypes
from typing import Final

_MALLOC: Final = {
    -8: 1,  # M_ARENA_MAX: what one thread frees, another takes
    -4: 0,  # M_MMAP_MAX: large arrays come from the heap as well
    -1: -1,  # M_TRIM_THRESHOLD: the heap does not shrink
}
"""Source: mallopt(3); the numbers are glibc's, in malloc.h."""


def keep_freed_memory() -> None:
    """Let freed memory wait for the next array, where the C library can be told to.

    Arrays as large as a tile's go back to the system otherwise and are asked for again, and every
    page of each is cleared and entered anew: a third of the CPU time of board and training. The
    process then holds the most that it ever needed.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in _MALLOC.items():
            mallopt(option, value)
