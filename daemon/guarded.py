"""Files that nobody else may change, or read: opened once, looked at, and only then read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_guarded(path: Path, *, max_bytes: int, secret: bool = False) -> bytes:
    """Read a file that is what its name says: no link, no device, not open to everybody.

    Args:
        path: The file.
        max_bytes: Most that it may have.
        secret: Whether nobody else may read it, either.

    Raises:
        ValueError: If it is not so, or everybody can put another in its place; says what to do.
    """
    try:
        _check_way(path)
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as opened:
            mode = os.fstat(file).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("is no regular file")
            _check_others(mode, stat.S_IRWXO if secret else stat.S_IWOTH)
            raw = opened.read(max_bytes + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("is a symbolic link; name the file itself") from None
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(raw) > max_bytes:
        raise ValueError(f"has more than {max_bytes} bytes")
    return raw


def check_folder(path: Path) -> None:
    """See that not everybody can put files into a folder, or another folder in its place.

    Raises:
        ValueError: If somebody could; says what to do.
    """
    try:
        _check_way(path)
        mode = path.lstat().st_mode
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if stat.S_ISLNK(mode):
        raise ValueError("is a symbolic link; name the folder itself")
    if not stat.S_ISDIR(mode):
        raise ValueError("is no folder")
    _check_others(mode, stat.S_IWOTH)


def _check_way(path: Path) -> None:
    """See that not everybody can rename one of the folders that lead there, or what is in it.

    In a folder with the sticky bit, as /tmp, only an owner can.
    """
    for folder in path.absolute().parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ValueError(f"lies in {folder}, which is open to everybody; chmod o-w that")


def _check_others(mode: int, denied: int) -> None:
    if mode & denied:
        remedy = "chmod 600 it" if denied == stat.S_IRWXO else "chmod o-w it"
        raise ValueError(f"is open to everybody (mode {mode & 0o777:o}); {remedy}")
