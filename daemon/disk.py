"""The door to the disk for what is spooled or archived: calls that tests make fail."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

_READ_BYTES: Final = 8 << 20


class Disk(Protocol):
    """What is asked of a file system; every call may raise OSError."""

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, which is made if it is not there."""
        ...

    def create(self, path: Path) -> int:
        """Make a file that is not there, durably, and open it."""
        ...

    def open(self, path: Path) -> int:
        """Open a file, or make it."""
        ...

    def lock(self, file: int) -> None:
        """Make it ours until it is closed; it fails where it is another's."""
        ...

    def size(self, file: int) -> int:
        """Bytes of a file."""
        ...

    def read(self, file: int, count: int, offset: int) -> bytes:
        """Read; less where the file ends."""
        ...

    def write(self, file: int, data: bytes, offset: int) -> None:
        """Write all of it."""
        ...

    def cut(self, file: int, size: int) -> None:
        """Make a file no longer than this."""
        ...

    def sync(self, file: int) -> None:
        """Return when what was written would survive a loss of power."""
        ...

    def close(self, file: int) -> None:
        """Close a file."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file."""
        ...


class LocalDisk:
    """A POSIX file system."""

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        folder.mkdir(parents=True, exist_ok=True)
        return sorted(os.listdir(folder))

    def create(self, path: Path) -> int:
        """See `Disk`; without its folder synced a file may be gone, whatever was synced in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
        try:
            folder = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return file

    def open(self, path: Path) -> int:
        """See `Disk`; through a link, what is somewhere else would be cut and written over."""
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    def lock(self, file: int) -> None:
        """See `Disk`."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def size(self, file: int) -> int:
        """See `Disk`."""
        return os.fstat(file).st_size

    def read(self, file: int, count: int, offset: int) -> bytes:
        """See `Disk`."""
        return os.pread(file, count, offset)

    def write(self, file: int, data: bytes, offset: int) -> None:
        """See `Disk`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written

    def cut(self, file: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        """See `Disk`."""
        os.fdatasync(file)

    def close(self, file: int) -> None:
        """See `Disk`."""
        os.close(file)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink(missing_ok=True)


def read_whole(disk: Disk, file: int) -> bytes:
    """Read a file from end to end.

    Raises:
        OSError: If it cannot be read.
    """
    size = disk.size(file)
    parts = [
        disk.read(file, min(_READ_BYTES, size - offset), offset)
        for offset in range(0, size, _READ_BYTES)
    ]
    return b"".join(parts)
