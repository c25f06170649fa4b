"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import Final

from daemon.errors import OutputError

PART: Final = re.compile(r"\.(.+)\.part")
"""Name of what `write_whole` leaves of a file if it is killed."""


def check_writable(path: Path) -> None:
    """Find out now whether `write_whole` can write; leaves nothing but the folder.

    Raises:
        OutputError: If it cannot.
    """
    part = _part(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.touch(exist_ok=False)
        part.unlink()
    except OSError as error:
        raise OutputError(path, str(error)) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then move into place.

    Raises:
        OutputError: If any of it fails; `path` is then as it was.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whatever lies there, a link to another file for one, is not written through.
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        # The folder may be a file, and then not even this works.
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(path, str(error)) from None


def sync_folder(path: Path) -> None:
    """Have the disk hold the names of a folder's files.

    Raises:
        OutputError: If it cannot.
    """
    try:
        folder = os.open(path, os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OutputError(path, str(error)) from None


def lock_folder(folder: Path) -> int:
    """Have a folder for this process alone, until the descriptor is closed or the process ends.

    The folder itself is locked: no file of ours lies among what others list. It is made if it is
    not there; on a file system without such locks it is for people to see to.

    Returns:
        A file descriptor that holds the lock.

    Raises:
        OutputError: If the folder cannot be made or opened, or another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(
            folder, "a file is there, not a folder; remedy: take another folder"
        ) from None
    except OSError as error:
        raise OutputError(
            folder, f"cannot be made a folder: {error.strerror}; remedy: take another folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(
            folder,
            "another process writes into it; remedy: wait for its end, or take another folder",
        ) from None
    except OSError:
        pass
    return lock


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
