"""A disk that fails when told to, and one that forgets what was not synced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from daemon.onboard.disk import LocalDisk


class FailingDisk(LocalDisk):
    """A local disk whose calls can be made to fail.

    Attributes:
        fails: Names of the calls that fail.
        error: With what they fail.
        synced: How often a file was synced.
        torn: Whether a write that fails leaves half of itself.
    """

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.error, self.synced, self.torn = errno.ENOSPC, 0, True

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
        return super().create(path)

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
