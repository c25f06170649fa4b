"""A queue of packets in files: written at one end, read at the other, found again after a crash.

A segment is a file of records (`daemon.records`), named by the sequence of its first one;
the cursor, another file, says which records are done. A segment is written to until it is full, and
removed when all of its records are done, or, where they are kept beyond that, released. Opened
again, segments are read from end to end: what is no sound record is skipped and told. What follows
goes into a new segment, never behind damage.

The cursor is not synced: it survives the process, and after a loss of power a few packets go twice.
After a failed sync nobody knows what is on the disk, and a second one would say nothing of it
(Rebello et al., USENIX ATC 2020): `abandon` gives the packets back, and that file gets no more.

A segment that cannot be read may be readable at the next start: until then the cursor stays below
it, and what follows may go twice.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from daemon.disk import Disk, read_whole
from daemon.errors import DamagedRecordError
from daemon.records import (
    CURSOR_BYTES,
    CURSORS_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    Recovery,
    cursor_of,
    packed,
    packed_cursor,
    payload_of,
    scan,
    spare_place,
)

_CURSOR_NAME: Final = "cursor"
_NAME: Final = re.compile(r"0[0-9]{19}\.log")
"""The first sequence in it. Ours stay far below the 64 bits that a record has for it."""
_NONE: Final = 1 << 64
"""Above every sequence."""
_MOST_IN_A_SEGMENT: Final = 1 << 32
"""Sequences that a segment which cannot be read may have used, and more."""
_BEGINNING_BYTES: Final = 64
"""Of a packet: its headers and more."""


class _Segment:
    """A file of records, and where they are in it; open where it is read or written."""

    def __init__(self, path: Path) -> None:
        self.path, self.end = path, 0
        self.file: int | None = None
        self.sequences, self.starts, self.sizes = array("Q"), array("Q"), array("L")
        self.spooled_s = array("d")
        self.done = self.kept = 0

    @property
    def waiting(self) -> int:
        return len(self.sequences) - self.done

    def add(self, sequence: int, start: int, size: int, spooled_s: float) -> None:
        self.sequences.append(sequence)
        self.starts.append(start)
        self.sizes.append(size)
        self.spooled_s.append(spooled_s)
        self.kept += 1


class SegmentLog:
    """The packets of one channel, oldest first.

    Calls are one at a time; `sync_files` alone may go on beside those of the reading end.

    Args:
        folder: Of its files; nothing else belongs there, and no other process uses it.
        disk: The file system.
        segment_bytes: A segment that has grown to this gets no more records.
        now_s: When what is found counts as spooled [s, monotonic].
        keep: Told the sequence of each record found, the beginning of its packet, and whether it is
            done; one that is, and for which it says False, is not kept. None: none is kept.
        on_file: Called before each file is read: all of them may take long.

    Attributes:
        recovery: What was found.
        packets: Packets that wait, durable or not.
        used_bytes: Bytes of these, and of those that are kept.

    Raises:
        OSError: If the folder or the cursor cannot be read, or another process has them.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        *,
        segment_bytes: int,
        now_s: float,
        keep: Callable[[int, bytes, bool], bool] | None = None,
        on_file: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder, self._disk, self._segment_bytes = folder, disk, segment_bytes
        self._keep = keep
        self._done: list[_Segment] = []
        """Segments of which nothing waits, and something is kept."""
        self._segments: deque[_Segment] = deque()
        self._open: _Segment | None = None
        self._written: list[_Segment] = []
        self._unsynced: deque[bytes] = deque()
        self.packets = self.used_bytes = 0
        self._unreadable = _NONE
        names = disk.names(folder)
        self._cursor = disk.open(folder / _CURSOR_NAME)
        try:
            disk.lock(self._cursor)
            self._next = done = self._read_cursor()
        except OSError:
            disk.close(self._cursor)
            raise
        self.recovery = Recovery()
        for name in names:
            if _NAME.fullmatch(name):
                on_file()
                self._recover(folder / name, done, now_s)

    # ---- the writing end -----------------------------------------------------------------------

    @property
    def unsynced(self) -> int:
        """Packets written that may not be on the disk."""
        return len(self._unsynced)

    @property
    def next_sequence(self) -> int:
        """Above every sequence of a record that is or may be there."""
        return self._next

    @property
    def newest_sequence(self) -> int:
        """The highest of a record that waits or is kept, or -1."""
        segments = (*self._done, *self._segments)
        return max((held.sequences[-1] for held in segments if held.sequences), default=-1)

    def append(self, packets: Sequence[bytes], now_s: float, *, least: int = 0) -> None:
        """Write packets; they can be read once they are synced.

        Args:
            packets: They.
            now_s: When they came [s, monotonic].
            least: No sequence of theirs is below it.

        Raises:
            OSError: If it fails; none of them is kept then.
        """
        first = self._next = max(self._next, least)
        # Of a write that fails part may be found again: no other record gets its number.
        self._next += max(1, len(packets))
        segment = self._writable(first)
        start = segment.end
        try:
            self._disk.write(self._file(segment), packed(packets, first), start)
        except OSError:
            self._open = None  # half of a record may be there: nothing goes behind it
            self._cut(segment)
            self._drop_empty()
            raise
        for sequence, raw in enumerate(packets, start=first):
            segment.add(sequence, start, len(raw), now_s)
            start += OVERHEAD_BYTES + len(raw)
        segment.end = start
        if segment not in self._written:
            self._written.append(segment)
        self._unsynced.extend(packets)
        self.packets += len(packets)
        self.used_bytes += sum(map(len, packets))
        if segment.end >= self._segment_bytes:
            self._open = None

    def sync_files(self) -> None:
        """Bring what was written to the disk; `note_synced` then lets it be read.

        Raises:
            OSError: If that fails; call `abandon` then.
        """
        for segment in tuple(self._written):
            self._disk.sync(self._file(segment))

    def note_synced(self) -> None:
        """What was written is on the disk."""
        for segment in self._written:
            if segment is not self._open and segment is not self._segments[0]:
                self._close(segment)
        self._written.clear()
        self._unsynced.clear()

    def abandon(self) -> list[tuple[bytes, float, int]]:
        """Take back what may not be on the disk.

        Returns:
            Each packet, when it came [s, monotonic], and the sequence that it had, oldest first.
        """
        taken, cut = list[tuple[bytes, float, int]](), self._written
        self._written, self._open = [], None
        while self._unsynced:
            self._drop_empty()
            last, raw = self._segments[-1], self._unsynced.pop()
            taken.append((raw, last.spooled_s[-1], last.sequences[-1]))
            last.end, last.kept = last.starts[-1], last.kept - 1
            for field in (last.sequences, last.starts, last.sizes, last.spooled_s):
                field.pop()
            self.packets, self.used_bytes = self.packets - 1, self.used_bytes - len(raw)
        for segment in cut:
            if segment in self._segments:
                self._cut(segment)
        self._drop_empty()
        return taken[::-1]

    # ---- the reading end -----------------------------------------------------------------------

    @property
    def dead_bytes(self) -> int:
        """Bytes of files beside the records that wait or are kept."""
        segments = (*self._done, *self._segments)
        live = self.used_bytes + OVERHEAD_BYTES * sum(segment.kept for segment in segments)
        return sum(segment.end for segment in segments) - live

    @property
    def readable(self) -> int:
        """Packets that wait and are durable."""
        return self.packets - len(self._unsynced)

    @property
    def oldest_s(self) -> float:
        """When the oldest packet came in [s, monotonic]; some must wait."""
        head = self._segments[0]
        return head.spooled_s[head.done]

    def oldest(self) -> bytes:
        """Read the oldest packet.

        Raises:
            DamagedRecordError: If it is not what was written.
            OSError: If it cannot be read.
        """
        head = self._segments[0]
        at, size, sequence = head.done, head.sizes[head.done], head.sequences[head.done]
        raw = self._disk.read(self._file(head), OVERHEAD_BYTES + size, head.starts[at])
        if (packet := payload_of(raw, sequence)) is None:
            raise DamagedRecordError(head.path, head.starts[at])
        return packet

    @property
    def oldest_sequence(self) -> int:
        """Of the oldest packet; some must wait."""
        head = self._segments[0]
        return head.sequences[head.done]

    def finish_oldest(self, *, keep: bool = False) -> None:
        """The oldest packet is done: this process or the next will not meet it again.

        Args:
            keep: Whether it can still be read by its sequence, until it is released.
        """
        head = self._segments[0]
        size = head.sizes[head.done]
        head.done += 1
        self.packets -= 1
        if not keep:
            head.kept, self.used_bytes = head.kept - 1, self.used_bytes - size
        if self.packets < len(self._unsynced):  # evicted before it was synced
            self._unsynced.popleft()
        self._write_cursor(head.sequences[head.done - 1] + 1)
        self._drop_done()

    def read(self, sequence: int) -> bytes:
        """Read a packet that is done and kept.

        Raises:
            DamagedRecordError: If it is not what was written.
            OSError: If it cannot be read.
        """
        segment, at = self._place(sequence)
        was_open = segment.file is not None
        try:
            raw = self._disk.read(
                self._file(segment), OVERHEAD_BYTES + segment.sizes[at], segment.starts[at]
            )
        finally:
            if not was_open:
                self._close(segment)
        if (packet := payload_of(raw, sequence)) is None:
            raise DamagedRecordError(segment.path, segment.starts[at])
        return packet

    def release(self, sequence: int) -> None:
        """A packet that is done and kept is needed no more."""
        segment, at = self._place(sequence)
        segment.kept, self.used_bytes = segment.kept - 1, self.used_bytes - segment.sizes[at]
        if not segment.kept and segment in self._done:
            self._done.remove(segment)
            self._drop_segment(segment)

    def close(self) -> None:
        """Close the files; what waits stays."""
        for segment in (*self._done, *self._segments):
            self._close(segment)
        with contextlib.suppress(OSError):  # all that matters is synced
            self._disk.close(self._cursor)
        self._segments.clear()
        self._done.clear()

    # ---- inside --------------------------------------------------------------------------------

    def _place(self, sequence: int) -> tuple[_Segment, int]:
        """The segment of a record, and its place there."""
        before = bisect_right(self._done, sequence, key=_first)
        if before and sequence <= self._done[before - 1].sequences[-1]:
            segment = self._done[before - 1]
        else:
            segment = next(s for s in self._segments if sequence <= s.sequences[-1])
        return segment, bisect_left(segment.sequences, sequence)

    def _writable(self, sequence: int) -> _Segment:
        if self._open is None:
            segment = _Segment(self._folder / f"{sequence:020d}.log")
            segment.file = self._disk.create(segment.path)
            self._open = segment
            self._segments.append(segment)
            self._drop_done()
        return self._open

    def _file(self, segment: _Segment) -> int:
        if segment.file is None:
            segment.file = self._disk.open(segment.path)
        return segment.file

    def _close(self, segment: _Segment) -> None:
        file, segment.file = segment.file, None
        if file is not None:
            with contextlib.suppress(OSError):  # all that matters is synced
                self._disk.close(file)

    def _cut(self, segment: _Segment) -> None:
        """Take away what is behind the last record, or it would be found again."""
        with contextlib.suppress(OSError):  # then that: some packets would go twice
            self._disk.cut(self._file(segment), segment.end)

    def _drop_done(self) -> None:
        """Put away segments of which nothing waits, and that get nothing more."""
        while self._segments and not self._segments[0].waiting:
            if self._segments[0] is self._open:
                break
            self._put_away(self._segments.popleft())

    def _drop_empty(self) -> None:
        """Remove segments at the end that hold nothing and get nothing more."""
        while self._segments and not self._segments[-1].sequences:
            self._drop_segment(self._segments.pop())

    def _put_away(self, segment: _Segment) -> None:
        if segment.kept:
            self._close(segment)
            self._done.append(segment)
        else:
            self._drop_segment(segment)

    def _drop_segment(self, segment: _Segment) -> None:
        if segment in self._written:
            self._written.remove(segment)
        self._close(segment)
        with contextlib.suppress(OSError):  # a file too many: it is removed at the next start
            self._disk.remove(segment.path)

    def _recover(self, path: Path, done: int, now_s: float) -> None:
        segment, first = _Segment(path), int(path.stem)
        try:
            data = read_whole(self._disk, self._file(segment))
        except OSError:
            self.recovery += Recovery(unreadable=1)
            self._unreadable = min(self._unreadable, first)
            self._next = max(self._next, first + _MOST_IN_A_SEGMENT)
            return
        finally:
            self._close(segment)
        found = scan(data)
        for sequence, start, size in found.records:
            is_done, is_kept = sequence < done, False
            if self._keep is not None:
                begins = start + HEADER_BYTES
                beginning = data[begins : begins + min(size, _BEGINNING_BYTES)]
                is_kept = self._keep(sequence, beginning, is_done)
            if is_kept or not is_done:
                segment.add(sequence, start, size, now_s)
                segment.done += is_done
                self.packets += not is_done
                self.used_bytes += size
            self._next = max(self._next, sequence + 1)
        segment.end = len(data)
        self.recovery += Recovery(
            records=segment.waiting,
            read_bytes=len(data),
            skipped_bytes=found.skipped_bytes,
            skipped_places=found.skipped_places,
        )
        if segment.waiting:
            self._segments.append(segment)
        else:
            self._put_away(segment)

    def _read_cursor(self) -> int:
        raw = self._disk.read(self._cursor, CURSORS_BYTES, 0)
        self._cursor_at = spare_place(raw)
        return cursor_of(raw)

    def _write_cursor(self, sequence: int) -> None:
        raw = packed_cursor(min(sequence, self._unreadable))
        with contextlib.suppress(OSError):  # a few packets may then go twice
            self._disk.write(self._cursor, raw, self._cursor_at)
            self._cursor_at = CURSOR_BYTES - self._cursor_at


def waiting_in(folder: Path) -> dict[str, int]:
    """Say what waits in a log's folder, without opening it: another process may be using it.

    Raises:
        OSError: If it cannot be read.
    """
    cursor = folder / _CURSOR_NAME
    done = cursor_of(cursor.read_bytes()) if cursor.exists() else 0
    found = {"files": 0, "packets": 0, "packet_bytes": 0, "skipped_bytes": 0}
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            scanned = scan(path.read_bytes())
            sizes = [size for sequence, _, size in scanned.records if sequence >= done]
            found["files"] += 1
            found["packets"] += len(sizes)
            found["packet_bytes"] += sum(sizes)
            found["skipped_bytes"] += scanned.skipped_bytes
    return {**found, "first_sequence": done}


def _first(segment: _Segment) -> int:
    return segment.sequences[0]
