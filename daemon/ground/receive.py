"""Link in, packets out: checks every packet and counts what is missing, late or twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from daemon.errors import PacketError
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel, Packet
from daemon.link.sequence import Arrival, SequenceTracker

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.1
"""Longest wait for the link, so that a stop is noticed [s]."""

_AT_ONCE: Final = 64
"""Packets taken from the link in one go."""

_LAST_TIMES: Final = 64
"""Most goes once intake has stopped, for what libzmq took off the link before: more than it queues,
and few enough that a board which goes on does not keep us."""


class Listener(Protocol):
    """The door to the link."""

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Return what arrived; empty if nothing did in time."""
        ...


class Receiver:
    """Takes packets off the link.

    Args:
        listener: The link.
        tracker: Tells what is missing.
        deliver: Takes every sound packet.
        metrics: Counts.
        unseal: Opens what is sealed, and refuses what is not; None: packets come plain.
    """

    def __init__(
        self,
        listener: Listener,
        tracker: SequenceTracker,
        deliver: Callable[[Packet], object],
        *,
        metrics: GroundMetrics,
        unseal: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._listener, self._tracker = listener, tracker
        self._deliver, self._metrics, self._unseal = deliver, metrics, unseal
        self._waiting, self._last_times = False, _LAST_TIMES

    def poll(self) -> None:
        """Take what has arrived, or wait a little; a bad packet is a line and a count."""
        arrived = self._listener.recv_many(_AT_ONCE, _WAIT_S)
        self._waiting = bool(arrived)
        for raw in arrived:
            self._metrics.bytes_in.inc(len(raw))
            try:
                packet = Packet.unpack(raw if self._unseal is None else self._unseal(raw))
            except PacketError as error:
                self._metrics.packets_refused.labels(error.reason).inc()
                log.warning("packet refused", extra={"reason": error.reason, "error": str(error)})
                continue
            channel = packet.channel.name.lower()
            self._metrics.packets_received.labels(channel).inc()
            self._metrics.packets_received_bytes.labels(channel).inc(len(raw))
            self._note(packet)
            self._deliver(packet)
        counts = self._tracker.counts
        self._metrics.packets_missing.labels("gap").set(counts.missing)
        self._metrics.packets_missing.labels("before_start").set(counts.missing_before_start)

    def pending(self) -> bool:
        """Whether packets may still wait in the socket; asked once intake has stopped."""
        self._last_times -= 1
        return self._waiting and self._last_times >= 0

    def _note(self, packet: Packet) -> None:
        if packet.channel is Channel.HOUSEKEEPING:  # has counts of its own
            return
        match self._tracker.note(packet.boot_id, packet.counter):
            case Arrival.DUPLICATE:
                self._metrics.packets_duplicate.inc()
            case Arrival.LATE:
                self._metrics.packets_late.inc()
