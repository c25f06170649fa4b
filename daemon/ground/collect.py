"""Packets in, frames out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from daemon.clock import Clock
from daemon.errors import PacketError, ReassemblyError
from daemon.ground.half_received import HalfReceived
from daemon.ground.items import CollectedFrame
from daemon.ground.metrics import GroundMetrics
from daemon.ground.report import Reports
from daemon.link.packet import Channel, Packet
from daemon.link.quality_note import QualityNote, is_note
from daemon.link.reassembly import Reassembler

log = logging.getLogger(__name__)


class CollectWorker:
    """Puts frames together from packets that come in any order, twice, or not at all.

    Args:
        reassembler: Does.
        clock: Says when they came.
        metrics: Counts frames.
        reports: Told what came, to report it to the board; None: nobody is.
        on_note: Told what the board found of patches. Must neither raise nor wait.

    Attributes:
        half_received: Keeps what came of incomplete frames; None: nobody does.
    """

    def __init__(
        self,
        reassembler: Reassembler,
        clock: Clock,
        metrics: GroundMetrics,
        reports: Reports | None = None,
        on_note: Callable[[QualityNote], object] = lambda _: None,
    ) -> None:
        self._reports, self._on_note = reports, on_note
        self._reassembler, self._clock, self._metrics = reassembler, clock, metrics
        self._forgotten: deque[tuple[int, int]] = deque()
        self.half_received: HalfReceived | None = None

    def forget(self, frames: Iterable[tuple[int, int]]) -> None:
        """Put these together again when they are sent again; from any thread.

        Args:
            frames: (boot_id, frame_id) of complete frames that could not be kept.
        """
        self._forgotten.extend(frames)

    def accept(self, item: Packet) -> Iterator[CollectedFrame]:
        """Take one packet; return its frame if nothing is missing any more.

        Raises:
            ReassemblyError: If it contradicts other packets of its frame.
        """
        now_s = self._clock.monotonic_s()
        if self._reports is not None:
            self._reports.heard(item, now_s)
        if item.channel is Channel.HOUSEKEEPING:
            if is_note(item.data):
                self._note(item.data)
            return
        self._forget(now_s)
        if (whole := self._feed(item, now_s)) is not None:
            yield whole

    def tick(self) -> list[CollectedFrame]:
        """Report to the board; give up frames that waited too long for their packets."""
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        whole = self._take_back(now_s)
        if self._reports is not None:
            self._reports.tick(now_s)
        self._expire(now_s)
        if self.half_received is not None:
            self.half_received.offer(self._reassembler)
        return whole

    def finish(self) -> list[CollectedFrame]:
        """Have what is incomplete kept, or give it up."""
        if self.half_received is None:
            self._expire(float("inf"))
            return []
        whole = self._take_back(now_s := self._clock.monotonic_s())
        self._expire(now_s)
        self.half_received.offer(self._reassembler, last=True)
        return whole

    def _feed(self, item: Packet, now_s: float) -> CollectedFrame | None:
        frames, metrics = self._reassembler, self._metrics
        repaired, evicted = frames.repaired, frames.evicted
        raw = frames.feed(item, now_s)
        metrics.frames_repaired.inc(frames.repaired - repaired)
        metrics.frames_evicted.inc(frames.evicted - evicted)
        if raw is None:
            return None
        if self._reports is not None:
            self._reports.whole((item.boot_id, item.frame_id))
        metrics.frames_complete.labels(item.channel.name.lower()).inc()
        return CollectedFrame(
            raw=raw,
            channel=item.channel,
            boot_id=item.boot_id,
            frame_id=item.frame_id,
            packets=frames.made_of,
        )

    def _take_back(self, now_s: float) -> list[CollectedFrame]:
        """Take packets that an earlier process left as if they came now; return whole frames."""
        whole = list[CollectedFrame]()
        for packet in () if self.half_received is None else self.half_received.found():
            try:
                frame = self._feed(packet, now_s)
            except ReassemblyError as error:  # as where collect.max_mib is less than it was
                self._metrics.packets_refused.labels(error.reason).inc()
                log.warning("packet refused", extra={"reason": error.reason, "error": str(error)})
            else:
                whole += [] if frame is None else [frame]
        return whole

    def _note(self, raw: bytes) -> None:
        """Hand on a note; one that is none is a line and a count."""
        try:
            note = QualityNote.unpack(raw)
        except PacketError as error:
            self._metrics.packets_refused.labels(error.reason).inc()
            log.warning("note refused", extra={"reason": error.reason, "error": str(error)})
        else:
            self._on_note(note)

    def _forget(self, now_s: float) -> None:
        while self._forgotten:
            key = self._forgotten.popleft()
            self._reassembler.forget(*key)
            if self._reports is not None:
                self._reports.forgotten(key, now_s)

    def _expire(self, now_s: float) -> None:
        for frame in self._reassembler.expire(now_s):
            self._metrics.frames_incomplete.labels(frame.channel.name.lower()).inc()
