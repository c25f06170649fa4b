"""A spool that outlives the process: packets in files, one log a channel.

A packet is offered to the link only once its record is on the disk. Records are synced together:
when enough of them wait for it, or the oldest has waited long enough. One thread appends and calls
`tick`; another takes.

**Degraded.** Where the disk fails (full, read-only, EIO, another process's) nothing stops: what is
not on it yet, and what comes, is kept in memory, up to a limit of its own, and goes to the link
from there. From time to time the disk is tried again, with new files; what memory holds goes to
them first. What is on the disk and cannot be read now is tried again, too, and waits.

Where the ground acknowledges, a packet that was sent stays in its log until that. Which have been
is not on the disk: a process that begins anew keeps all that was sent, until the ground says so
again, and repeats none of it unasked.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from daemon.clock import Clock
from daemon.disk import Disk, LocalDisk
from daemon.errors import DamagedRecordError, SpoolFullError
from daemon.link.beacon import Beacon
from daemon.link.commands import Report
from daemon.link.packet import SPOOLED, Channel, FrameKey, PacketHeader, header_of
from daemon.link.repeats import Handle, Unacknowledged
from daemon.onboard.segment_log import Found, SegmentLog
from daemon.onboard.spool import EVICTED, UNACKNOWLEDGED, OnDrop, SpooledPacket, Turns, kept_packet
from daemon.records import Recovery

log = logging.getLogger(__name__)

DAMAGED: Final = "damaged"
ENDED: Final = "ended"
"""Why a packet was given up: its record is not what was written; it came too late."""
_AT_ONCE: Final = 256
"""Packets of memory written at a time."""

_Drop: TypeAlias = tuple[SpooledPacket, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpoolLimits:
    """Bounds of a spool on a disk.

    Attributes:
        max_bytes: Most bytes of packets that may wait. Files take 20 bytes more for each packet,
            and a segment for each channel.
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


class _Lane:
    """What waits on a channel: its log, and in memory what is newer than all of it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.log: SegmentLog | None = None
        self.memory: deque[SpooledPacket] = deque()
        self.offered: SpooledPacket | None = None
        self.head: FrameKey | None = None
        """No later than the frame of the oldest packet; only where the ground acknowledges."""
        self.unreadable_until_s = -math.inf

    @property
    def offers_memory(self) -> bool:
        """Whether what is offered is not the log's."""
        return bool(self.memory) and self.offered is self.memory[0]

    @property
    def logged(self) -> int:
        return 0 if self.log is None else self.log.packets

    @property
    def packets(self) -> int:
        return self.logged + len(self.memory)

    @property
    def oldest_s(self) -> float:
        if self.log is not None and self.log.packets:
            return self.log.oldest_s
        return self.memory[0].spooled_s


