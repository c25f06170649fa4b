"""A disk in memory, for runs of thousands of processes: what is written stays, whoever dies."""

from __future__ import annotations

import errno
from pathlib import Path


class MemoryDisk:
    """See `daemon.disk.Disk`; locks are those of a process, so nobody else holds one.

    Attributes:
        fails: Whether nothing can be read or written.
        bad: Files and offsets at which nothing can be read.
    """

    def __init__(self) -> None:
        self.fails = False
        self.bad: set[tuple[Path, int]] = set()
        self._files: dict[Path, bytearray] = {}
        self._open: list[Path] = []

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        return sorted(path.name for path in self._files if path.parent == folder)

    def create(self, path: Path) -> int:
        """See `Disk`."""
        if path in self._files:
            raise FileExistsError(path)
        return self.open(path)

    def open(self, path: Path) -> int:
        """See `Disk`."""
        self._files.setdefault(path, bytearray())
        self._open.append(path)
        return len(self._open) - 1

    def lock(self, file: int) -> None:
        """See `Disk`."""

    def size(self, file: int) -> int:
        """See `Disk`."""
        return len(self._files[self._open[file]])

    def read(self, file: int, count: int, offset: int) -> bytes:
        """See `Disk`."""
        if self.fails or (self._open[file], offset) in self.bad:
            raise OSError(errno.EIO, "I/O error")
        return bytes(self._files[self._open[file]][offset : offset + count])

    def write(self, file: int, data: bytes, offset: int) -> None:
        """See `Disk`."""
        if self.fails:
            raise OSError(errno.EIO, "I/O error")
        held = self._files[self._open[file]]
        held.extend(bytes(max(0, offset - len(held))))
        held[offset : offset + len(data)] = data

    def cut(self, file: int, size: int) -> None:
        """See `Disk`."""
        del self._files[self._open[file]][size:]

    def sync(self, file: int) -> None:
        """See `Disk`."""

    def close(self, file: int) -> None:
        """See `Disk`."""

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        self._files.pop(path, None)
