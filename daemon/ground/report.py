"""The ground's word to the board: what it has, what it lacks, what it hears."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from daemon.errors import PacketError
from daemon.ground.metrics import GroundMetrics
from daemon.link.beacon import Beacon
from daemon.link.packet import Channel, FrameKey, Packet
from daemon.link.quality_note import is_note
from daemon.link.reports import Reporter

log = logging.getLogger(__name__)

_AGAIN_S: Final = 10.0
"""Time between two tries of frames that could not be kept [s]."""
_SEND_S: Final = 0.0
"""Longest wait for the uplink: a report that it does not take is as one that is not heard [s]."""


class HeardBeacon(NamedTuple):
    """A beacon, of which boot it came, and when [s]."""

    boot_id: int
    beacon: Beacon
    heard_s: float


class Reports:
    """Keeps a `Reporter` informed, and sends what it says; one thread, but for `durable`.

    Args:
        reporter: Decides what to say.
        send: Hands one message to the uplink; False if it did not take it in time.
        metrics: Told what was said and heard.

    Attributes:
        last_beacon: The last one heard, for any thread to look at; None: there was none.
    """

    def __init__(
        self, reporter: Reporter, send: Callable[[bytes, float], bool], metrics: GroundMetrics
    ) -> None:
        self._reporter, self._send, self._metrics = reporter, send, metrics
        self._durable: deque[FrameKey] = deque()
        self._forgotten: deque[FrameKey] = deque()
        self._keeps, self._again_s = True, -math.inf
        self._lost = self._before = self._asked = self._mended = 0
        self.last_beacon: HeardBeacon | None = None

    def durable(self, keys: Iterable[FrameKey]) -> None:
        """Frames are there for good; any thread may say so."""
        before = len(self._durable)
        self._durable.extend(keys)
        self._keeps |= len(self._durable) > before

    def heard(self, packet: Packet, now_s: float) -> None:
        """A packet came; a beacon that is none is a line and a count."""
        self._reporter.heard(now_s)
        if packet.channel is not Channel.HOUSEKEEPING or is_note(packet.data):
            return
        try:
            beacon = Beacon.unpack(packet.data)
        except PacketError as error:
            self._metrics.packets_refused.labels(error.reason).inc()
            log.warning("beacon refused", extra={"reason": error.reason, "error": str(error)})
        else:
            self._reporter.beacon(packet.boot_id, beacon, now_s)
            self.last_beacon = HeardBeacon(packet.boot_id, beacon, now_s)

    def whole(self, key: FrameKey) -> None:
        """All of a frame is there."""
        self._reporter.whole(key)

    def forgotten(self, key: FrameKey, now_s: float) -> None:
        """A frame that was whole could not be kept: it is asked for again when others can be.

        One is now and then, to find out: all of them again and again would fill the link.
        """
        if not self._forgotten:
            self._again_s = now_s + _AGAIN_S
        self._forgotten.append(key)
        self._keeps = False

    def tick(self, now_s: float) -> None:
        """Send what is due."""
        if now_s >= self._again_s:
            for _ in range(len(self._forgotten) if self._keeps else min(1, len(self._forgotten))):
                self._reporter.forgotten(self._forgotten.popleft())
            self._again_s = now_s + _AGAIN_S
        while self._durable:
            self._reporter.durable((self._durable.popleft(),))
        for raw in self._reporter.due(now_s):
            taken = self._send(raw, _SEND_S)
            self._metrics.reports.labels("sent" if taken else "not_taken").inc()
        self._metrics.frames_lost.inc(self._reporter.lost - self._lost)
        self._metrics.frames_lost_before.inc(self._reporter.lost_before - self._before)
        self._lost, self._before = self._reporter.lost, self._reporter.lost_before
        self._metrics.frames_asked.inc(self._reporter.asked - self._asked)
        self._metrics.frames_mended.inc(self._reporter.mended - self._mended)
        self._asked, self._mended = self._reporter.asked, self._reporter.mended
        self._metrics.link_loss.set(self._reporter.loss)
