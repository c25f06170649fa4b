"""Packets in, frames out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from daemon.clock import Clock
from daemon.ground.items import CollectedFrame
from daemon.ground.metrics import GroundMetrics
from daemon.ground.report import Reports
from daemon.link.packet import Channel, Packet
from daemon.link.reassembly import Reassembler


class CollectWorker:
    """Puts frames together from packets that come in any order, twice, or not at all.

    Args:
        reassembler: Does.
        clock: Says when they came.
        metrics: Counts frames.
        reports: Told what came, to report it to the board; None: nobody is.
    """

    def __init__(
        self,
        reassembler: Reassembler,
        clock: Clock,
        metrics: GroundMetrics,
        reports: Reports | None = None,
    ) -> None:
        self._reports = reports
        self._reassembler, self._clock, self._metrics = reassembler, clock, metrics
        self._forgotten: deque[tuple[int, int]] = deque()

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
        frames, metrics, now_s = self._reassembler, self._metrics, self._clock.monotonic_s()
        if self._reports is not None:
            self._reports.heard(item, now_s)
        if item.channel is Channel.HOUSEKEEPING:
            return
        self._forget(now_s)
        repaired, evicted = frames.repaired, frames.evicted
        raw = frames.feed(item, now_s)
        metrics.frames_repaired.inc(frames.repaired - repaired)
        metrics.frames_evicted.inc(frames.evicted - evicted)
        if raw is not None:
            if self._reports is not None:
                self._reports.whole((item.boot_id, item.frame_id))
            metrics.frames_complete.labels(item.channel.name.lower()).inc()
            yield CollectedFrame(
                raw=raw,
                channel=item.channel,
                boot_id=item.boot_id,
                frame_id=item.frame_id,
                packets=frames.made_of,
            )

    def tick(self) -> tuple[()]:
        """Report to the board; give up frames that waited too long for their packets."""
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        if self._reports is not None:
            self._reports.tick(now_s)
        return self._expire(now_s)

    def finish(self) -> tuple[()]:
        """Give up what is incomplete."""
        return self._expire(float("inf"))

    def _forget(self, now_s: float) -> None:
        while self._forgotten:
            key = self._forgotten.popleft()
            self._reassembler.forget(*key)
            if self._reports is not None:
                self._reports.forgotten(key, now_s)

    def _expire(self, now_s: float) -> tuple[()]:
        for frame in self._reassembler.expire(now_s):
            self._metrics.frames_incomplete.labels(frame.channel.name.lower()).inc()
        return ()