class DiskSpool:
    """See `daemon.onboard.spool.Spool`.

    Args:
        folder: Of the logs.
        limits: Bounds.
        clock: Stamps packets, and times syncs.
        on_drop: Called with each packet given up and the reason.
        acknowledged: Whether the ground acknowledges.
        disk: The file system.

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
    ) -> None:
        self._folder, self._limits, self._clock = folder, limits, clock
        self._on_drop, self._disk = on_drop, disk or LocalDisk()
        self._changed = threading.Condition()
        self._lanes = {channel: _Lane(channel) for channel in SPOOLED}
        self._kept = Unacknowledged(self._release) if acknowledged else None
        self._turns = Turns()
        self._memory_bytes = 0
        self._unsynced_since_s: float | None = None
        self._tried_s = clock.monotonic_s()
        self._is_off = self._ended = False
        self.degraded: str | None = None
        self.recovery = Recovery()
        self._open_logs()

    # ---- the writing thread --------------------------------------------------------------------

    def append(self, packets: Sequence[bytes], channel: Channel) -> None:
        """See `Spool.append`."""
        size = sum(map(len, packets))
        if size > self._limits.max_bytes:
            raise SpoolFullError(size, self._limits.max_bytes)
        now_s = self._clock.monotonic_s()
        came = [SpooledPacket(raw=raw, channel=channel, spooled_s=now_s) for raw in packets]
        evicted: list[_Drop] = []
        if self._ended:  # a stage that was given up
            evicted, came, size = [(packet, ENDED) for packet in came], [], 0
        with self._changed:
            while self._used() + size > self._limits.max_bytes:
                evicted += self._make_room()
            if self._kept is not None and came:
                self._kept.note(key := header_of(came[0].raw).key)
                if not self._lanes[channel].packets:
                    self._lanes[channel].head = key
            self._keep(came, self._lanes[channel], now_s)
            while self._memory_bytes > self._limits.max_memory_bytes:
                evicted += self._make_room_in_memory()
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

    def end(self, reason: str) -> int:
        """Sync a last time and close; give up, counted under `reason`, what is in memory alone."""
        self._sync()
        with self._changed:
            self._ended = True
            left = [packet for lane in self._lanes.values() for packet in lane.memory]
            for channel in SPOOLED if self._kept is not None else ():
                while self._kept is not None and (
                    lost := self._kept.give_up(channel, in_memory=True)
                ):
                    left += [kept_packet(handle, channel) for handle in lost]
            for lane in self._lanes.values():
                lane.memory.clear()
                lane.offered = None
                if lane.log is not None:
                    lane.log.close()
                    lane.log = None
            self._memory_bytes, self._is_off = 0, True
        for packet in left:
            self._on_drop(packet, reason)
        return len(left)

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
            self._turns.sent(packet.channel)
            if packet.repeat is not None:
                return self._kept is not None and self._kept.repeated(packet.repeat)
            lane = self._lanes[packet.channel]
            if lane.offered is not packet:
                return False
            if self._kept is None:
                self._forget_oldest(lane)
            else:
                self._kept.add(header_of(packet.raw), self._keep_oldest(lane))
            return True

    def hear(self, session: int, number: int, report: Report) -> None:
        """See `Spool.hear`."""
        with self._changed:
            if self._kept is not None:
                self._kept.hear(session, number, report, self._unsent())
                self._changed.notify_all()

    def beacon(self, sent_packets: int) -> Beacon:
        """See `Spool.beacon`."""
        with self._changed:
            kept = self._kept or Unacknowledged(self._release)
            return kept.beacon(sent_packets, self._unsent())

    # ---- either --------------------------------------------------------------------------------

    @property
    def outlives(self) -> bool:
        """See `Spool.outlives`: what is in memory does not."""
        with self._changed:
            return not any(lane.memory for lane in self._lanes.values())

    @property
    def packets(self) -> int:
        """See `Spool.packets`."""
        with self._changed:
            return sum(lane.packets for lane in self._lanes.values())

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
            heads = [lane.oldest_s for lane in self._lanes.values() if lane.packets]
        return self._clock.monotonic_s() - min(heads) if heads else 0.0

    # ---- inside, under the lock ----------------------------------------------------------------

    def _used(self) -> int:
        logs = (lane.log for lane in self._lanes.values() if lane.log is not None)
        return self._memory_bytes + sum(log_.used_bytes for log_ in logs)

    def _unsynced(self) -> int:
        return sum(lane.log.unsynced for lane in self._lanes.values() if lane.log is not None)

    def _keep(self, packets: Sequence[SpooledPacket], lane: _Lane, now_s: float) -> None:
        if packets and not self._is_off and lane.log is not None:
            try:
                lane.log.append([packet.raw for packet in packets], now_s)
            except OSError as error:
                self._degrade(error)
            else:
                if self._unsynced_since_s is None:
                    self._unsynced_since_s = now_s
                return
        lane.memory.extend(packets)
        self._memory_bytes += sum(len(packet.raw) for packet in packets)
        self._changed.notify_all()

    def _next(self, damaged: list[_Drop]) -> SpooledPacket | None:
        """What to send next; what cannot be read is given up."""
        now_s = self._clock.monotonic_s()
        for lane in map(self._lanes.__getitem__, self._turns.order):
            if now_s >= lane.unreadable_until_s and (repeat := self._next_repeat(lane, damaged)):
                return repeat
            while True:
                self._offer(lane, now_s, damaged)
                if lane.offered is None or self._kept is None:
                    break
                lane.head = header_of(lane.offered.raw).key
                if not self._kept.is_done(lane.head):
                    break
                self._forget_oldest(lane)  # the ground has it, from an earlier time
            if lane.offered is not None:
                return lane.offered
        return None

    def _offer(self, lane: _Lane, now_s: float, damaged: list[_Drop]) -> None:
        """Read the oldest packet of a lane that can be read."""
        while lane.offered is None and lane.log is not None and lane.log.readable:
            if now_s < lane.unreadable_until_s:
                break
            try:
                raw = lane.log.oldest()
            except DamagedRecordError as error:
                log.warning("spooled packet lost", extra={"error": str(error)})
                damaged.append(self._give_up(lane, DAMAGED))
            except OSError as error:  # of the disk, not of the record: it may pass
                self._cannot_read(lane, now_s, error)
            else:
                lane.offered = SpooledPacket(
                    raw=raw, channel=lane.channel, spooled_s=lane.log.oldest_s
                )
        waits = lane.logged and now_s >= lane.unreadable_until_s
        if lane.offered is None and not waits and lane.memory:
            lane.offered = lane.memory[0]

    def _next_repeat(self, lane: _Lane, damaged: list[_Drop]) -> SpooledPacket | None:
        """The packet that was asked for first."""
        now_s = self._clock.monotonic_s()
        while self._kept is not None and (repeat := self._kept.next_repeat(lane.channel)):
            raw = repeat.handle
            try:
                if isinstance(raw, int) and lane.log is not None:
                    raw = lane.log.read(raw)
            except DamagedRecordError as error:
                log.warning("spooled packet lost", extra={"error": str(error)})
                lost = self._kept.cannot(repeat)
                damaged += [(kept_packet(handle, lane.channel), DAMAGED) for handle in lost]
                continue
            except OSError as error:
                self._cannot_read(lane, now_s, error)
            if isinstance(raw, bytes):
                return SpooledPacket(raw=raw, channel=lane.channel, spooled_s=now_s, repeat=repeat)
            break
        return None

    def _cannot_read(self, lane: _Lane, now_s: float, error: OSError) -> None:
        log.warning("spool cannot be read", extra={"error": str(error)})
        lane.unreadable_until_s = now_s + self._limits.retry_s

    def _unsent(self) -> dict[Channel, FrameKey | None]:
        """The frame of the next packet of each lane that was not sent."""
        return {c: lane.head if lane.packets else None for c, lane in self._lanes.items()}

    def _make_room(self) -> list[_Drop]:
        """Give up what has the lowest priority and is oldest."""
        for lane in reversed(self._lanes.values()):
            if lost := self._kept.give_up(lane.channel) if self._kept is not None else []:
                return [(kept_packet(handle, lane.channel), UNACKNOWLEDGED) for handle in lost]
            if lane.packets:
                return [self._give_up(lane, EVICTED)]
        return []

    def _give_up(self, lane: _Lane, reason: str) -> tuple[SpooledPacket, str]:
        """Forget a lane's oldest packet; its bytes are told only where they can be read."""
        packet = lane.offered
        if packet is None and lane.logged and lane.log is not None:
            raw = b""
            if reason != DAMAGED:
                with contextlib.suppress(OSError, DamagedRecordError):
                    raw = lane.log.oldest()
            packet = SpooledPacket(raw=raw, channel=lane.channel, spooled_s=lane.log.oldest_s)
        packet = packet or lane.memory[0]
        self._forget_oldest(lane)
        return packet, reason

    def _make_room_in_memory(self) -> list[_Drop]:
        for lane in reversed(self._lanes.values()):
            kept = self._kept
            if lost := kept.give_up(lane.channel, in_memory=True) if kept is not None else []:
                return [(kept_packet(handle, lane.channel), UNACKNOWLEDGED) for handle in lost]
            if lane.memory:
                packet = lane.memory.popleft()
                self._memory_bytes -= len(packet.raw)
                if lane.offered is packet:
                    lane.offered = None
                return [(packet, EVICTED)]
        return []

    def _keep_oldest(self, lane: _Lane) -> Handle:
        """What is offered was sent, and is kept; return what it is found by."""
        if lane.log is not None and lane.log.packets and not lane.offers_memory:
            handle: Handle = lane.log.oldest_sequence
            lane.log.finish_oldest(keep=True)
        else:
            handle = lane.memory.popleft().raw
        lane.offered = None
        return handle

    def _release(self, channel: Channel, handles: Iterable[Handle]) -> None:
        log_ = self._lanes[channel].log
        for handle in handles:
            if isinstance(handle, bytes):
                self._memory_bytes -= len(handle)
            elif log_ is not None:
                log_.release(handle)

    def _forget_oldest(self, lane: _Lane) -> None:
        """What is offered, or the oldest: while it was, a log may have been found before it."""
        if lane.log is not None and lane.log.packets and not lane.offers_memory:
            lane.log.finish_oldest()
        else:
            self._memory_bytes -= len(lane.memory.popleft().raw)
        lane.offered = None

    def _degrade(self, error: OSError) -> None:
        """Take back what may not be on the disk, and go on in memory."""
        reason = errno.errorcode.get(error.errno or 0, "EIO")
        if self.degraded is None:  # said once, however often the disk is tried
            log.error("spool degraded to memory", extra={"reason": reason, "error": str(error)})
        self.degraded, self._is_off = reason, True
        self._tried_s = self._clock.monotonic_s()
        for lane in self._lanes.values():
            if lane.log is not None:
                again = [
                    SpooledPacket(raw=raw, channel=lane.channel, spooled_s=spooled_s)
                    for raw, spooled_s in lane.log.abandon()
                ]
                in_hand = [lane.memory.popleft()] if lane.offers_memory else []
                lane.memory.extendleft(reversed([*in_hand, *again]))
                self._memory_bytes += sum(len(packet.raw) for packet in again)
        self._unsynced_since_s = None
        self._changed.notify_all()

    # ---- inside, without the lock: it may take long ---------------------------------------------

    def _sync(self) -> None:
        """Bring what was written to the disk; only then can it be taken.

        Nobody but this thread writes, so the lock is not held while the disk is at work.
        """
        if self._unsynced_since_s is None:
            return
        for lane in self._lanes.values():
            if lane.log is None:
                continue
            try:
                lane.log.sync_files()
            except OSError as error:
                with self._changed:
                    self._degrade(error)
                return
        with self._changed:
            for lane in self._lanes.values():
                if lane.log is not None:
                    lane.log.note_synced()
            self._unsynced_since_s = None
            if self.degraded is not None:
                log.info("spool uses the disk again", extra={"was": self.degraded})
                self.degraded = None
            self._changed.notify_all()

    def _open_logs(self) -> None:
        limits, now_s = self._limits, self._clock.monotonic_s()
        opened = list[_Lane]()
        for lane in self._lanes.values():
            if lane.log is None:
                folder = self._folder / lane.channel.name.lower()
                try:
                    found = SegmentLog(
                        folder,
                        self._disk,
                        segment_bytes=limits.segment_bytes,
                        now_s=now_s,
                        keeps=self._kept is not None,
                    )
                except OSError as error:
                    with self._changed:
                        self._degrade(error)
                    break
                with self._changed:
                    lane.log = found
                opened.append(lane)
                self.recovery += found.recovery
        with self._changed:
            self._take_back(opened)

    def _take_back(self, lanes: Sequence[_Lane]) -> None:
        """Keep what an earlier process sent."""
        if self._kept is None:
            return
        packets = list[tuple[_Lane, PacketHeader, Found]]()
        for lane in lanes:
            if lane.log is not None:
                packets += ((lane, header_of(found.beginning), found) for found in lane.log.found)
                lane.log.found = []
        self._kept.find([[h.key for at, h, _ in packets if at is lane] for lane in lanes])
        for lane, header, found in reversed(packets):
            if not found.done:
                lane.head = header.key
        for _, header, found in packets:
            if found.done:
                self._kept.add(header, found.sequence)

    def _heal(self) -> None:
        """Use the disk again: write to it what memory holds, but for what the link has in hand."""
        self._is_off = False
        self._open_logs()
        with self._changed:
            now_s = self._clock.monotonic_s()
            for lane in self._lanes.values():
                held, in_hand = list(lane.memory), int(lane.offers_memory)
                lane.memory = deque(held[:in_hand])
                self._memory_bytes -= sum(len(packet.raw) for packet in held[in_hand:])
                for start in range(in_hand, len(held), _AT_ONCE):
                    self._keep(held[start : start + _AT_ONCE], lane, now_s)
        self._sync()
