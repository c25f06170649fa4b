"""The most memory this process has held, from a moment on; Linux alone tells."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path
from typing import Final

_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")
_RESET_PEAK: Final = "5"
"""Source: proc(5), /proc/[pid]/clear_refs."""


def reset_peak_rss() -> None:
    """Begin anew; where the system does not allow it, the peak stays that of the whole process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)


def peak_rss_bytes() -> int:
    """Largest resident memory since the last reset [bytes]."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
