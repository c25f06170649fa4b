"""A spool that outlives the process: packets in files, one log a lane.

A packet is offered to the link only once its record is on the disk. Records are synced together:
when enough of them wait for it, or the oldest has waited long enough. One thread appends and calls
`tick`; another takes.

**Degraded.** Where the disk fails (full, read-only, EIO, another process's) nothing stops: what is
not on it yet, and what comes, is kept in memory, up to a limit of its own, and goes to the link
from there. From time to time the disk is tried again, with new files; what memory holds goes to
them first. What is on the disk and cannot be read now is tried again, too, and waits.

Where the ground acknowledges, a packet that was sent stays in its log until that. What it has said
is written down now and then, in the file `acknowledged`: a process that begins anew keeps all else
that was sent, and repeats none of it unasked.

The sequences of all logs are drawn from one count (`daemon.onboard.arrivals`), so that they tell
what came before what, by whichever process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeAlias

import msgpack

from daemon.clock import Clock
from daemon.disk import Disk, LocalDisk
from daemon.errors import DamagedRecordError, SpoolFullError
from daemon.link.beacon import Beacon
from daemon.link.commands import Report
from daemon.link.lanes import LANES, Lane
from daemon.link.packet import FrameKey, header_of
from daemon.link.repeats import Handle, Unacknowledged
from daemon.onboard.arrivals import Arrivals
from daemon.onboard.lane_queue import FoundPackets, LaneQueue
from daemon.onboard.segment_log import SegmentLog
from daemon.onboard.spool import (
    EVICTED,
    UNACKNOWLEDGED,
    Ended,
    OnDrop,
    SpooledPacket,
    Turns,
    gives_way,
    kept_packet,
)
from daemon.records import Recovery, with_crc, without_crc

log = logging.getLogger(__name__)

DAMAGED: Final = "damaged"
ENDED: Final = "ended"
"""Why a packet was given up: its record is not what was written; it came too late."""
_AT_ONCE: Final = 256
"""Packets of memory written at a time."""

_REPEAT_RETRY_S: Final = 1.0
"""Time for which what is new goes first after a packet that was asked for could not be read [s]."""
_WRITE_DONE_S: Final = 1.0
"""Time between two writings of what the ground has [s]."""
_DONE_NAME: Final = "acknowledged"

_Drop: TypeAlias = tuple[SpooledPacket, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpoolLimits:
    """Bounds of a spool on a disk.

    Attributes:
        max_bytes: Most bytes of packets that may wait or be kept. Files take up to twice as much,
            a segment for each lane, and 20 bytes more for each packet.
        max_memory_bytes: Most of these that may wait in memory while the disk fails.
        segment_bytes: Size of a file.
        sync_packets: So many packets are synced together.
        sync_s: None waits longer for others to be synced with [s].
        retry_s: Time between two tries of a disk that failed [s].
    """

    max_bytes: int
    max_memory_bytes: int
    segment_bytes: int
    sync_packets: int
    sync_s: float
    retry_s: float


class DiskSpool:
    """See `daemon.onboard.spool.Spool`.

    Args:
        folder: Of the logs.
        limits: Bounds.
        clock: Stamps packets, and times syncs.
        on_drop: Called with each packet given up and the reason.
        acknowledged: Whether the ground acknowledges.
        disk: The file system.
        on_file: Called before each file is read that an earlier process left.

    Attributes:
        recovery: What was found of an earlier process.
        degraded: Why the disk is not used: the error's name, as "ENOSPC"; None while it is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limits: DiskSpoolLimits,
        clock: Clock,
        on_drop: OnDrop,
        acknowledged: bool = False,
        disk: Disk | None = None,
        on_file: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder, self._limits, self._clock = folder, limits, clock
        self._on_drop, self._disk = on_drop, disk or LocalDisk()
        self._changed = threading.Condition()
        self._arrivals = Arrivals()
        self._queues = {lane: LaneQueue(lane, self._arrivals.order_of) for lane in LANES}
        self._kept = Unacknowledged(self._release) if acknowledged else None
        self._turns = Turns()
        self._unsynced_since_s: float | None = None
        self._tried_s = self._written_s = clock.monotonic_s()
        self._changes = 0
        self._is_off = self._ended = False
        self.degraded: str | None = None
        self.recovery = Recovery()
        self._open_logs(on_file)

    # ---- the writing thread --------------------------------------------------------------------

    def append(self, packets: Sequence[bytes], lane: Lane) -> None:
        """See `Spool.append`."""
        size = sum(map(len, packets))
        if size > self._limits.max_bytes:
            raise SpoolFullError(size, self._limits.max_bytes)
        now_s = self._clock.monotonic_s()
        came = [
            SpooledPacket(raw=raw, lane=lane, spooled_s=now_s, order=order)
            for raw, order in zip(packets, self._arrivals.come(len(packets)), strict=True)
        ]
        evicted: list[_Drop] = []
        if self._ended:  # a stage that was given up
            evicted, came = [(packet, ENDED) for packet in came], []
        with self._changed:
            if self._kept is not None and came:
                self._kept.note(lane, key := header_of(came[0].raw).key)
                if not self._queues[lane].packets:
                    self._queues[lane].head = key
            self._keep(came, self._queues[lane], now_s)
            while self._used() > self._limits.max_bytes and (given := self._make_room()):
                evicted += given
            while self._memory_bytes() > self._limits.max_memory_bytes:
                evicted += self._make_room(in_memory=True)
        for packet, reason in evicted:
            self._on_drop(packet, reason)
        if self._unsynced() >= self._limits.sync_packets:
            self._sync()

    def tick(self) -> None:
        """Sync what has waited long enough; try a failed disk again."""
        now_s = self._clock.monotonic_s()
        since_s = self._unsynced_since_s
        if since_s is not None and now_s - since_s >= self._limits.sync_s:
            self._sync()
        if self._is_off and now_s - self._tried_s >= self._limits.retry_s:
            self._tried_s = now_s
            self._heal()
        if now_s - self._written_s >= _WRITE_DONE_S:
            self._written_s = now_s
            self._write_done()
            self._bound_files()

    def end(self, reason: str) -> Ended:
        """Sync a last time and close; give up, counted under `reason`, what is in memory alone."""
        self._sync()
        self._write_done()
        with self._changed:
            self._ended = True
            left = [packet for queue in self._queues.values() for packet in queue.memory]
            for lane in LANES if self._kept is not None else ():
                while self._kept is not None and (lost := self._kept.give_up(lane, in_memory=True)):
                    left += [kept_packet(handle, lane) for handle in lost]
            kept = sum(queue.logged for queue in self._queues.values())
            for queue in self._queues.values():
                queue.close()
            self._is_off = True
        for packet in left:
            self._on_drop(packet, reason)
        return Ended(given_up=len(left), kept=kept)

    # ---- the taking thread ---------------------------------------------------------------------

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """See `Spool.take`."""
        until_s = self._clock.monotonic_s() + timeout_s
        damaged: list[_Drop] = []
        with self._changed:
            while (found := self._next(damaged)) is None and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._changed, until_s)
        for packet, reason in damaged:
            self._on_drop(packet, reason)
        return found

    def sent(self, packet: SpooledPacket) -> bool:
        """See `Spool.sent`."""
        with self._changed:
            self._turns.sent(packet.lane)
            if packet.repeat is not None:
                return self._kept is not None and self._kept.repeated(packet.repeat)
            queue = self._queues[packet.lane]
            if queue.offered is not packet:
                return False
            if self._kept is None:
                queue.forget_oldest()
            else:
                header = header_of(packet.raw)
                index, handle = header.segment_index, queue.keep_oldest()
                self._kept.add(packet.lane, header.key, (index,), (handle,), packet.order)
            return True

    def hear(self, session: int, number: int, report: Report) -> None:
        """See `Spool.hear`."""
        with self._changed:
            if self._kept is not None:
                self._kept.all_found = self._all_found()
                self._kept.hear(session, number, report, self._unsent())
                self._changed.notify_all()

    def beacon(self, sent_packets: int) -> Beacon:
        """See `Spool.beacon`."""
        with self._changed:
            kept = self._kept or Unacknowledged(self._release)
            kept.all_found = self._all_found()
            return kept.beacon(sent_packets, self._unsent())

    # ---- either --------------------------------------------------------------------------------

    @property
    def outlives(self) -> bool:
        """See `Spool.outlives`: what is in memory does not."""
        with self._changed:
            return not any(queue.memory for queue in self._queues.values())

    @property
    def packets(self) -> int:
        """See `Spool.packets`."""
        with self._changed:
            return sum(queue.packets for queue in self._queues.values())

    @property
    def kept_frames(self) -> int:
        """See `Spool.kept_frames`."""
        with self._changed:
            return 0 if self._kept is None else self._kept.frames

    @property
    def used_bytes(self) -> int:
        """See `Spool.used_bytes`."""
        with self._changed:
            return self._used()

    @property
    def oldest_age_s(self) -> float:
        """See `Spool.oldest_age_s`; what an earlier process left is as old as this one."""
        with self._changed:
            heads = [queue.oldest_s for queue in self._queues.values() if queue.packets]
        return self._clock.monotonic_s() - min(heads) if heads else 0.0

    # ---- inside, under the lock ----------------------------------------------------------------

    def _used(self) -> int:
        return sum(queue.used_bytes for queue in self._queues.values())

    def _memory_bytes(self) -> int:
        return sum(queue.memory_bytes for queue in self._queues.values())

    def _bound_files(self) -> None:
        """Give up the little that is left in old files, where these would take too much."""
        most = self._limits.max_bytes + len(LANES) * self._limits.segment_bytes
        given = list[_Drop]()
        with self._changed:
            while self._kept is not None:
                dead = {q.lane: q.log.dead_bytes for q in self._queues.values() if q.log}
                if sum(dead.values()) <= most:
                    break
                worst = max(dead, key=dead.__getitem__)
                if not (lost := self._kept.give_up(worst)):
                    break
                given += [(kept_packet(handle, worst), UNACKNOWLEDGED) for handle in lost]
        for packet, reason in given:
            self._on_drop(packet, reason)

    def _all_found(self) -> bool:
        """Whether all that earlier processes left could be read."""
        logs = [queue.log for queue in self._queues.values()]
        return all(log_ is not None and not log_.recovery.unreadable for log_ in logs)

    def _unsynced(self) -> int:
        return sum(queue.log.unsynced for queue in self._queues.values() if queue.log is not None)

    def _keep(self, packets: Sequence[SpooledPacket], queue: LaneQueue, now_s: float) -> None:
        """Write packets to the log of their lane, or to memory; no other came between them."""
        if packets and not self._is_off and queue.log is not None:
            least = self._arrivals.sequence_of(packets[0].order)
            try:
                queue.log.append([packet.raw for packet in packets], now_s, least=least)
            except OSError as error:
                self._degrade(error)
            else:
                if self._unsynced_since_s is None:
                    self._unsynced_since_s = now_s
                return
        queue.remember(packets)
        self._changed.notify_all()

    def _next(self, damaged: list[_Drop]) -> SpooledPacket | None:
        """What to send next; what cannot be read is given up."""
        now_s = self._clock.monotonic_s()
        for queue in map(self._queues.__getitem__, self._turns.order):
            if now_s >= queue.no_repeats_until_s and (repeat := self._next_repeat(queue, damaged)):
                return repeat
            while True:
                self._offer(queue, now_s, damaged)
                if queue.offered is None or self._kept is None:
                    break
                key = header_of(queue.offered.raw).key
                if not (queue.logged and queue.offers_memory):  # else what is older waits
                    queue.head = key
                if not self._kept.is_done(key):
                    break
                queue.forget_oldest()  # the ground has it, from an earlier time
            if queue.offered is not None:
                return queue.offered
        return None

    def _offer(self, queue: LaneQueue, now_s: float, damaged: list[_Drop]) -> None:
        """Read the oldest packet of a queue that can be read."""
        while queue.offered is None and queue.log is not None and queue.log.readable:
            if now_s < queue.unreadable_until_s:
                break
            try:
                raw = queue.log.oldest()
            except DamagedRecordError as error:
                log.warning("spooled packet lost", extra={"error": str(error)})
                damaged.append((queue.give_up(read=False), DAMAGED))
            except OSError as error:  # of the disk, not of the record: it may pass
                self._cannot_read(queue, now_s, error)
            else:
                queue.offered = SpooledPacket(
                    raw=raw,
                    lane=queue.lane,
                    spooled_s=queue.log.oldest_s,
                    order=self._arrivals.order_of(queue.log.oldest_sequence),
                )
        waits = queue.logged and now_s >= queue.unreadable_until_s
        if queue.offered is None and not waits and queue.memory:
            queue.offered = queue.memory[0]

    def _next_repeat(self, queue: LaneQueue, damaged: list[_Drop]) -> SpooledPacket | None:
        """The packet that was asked for first."""
        now_s = self._clock.monotonic_s()
        while self._kept is not None and (repeat := self._kept.next_repeat(queue.lane)):
            raw = repeat.handle
            try:
                if isinstance(raw, int) and queue.log is not None:
                    raw = queue.log.read(raw)
            except DamagedRecordError as error:
                log.warning("spooled packet lost", extra={"error": str(error)})
                self._kept.cannot(repeat)
                damaged.append((kept_packet(raw, queue.lane), DAMAGED))
                continue
            except OSError as error:
                log.warning("spool cannot be read", extra={"error": str(error)})
                queue.no_repeats_until_s = now_s + _REPEAT_RETRY_S
                self._kept.postpone(repeat)
            if isinstance(raw, bytes):
                return SpooledPacket(raw=raw, lane=queue.lane, spooled_s=now_s, repeat=repeat)
            break
        return None

    def _cannot_read(self, queue: LaneQueue, now_s: float, error: OSError) -> None:
        log.warning("spool cannot be read", extra={"error": str(error)})
        queue.unreadable_until_s = now_s + self._limits.retry_s

    def _unsent(self) -> dict[Lane, FrameKey | None]:
        """The frame of the next packet of each queue that was not sent."""
        return {lane: q.head if q.packets else None for lane, q in self._queues.items()}

    def _make_room(self, *, in_memory: bool = False) -> list[_Drop]:
        """Make room, on the disk or in memory, see `gives_way`."""
        lane = gives_way(partial(self._oldest, in_memory=in_memory))
        if lane is None:
            return []
        if self._kept is not None and (lost := self._kept.give_up(lane, in_memory=in_memory)):
            return [(kept_packet(handle, lane), UNACKNOWLEDGED) for handle in lost]
        queue = self._queues[lane]
        return [(queue.give_up_in_memory() if in_memory else queue.give_up(), EVICTED)]

    def _oldest(self, lane: Lane, *, in_memory: bool) -> int | None:
        """What was sent came before what was not."""
        order = None if self._kept is None else self._kept.oldest(lane, in_memory=in_memory)
        if order is None:
            queue = self._queues[lane]
            order = queue.oldest_in_memory if in_memory else queue.oldest_order
        return order

    def _release(self, lane: Lane, handles: Iterable[Handle]) -> None:
        self._queues[lane].release(handles)

    def _degrade(self, error: OSError) -> None:
        """Take back what may not be on the disk, and go on in memory."""
        reason = errno.errorcode.get(error.errno or 0, "EIO")
        if self.degraded is None:  # said once, however often the disk is tried
            log.error("spool degraded to memory", extra={"reason": reason, "error": str(error)})
        self.degraded, self._is_off = reason, True
        self._tried_s = self._clock.monotonic_s()
        for queue in self._queues.values():
            queue.take_back_unsynced()
        self._unsynced_since_s = None
        self._changed.notify_all()

    # ---- inside, without the lock: it may take long ---------------------------------------------

    def _sync(self) -> None:
        """Bring what was written to the disk; only then can it be taken.

        Nobody but this thread writes, so the lock is not held while the disk is at work.
        """
        if self._unsynced_since_s is None:
            return
        for queue in self._queues.values():
            if queue.log is None:
                continue
            try:
                queue.log.sync_files()
            except OSError as error:
                with self._changed:
                    self._degrade(error)
                return
        with self._changed:
            for queue in self._queues.values():
                if queue.log is not None:
                    queue.log.note_synced()
            self._unsynced_since_s = None
            if self.degraded is not None:
                log.info("spool uses the disk again", extra={"was": self.degraded})
                self.degraded = None
            self._changed.notify_all()

    def _open_logs(self, on_file: Callable[[], object] = lambda: None) -> None:
        limits, now_s = self._limits, self._clock.monotonic_s()
        opened = dict[Lane, FoundPackets]()
        for lane, queue in self._queues.items():
            if queue.log is None:
                found = FoundPackets()
                try:
                    log_ = SegmentLog(
                        self._folder / lane.folder,
                        self._disk,
                        segment_bytes=limits.segment_bytes,
                        now_s=now_s,
                        keep=None if self._kept is None else found.take,
                        on_file=on_file,
                    )
                except OSError as error:
                    with self._changed:
                        self._degrade(error)
                    break
                with self._changed:
                    queue.log = log_
                opened[lane] = found
                self.recovery += log_.recovery
        with self._changed:
            logs = [queue.log for queue in self._queues.values() if queue.log is not None]
            self._arrivals.begin(
                max((log_.next_sequence for log_ in logs), default=0),
                max((log_.newest_sequence for log_ in logs), default=-1),
            )
            if self._kept is not None and opened:
                self._kept.begin_with(self._read_done())
            self._take_back(opened)

    def _take_back(self, opened: Mapping[Lane, FoundPackets]) -> None:
        """Keep what an earlier process sent."""
        if self._kept is None:
            return
        self._kept.find({lane: found.keys for lane, found in opened.items()})
        for lane, found in opened.items():
            if found.head is not None:
                self._queues[lane].head = found.head
            for key, indexes, sequences in found.sent():
                order = self._arrivals.order_of(sequences[0])
                self._kept.add(lane, key, indexes, sequences, order)

    def _write_done(self) -> None:
        """Write down what the ground has, not synced: a loss of power costs knowing it, no more."""
        with self._changed:
            kept, is_off = self._kept, self._is_off
            if kept is None or is_off or kept.changes == self._changes:
                return
            self._changes, raw = kept.changes, kept.acknowledged()
        with contextlib.suppress(OSError):
            file = self._disk.open(self._folder / _DONE_NAME)
            try:
                self._disk.write(file, with_crc(raw), 0)
                self._disk.cut(file, len(with_crc(raw)))
            finally:
                self._disk.close(file)

    def _read_done(self) -> bytes:
        try:
            self._disk.names(self._folder)
            file = self._disk.open(self._folder / _DONE_NAME)
            try:
                raw = self._disk.read(file, self._disk.size(file), 0)
            finally:
                self._disk.close(file)
        except OSError:
            raw = b""
        return without_crc(raw) or msgpack.packb([])

    def _heal(self) -> None:
        """Use the disk again: write to it what memory holds, but for what the link has in hand."""
        self._is_off = False
        self._open_logs()
        with self._changed:
            now_s = self._clock.monotonic_s()
            held = [queue.empty_memory() for queue in self._queues.values()]
            came = merge(*held, key=attrgetter("order"))
            for run in _runs(came):
                self._keep(run, self._queues[run[0].lane], now_s)
        self._sync()


def _runs(packets: Iterable[SpooledPacket]) -> Iterator[list[SpooledPacket]]:
    """Packets of one lane between which no other came, so many at once."""
    run = list[SpooledPacket]()
    for packet in packets:
        follows = run and (packet.lane, packet.order) == (run[-1].lane, run[-1].order + 1)
        if run and (not follows or len(run) == _AT_ONCE):
            yield run
            run = []
        run.append(packet)
    if run:
        yield run
