"""Packets of frames that are not whole yet, on a disk: a ground that begins anew goes on with them.

Most frames are whole within moments, and nothing is written for them. Of the others the thread that
puts frames together offers, every second, what is not on the disk, and the one that keeps frames
writes it: who takes packets from the link never waits for a disk.

A record (`daemon.ground.record_files`) is packets of a frame on end. They are needed until the
frame is durable in the archive, or given up. A file of which nothing is needed is removed; and
where most is not needed, what is needed of the oldest files is written anew, so that all take no
more than twice the memory of incomplete frames, and a file.

Where the disk fails frames are put together as ever. It is tried again from time to time.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from daemon.clock import Clock
from daemon.disk import Disk, LocalDisk
from daemon.ground.metrics import GroundMetrics
from daemon.ground.record_files import Place, RecordFiles, Segment
from daemon.link.packet import MAX_PACKET_BYTES, FrameKey, Packet
from daemon.link.packet_stream import StreamCounts, packets_in
from daemon.link.reassembly import Reassembler
from daemon.records import OVERHEAD_BYTES

log = logging.getLogger(__name__)

_EVERY_S: Final = 1.0
"""Time between two offers, and age from which on a frame's packets are offered [s]."""
_SEGMENT_BYTES: Final = 4 << 20
_RECORD_BYTES: Final = 1 << 20
"""A record that has grown to this gets no more packets."""
_MAX_PAYLOAD_BYTES: Final = _RECORD_BYTES + MAX_PACKET_BYTES


@dataclass(slots=True)
class _Kept:
    """What is on the disk of a frame.

    Attributes:
        first: Its first packet; None: it is to be written whole, for the place or the order of its
            packets is another.
        count: So many packets, the first that came.
        places: Records of them.
    """

    first: Packet | None = None
    count: int = 0
    places: list[Place] = field(default_factory=list)


class _Offer(NamedTuple):
    """Packets of a frame that are not on the disk, and how many before them are."""

    first: Packet
    start: int
    packets: list[Packet]


