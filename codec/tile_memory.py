"""What a scene's file may ask for: no more memory than there is.

A file says how large its scene is, and some kilobytes may say terabytes, or unfold to them. Linux
promises memory that it has not, and ends a process, not always that one, when it is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from codec.errors import TileFileError


def memory_bytes() -> int:
    """Memory of this machine [bytes]; what a container may use of it is not known here."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(path: Path, size_bytes: int) -> None:
    """See that what a file holds fits in memory, before any of it is there.

    Args:
        path: The file.
        size_bytes: What its samples, or its texts, take.

    Raises:
        TileFileError: If it does not.
    """
    if size_bytes > (most := memory_bytes()):
        raise TileFileError(
            f"{path}: holds {size_bytes} bytes, this machine has {most}; remedy: cut the scene"
        )
