"""Spool out, link in: sends what the spool offers while a pass is open, within its budget."""

from __future__ import annotations

from typing import Final, Protocol

from daemon.clock import Clock
from daemon.link.passes import ContactPlan, TokenBucket
from daemon.metrics import FlightMetrics
from daemon.onboard.spool import Spool

_WAIT_S: Final = 0.1
"""Longest wait for the spool, the link or a pass, so that a stop is noticed [s]."""


class Sender(Protocol):
    """The door to the link."""

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Send one packet; False if the link did not take it in time."""
        ...


class Downlink:
    """Moves packets from spool to link; a packet the link did not take stays spooled.

    Args:
        spool: What waits.
        sender: The link.
        plan: When it is open.
        packet_bits: Bits of the longest packet, as the link takes it.
        seal_bytes: By how much the link's packets are longer than the spool's.
        clock: Tells what pass it is, and paces.
        metrics: Counts what was sent.
    """

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        plan: ContactPlan,
        *,
        packet_bits: int,
        clock: Clock,
        metrics: FlightMetrics,
        seal_bytes: int = 0,
    ) -> None:
        self._spool, self._sender, self._plan = spool, sender, plan
        self._packet_bits, self._clock, self._metrics = packet_bits, clock, metrics
        self._seal_bytes = seal_bytes
        self._limit: float | None = None
        self._bucket: TokenBucket | None = None

    def poll(self) -> None:
        """Send one packet, or wait a little."""
        if not self._is_open():
            self._clock.sleep(min(_WAIT_S, self._plan.opens_in_s(self._clock.utc_s())))
            return
        packet = self._spool.take(_WAIT_S)
        if packet is None:
            return
        size_bytes, bucket = len(packet.raw) + self._seal_bytes, self._bucket
        bits = 8 * size_bytes
        if bucket is not None:
            wait_s = bucket.wait_s(self._clock.monotonic_s(), bits)
            self._clock.sleep(min(wait_s, _WAIT_S))
            if wait_s > _WAIT_S or not self._is_open():
                return
        if not self._sender.send(packet.raw, _WAIT_S):
            return
        if bucket is not None:
            bucket.spend(self._clock.monotonic_s(), bits)
        if self._spool.sent(packet):  # else it is counted as evicted, and once is enough
            self._metrics.sent(packet.channel, size_bytes)

    def pending(self) -> bool:
        """Whether anything waits that the process would take along, and could be sent."""
        waits = self._spool.packets > 0 and not self._spool.outlives
        return waits and self._plan.at(self._clock.utc_s()) is not None

    def _is_open(self) -> bool:
        now = self._plan.at(self._clock.utc_s())
        limit = self._limit if now is None else now.bits_per_s
        if limit != self._limit:
            self._limit, self._bucket = limit, None
            if limit is not None:  # empty: what left just now may count against it
                self._bucket = TokenBucket(limit, self._packet_bits)
                self._bucket.spend(self._clock.monotonic_s(), self._packet_bits)
        self._metrics.link_open.set(now is not None)
        return now is not None
