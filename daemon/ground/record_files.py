"""Files of records that are only ever appended to, and read anywhere.

A segment is a file of records (`daemon.records`), named by the sequence of its first one. Opened
again, segments are synced and read one by one; what is no sound record is skipped and told. What
follows goes into a new segment, never behind damage.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from daemon.disk import Disk, read_whole
from daemon.records import HEADER_BYTES, OVERHEAD_BYTES, Recovery, packed, payload_of, scan

_LOCK: Final = "lock"
_IN_USE: Final = (
    "another process uses it; remedy: end that process, it is then used here within retry_s; "
    "or give this one an archive.directory of its own"
)
_NAME: Final = re.compile(r"0[0-9]{19}\.log")
"""The first sequence in it. Ours stay far below the 64 bits that a record has for it."""
_MOST_IN_A_SEGMENT: Final = 1 << 32
"""Sequences that a segment which cannot be read may have used, and more."""


class Segment:
    """A file of records; open where it is written."""

    __slots__ = ("end", "file", "path")

    def __init__(self, path: Path) -> None:
        self.path, self.end = path, 0
        self.file: int | None = None


class Place(NamedTuple):
    """Where a record is, and the bytes of its payload."""

    segment: Segment
    start: int
    size: int


class RecordFiles:
    """The segments of a folder. Calls are one at a time.

    Args:
        folder: Of its files; nothing else belongs there.
        disk: The file system.
        segment_bytes: A segment that has grown to this gets no more records.
        limit: Most bytes of a payload.

    Attributes:
        folder: The same.
        segments: All of them, oldest first.
        used_bytes: Bytes of these.
        recovery: What was found.
    """

    def __init__(self, folder: Path, disk: Disk, *, segment_bytes: int, limit: int) -> None:
        self.folder, self._disk = folder, disk
        self._segment_bytes, self._limit = segment_bytes, limit
        self.segments: list[Segment] = []
        self.used_bytes = self._next = 0
        self.recovery = Recovery()
        self._open: Segment | None = None
        self._dirty: dict[Segment, None] = {}
        self._lock: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the folder is ours."""
        return self._lock is not None

    @property
    def dirty(self) -> list[Segment]:
        """Segments written to since the last `sync`."""
        return list(self._dirty)

    def open(self, head_bytes: int) -> Iterator[tuple[Place, bytes]]:
        """Make the folder ours, then find its records; of each payload return the beginning.

        Raises:
            OSError: If the folder cannot be read, or another process has it.
        """
        names = self._disk.names(self.folder)
        lock = self._disk.open(self.folder / _LOCK)
        try:
            self._disk.lock(lock)
        except OSError as error:
            self._disk.close(lock)
            if isinstance(error, BlockingIOError):
                raise OSError(error.errno, _IN_USE) from None
            raise
        self._lock = lock
        return (
            found
            for name in names
            if _NAME.fullmatch(name)
            for found in self._recover(self.folder / name, head_bytes)
        )

    def append(self, payload: bytes) -> Place:
        """Write a record; it is durable after the next `sync`.

        Raises:
            OSError: If it fails; the next one goes into a new segment.
        """
        record = packed([payload], self._next)
        segment = self._writable()
        start, file = segment.end, self._file(segment)
        # Of a write that fails part may be found again: no other record gets its number.
        self._next += 1
        try:
            self._disk.write(file, record, start)
        except OSError:
            self._open = None
            with contextlib.suppress(OSError):  # then it is skipped at the next start
                self._disk.cut(file, start)
            if not start:
                self.remove(segment)
            raise
        segment.end += len(record)
        self.used_bytes += len(record)
        self._dirty[segment] = None
        if segment.end >= self._segment_bytes:
            self._open = None
        return Place(segment, start, len(payload))

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: If it fails; nobody knows then what of it is there, and a second try would
                say nothing of it (Rebello et al., USENIX ATC 2020): these files get no more.
        """
        dirty, self._dirty = self._dirty, {}
        try:
            for segment in dirty:
                self._disk.sync(self._file(segment))
        except OSError:
            self._open = None
            raise
        finally:
            for segment in dirty:
                if segment is not self._open:
                    self._close(segment)

    def read(self, place: Place) -> bytes | None:
        """Read a payload; None if it is not what was written.

        Raises:
            OSError: If it cannot be read.
        """
        segment, start, size = place
        was_open = segment.file is not None
        try:
            raw = self._disk.read(self._file(segment), OVERHEAD_BYTES + size, start)
        finally:
            if not was_open:
                self._close(segment)
        return payload_of(raw, 0, limit=self._limit)

    def removable(self) -> list[Segment]:
        """Segments that get nothing more and are synced, oldest first."""
        return [s for s in self.segments if s is not self._open and s not in self._dirty]

    def remove(self, segment: Segment) -> None:
        """Remove a segment that is synced, with all that is in it."""
        self.segments.remove(segment)
        if segment is self._open:
            self._open = None
        self.used_bytes -= segment.end
        self._close(segment)
        with contextlib.suppress(OSError):  # it is found again at the next start
            self._disk.remove(segment.path)

    def close(self) -> None:
        """Close what is open; the folder is no longer ours."""
        for segment in self.segments:
            self._close(segment)
        lock, self._lock, self._open = self._lock, None, None
        if lock is not None:
            with contextlib.suppress(OSError):  # nothing was written to it
                self._disk.close(lock)

    def _writable(self) -> Segment:
        if self._open is None:
            segment = Segment(self.folder / f"{self._next:020d}.log")
            segment.file = self._disk.create(segment.path)
            self.segments.append(segment)
            self._open = segment
        return self._open

    def _file(self, segment: Segment) -> int:
        if segment.file is None:
            segment.file = self._disk.open(segment.path)
        return segment.file

    def _close(self, segment: Segment) -> None:
        file, segment.file = segment.file, None
        if file is not None:
            with contextlib.suppress(OSError):  # all that matters is synced
                self._disk.close(file)

    def _recover(self, path: Path, head_bytes: int) -> Iterator[tuple[Place, bytes]]:
        segment, first = Segment(path), int(path.stem)
        try:
            # Of a process that was killed the last records may be in memory alone.
            self._disk.sync(self._file(segment))
            data = read_whole(self._disk, self._file(segment))
        except OSError:
            self.recovery += Recovery(unreadable=1)
            self._next = max(self._next, first + _MOST_IN_A_SEGMENT)
            return
        finally:
            self._close(segment)
        found = scan(data, limit=self._limit)
        segment.end = len(data)
        self.segments.append(segment)
        self.used_bytes += segment.end
        self.recovery += Recovery(
            records=len(found.records),
            read_bytes=len(data),
            skipped_bytes=found.skipped_bytes,
            skipped_places=found.skipped_places,
        )
        self._next = max(self._next, first + 1, *(sequence + 1 for sequence, _, _ in found.records))
        for _, start, size in found.records:
            head = start + HEADER_BYTES
            yield Place(segment, start, size), data[head : head + min(head_bytes, size)]
