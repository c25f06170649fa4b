"""Spool out, link in: sends what the spool offers, as fast as the link takes it."""

from __future__ import annotations

from typing import Final, Protocol

from daemon.metrics import FlightMetrics
from daemon.onboard.spool import Spool

_WAIT_S: Final = 0.1
"""Longest wait for the spool or the link, so that a stop is noticed [s]."""


class Sender(Protocol):
    """The door to the link."""

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Send one packet; False if the link did not take it in time."""
        ...


class Downlink:
    """Moves packets from spool to link; a packet the link did not take stays spooled."""

    def __init__(self, spool: Spool, sender: Sender, metrics: FlightMetrics) -> None:
        self._spool, self._sender, self._metrics = spool, sender, metrics

    def poll(self) -> None:
        """Send one packet, or wait a little."""
        packet = self._spool.take(_WAIT_S)
        if packet is None or not self._sender.send(packet.raw, _WAIT_S):
            return
        if self._spool.sent(packet):  # else it is counted as evicted, and once is enough
            self._metrics.sent(packet.channel, len(packet.raw))

    def pending(self) -> bool:
        """Whether anything waits that the process would take along."""
        return self._spool.packets > 0 and not self._spool.outlives
