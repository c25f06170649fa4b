"""Two names on a disk change places at once: how a folder is replaced while others read it."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Source: renameat2(2), Linux 3.15 and later."""

_UNKNOWN: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems (NFS) and kernels say that cannot."""


def exchange(one: Path, other: Path) -> None:
    """Let two files or folders of one file system change places.

    At no moment is either name without one. Where the file system cannot do that, there is such a
    moment: they are renamed one after another.

    Raises:
        OSError: If one is not there or may not be renamed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        names = os.fsencode(one), os.fsencode(other)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in _UNKNOWN:
            raise OSError(number, os.strerror(number), str(one), None, str(other))
    aside = one.with_name(f"{one.name}.aside")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
