"""A disk that fails when told to, and forgets what was not synced when power is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from daemon.disk import LocalDisk


class FailingDisk(LocalDisk):
    """A local disk whose calls can be made to fail.

    Attributes:
        fails: Names of the calls that fail.
        error: With what they fail.
        synced: How often a file was synced.
        torn: Whether a write that fails leaves half of itself.
        open_files: Files that are open, and where they are.
    """

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.error, self.synced, self.torn = errno.ENOSPC, 0, True
        self.open_files: dict[int, Path] = {}
        self._durable: dict[Path, bytes] = {}

    def lose_power(self) -> None:
        """Bring every file back to what was last synced of it; half of the rest may be there."""
        for path, content in self._durable.items():
            if path.exists():
                now = path.read_bytes()
                kept = max(len(content), (len(content) + len(now)) // 2)
                path.write_bytes(now[:kept] if now[: len(content)] == content else content)
        for file in tuple(self.open_files):
            self.close(file)

    def lock(self, file: int) -> None:
        """See `Disk`; processes that were killed hold no lock, and here they are not even that."""

    def open(self, path: Path) -> int:
        """See `Disk`."""
        self._may("open")
        file = super().open(path)
        self.open_files[file] = path
        return file

    def close(self, file: int) -> None:
        """See `Disk`."""
        if self.open_files.pop(file, None) is not None:  # else it is closed, with the process
            super().close(file)

    def _may(self, call: str) -> None:
        if call in self.fails:
            raise OSError(self.error, os.strerror(self.error))

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        self._may("names")
        return super().names(folder)

    def create(self, path: Path) -> int:
        """See `Disk`."""
        self._may("create")
        file = super().create(path)
        self.open_files[file], self._durable[path] = path, b""
        return file

    def size(self, file: int) -> int:
        """See `Disk`."""
        self._may("size")
        return super().size(file)

    def read(self, file: int, count: int, offset: int) -> bytes:
        """See `Disk`."""
        self._may("read")
        return super().read(file, count, offset)

    def write(self, file: int, data: bytes, offset: int) -> None:
        """See `Disk`."""
        if "write" in self.fails and self.torn:
            super().write(file, data[: len(data) // 2], offset)
        self._may("write")
        super().write(file, data, offset)

    def cut(self, file: int, size: int) -> None:
        """See `Disk`."""
        self._may("cut")
        super().cut(file, size)

    def sync(self, file: int) -> None:
        """See `Disk`."""
        self._may("sync")
        self.synced += 1
        super().sync(file)
        path = self.open_files[file]
        self._durable[path] = path.read_bytes()
