"""A folder as one zip file, made while it is sent, and never whole in memory or on the disk.

Nothing is compressed, as chunks of a Zarr store are already. A zip file is read from its end: where
a folder is replaced on the way, that is not sent, and what came opens nowhere.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Self

from daemon.ground.web.answers import CutOffError

PIECE_BYTES: Final = 64 << 10
"""Most that is read at a time, and about the size of a piece."""


@dataclass(frozen=True, slots=True)
class StoredFolder:
    """A folder of plain files, as it was at a moment.

    Attributes:
        path: Where it is.
        stamp: Tells it from another one in its place.
        names: Of all its files, with folders in it, in order.
    """

    path: Path
    stamp: tuple[int, int, int]
    names: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> Self:
        """Look at a folder.

        Raises:
            OSError: If it is not there, or holds anything but files and folders: a link for one.
        """
        stamp, names = _stamp(path), list[str]()
        for top, folders, files, at in os.fwalk(path, onerror=_fail):
            for name in (*folders, *files):
                mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise OSError(f"{top}/{name} is neither file nor folder")
            names += [(PurePosixPath(top) / name).relative_to(path).as_posix() for name in files]
        return cls(path, stamp, tuple(sorted(names)))

    def zipped(self) -> Iterator[bytes]:
        """Make the zip file, piece by piece as they are asked for.

        Raises:
            CutOffError: If the folder has been replaced since, or cannot be read.
        """
        sink = _Sink()
        try:
            with zipfile.ZipFile(sink, "w") as archive:
                for name in self.names:
                    yield from self._file(name, archive, sink)
                if _stamp(self.path) != self.stamp:
                    raise CutOffError(f"{self.path.name} was replaced while it was sent")
        except OSError as error:
            raise CutOffError(f"{self.path.name} cannot be sent: {error}") from None
        yield sink.take()

    def _file(self, name: str, archive: zipfile.ZipFile, sink: _Sink) -> Iterator[bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self.path / name, flags), "rb") as file:
            entry = zipfile.ZipInfo(name)
            entry.file_size = os.fstat(file.fileno()).st_size
            with archive.open(entry, "w") as stored:
                while chunk := file.read(PIECE_BYTES):
                    stored.write(chunk)
                    if sink.size_bytes >= PIECE_BYTES:
                        yield sink.take()


class _Sink:
    """Takes what a zip file is made of, and has it taken away; nothing is sought in it."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    @property
    def size_bytes(self) -> int:
        """Of what waits to be taken."""
        return len(self._waiting)

    def write(self, data: bytes, /) -> int:
        """Take more."""
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Do nothing; zipfile asks for it."""

    def close(self) -> None:
        """Likewise."""

    def take(self) -> bytes:
        """Give what waits."""
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


def _fail(error: OSError) -> None:
    raise error


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is no folder")
    return status.st_dev, status.st_ino, status.st_ctime_ns