class HalfReceived:
    """Keeps what came of incomplete frames, of one process alone.

    Args:
        folder: Of its files; made if it is not there.
        clock: Times offers and retries.
        disk: The file system.
        retry_s: Time between two tries of a disk that failed [s].
        is_whole: Tells whether a frame, by boot and number, needs no packets: it is archived.
        metrics: Told what is kept and found.

    Attributes:
        degraded: Why the disk is not used: the error's name, as "ENOSPC"; None while it is.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        disk: Disk | None = None,
        *,
        retry_s: float,
        is_whole: Callable[[int, int], bool],
        metrics: GroundMetrics,
    ) -> None:
        self._clock, self._retry_s = clock, retry_s
        self._is_whole, self._metrics = is_whole, metrics
        self._files = RecordFiles(
            folder, disk or LocalDisk(), segment_bytes=_SEGMENT_BYTES, limit=_MAX_PAYLOAD_BYTES
        )
        self._mutex = threading.Lock()
        self._kept: dict[FrameKey, _Kept] = {}
        self._found: deque[Packet] = deque()
        self._offered: list[_Offer] = []
        self._settled: set[FrameKey] = set()
        """Frames that became durable since the last offer, which may have packets of them."""
        self._is_offered = self._is_writing = False
        self._offer_at_s = self._retry_at_s = -math.inf
        self.degraded: str | None = None
        self._is_ready()

    # ---- the thread that puts frames together --------------------------------------------------

    def found(self) -> Iterator[Packet]:
        """Give packets that an earlier process left; each once."""
        while self._found:
            yield self._found.popleft()

    def offer(self, frames: Reassembler, *, last: bool = False) -> None:
        """Have what is not on the disk written, if it is time; the last time all of it."""
        now_s = self._clock.monotonic_s()
        if not last and now_s < max(self._offer_at_s, self._retry_at_s):
            return
        with self._mutex:
            if self._found or (self._is_writing and not last):
                return
            self._offer_at_s = now_s + _EVERY_S
            for key in [key for key in self._kept if not frames.remembers(key)]:
                del self._kept[key]
            self._offered, self._is_offered = [], True
            self._settled.clear()
            for first, count in frames.incomplete(math.inf if last else now_s - _EVERY_S):
                key = first.boot_id, first.frame_id
                kept = self._kept.get(key)
                start = kept.count if kept is not None and kept.first is first else 0
                if start < count:
                    self._offered.append(_Offer(first, start, frames.packets(key, start)))

    # ---- the thread that keeps -----------------------------------------------------------------

    def durable(self, keys: Iterable[FrameKey]) -> None:
        """Frames are whole and there for good: their packets are not needed."""
        with self._mutex:
            for key in keys:
                self._settled.add(key)
                self._kept.pop(key, None)

    def write(self, *, last: bool = False) -> None:
        """Write what was offered, durably; the last time without regard to when the disk failed."""
        with self._mutex:
            if not (self._is_offered or last):
                return
            offers, self._offered = self._offered, []
            self._is_offered, self._is_writing = False, True
        try:
            written = self._is_ready(at_once=last) and self._write(offers)
        finally:
            self._is_writing = False
        if written:
            self._remove_what_is_not_needed()
        elif last:
            for offer in offers:
                self._metrics.frames_incomplete.labels(offer.first.channel.name.lower()).inc()
        self._tell()

    def close(self) -> None:
        """Close the files; nothing is written after that."""
        self._files.close()
        self._retry_at_s = math.inf

    # ---- inside --------------------------------------------------------------------------------

    def _is_ready(self, *, at_once: bool = False) -> bool:
        """Whether the disk may be used; when it first can, find what an earlier process left."""
        if self._clock.monotonic_s() < self._retry_at_s and not at_once:
            return False
        if self._files.is_open:
            return True
        counts = StreamCounts()
        try:
            for place, payload in self._files.open(_MAX_PAYLOAD_BYTES):
                for packet in packets_in(payload, counts):
                    self._find(packet, place)
        except OSError as error:
            self._degrade(error)
            return False
        recovery = self._files.recovery
        skipped_bytes = recovery.skipped_bytes + counts.skipped_bytes
        log.info(
            "half-received frames opened",
            extra={"frames": len(self._kept), "skipped_bytes": skipped_bytes},
        )
        self._metrics.half_received_recovered_packets.set(len(self._found))
        self._metrics.half_received_skipped_bytes.set(skipped_bytes)
        self._metrics.half_received_unreadable_files.set(recovery.unreadable)
        self._tell()
        return True

    def _find(self, packet: Packet, place: Place) -> None:
        key = packet.boot_id, packet.frame_id
        if self._is_whole(*key):
            return
        self._found.append(packet)
        with self._mutex:
            places = self._kept.setdefault(key, _Kept()).places
            if place not in places[-1:]:
                places.append(place)

    def _write(self, offers: Sequence[_Offer]) -> bool:
        """Append packets and sync; tell whether the disk took them."""
        try:
            written = [
                (offer, [self._files.append(payload) for payload in _payloads(offer.packets)])
                for offer in offers
            ]
            self._files.sync()
        except OSError as error:
            self._degrade(error)
            return False
        if self.degraded is not None:
            log.info("half-received frames are kept again", extra={"was": self.degraded})
            self.degraded = None
        with self._mutex:
            for (first, start, packets), places in written:
                key = first.boot_id, first.frame_id
                if key in self._settled:
                    continue
                if not start:
                    self._kept[key] = _Kept(first, len(packets), places)
                elif kept := self._kept.get(key):
                    kept.count += len(packets)
                    kept.places += places
        return True

    def _remove_what_is_not_needed(self) -> None:
        """Remove files; have what is needed of the oldest written anew if most is not needed."""
        files, needed = self._files, Counter[Segment]()
        with self._mutex:
            for kept in self._kept.values():
                for segment, _, size in kept.places:
                    needed[segment] += OVERHEAD_BYTES + size
        for segment in [segment for segment in files.segments if segment not in needed]:
            files.remove(segment)
        excess = files.used_bytes - 2 * needed.total() - _SEGMENT_BYTES
        oldest = set[Segment]()
        for segment in files.segments:
            if excess > 0:
                oldest.add(segment)
                excess -= segment.end - needed[segment]
        with self._mutex:
            for kept in self._kept.values():
                if any(place.segment in oldest for place in kept.places):
                    kept.first = None

    def _degrade(self, error: OSError) -> None:
        reason = errno.errorcode.get(error.errno or 0, "EIO")
        if self.degraded is None:  # said once, however often the disk is tried
            told = {"folder": str(self._files.folder), "reason": reason, "error": str(error)}
            log.error("half-received frames are not kept", extra=told)
        self.degraded = reason
        self._retry_at_s = self._clock.monotonic_s() + self._retry_s
        self._tell()

    def _tell(self) -> None:
        self._metrics.half_received_frames.set(len(self._kept))
        self._metrics.half_received_bytes.set(self._files.used_bytes)
        self._metrics.half_received_degraded.set(self.degraded is not None)


def _payloads(packets: Iterable[Packet]) -> Iterator[bytes]:
    """Packets on end, in portions that a record takes."""
    portion = bytearray()
    for packet in packets:
        portion += packet.pack()
        if len(portion) >= _RECORD_BYTES:
            yield bytes(portion)
            portion.clear()
    if portion:
        yield bytes(portion)
