"""A link in simulated time that does to messages what real ones do, from one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFaults:
    """What a link does to messages.

    Attributes:
        delay_s: Time on the way [s].
        jitter_s: At most so much more, each message by itself: they overtake each other [s].
        loss: Share of messages that are lost alone.
        burst: Chance of a message to begin a burst, in which all are lost.
        burst_messages: Mean length of one.
        duplicate: Share that come twice.
        flip: Share in which a bit is flipped.
        outages: Times in which nothing gets through [s]: beginnings and ends.
    """

    delay_s: float = 0.02
    jitter_s: float = 0.0
    loss: float = 0.0
    burst: float = 0.0
    burst_messages: float = 5.0
    duplicate: float = 0.0
    flip: float = 0.0
    outages: Sequence[tuple[float, float]] = ()


class FakeLink:
    """One direction of it.

    Attributes:
        sent: When each message was put on the link, its bytes, and whether it got through whole.
    """

    def __init__(self, faults: LinkFaults, seed: int) -> None:
        self._faults, self._rng = faults, random.Random(seed)
        self._on_way: list[tuple[float, int, bytes]] = []
        self._count = self._left_in_burst = 0
        self.sent: list[tuple[float, int, bool]] = []

    def put(self, raw: bytes, now_s: float) -> None:
        """Send a message."""
        faults, rng = self._faults, self._rng
        lost = rng.random() < faults.loss
        if self._left_in_burst:
            self._left_in_burst, lost = self._left_in_burst - 1, True
        elif rng.random() < faults.burst:
            self._left_in_burst = int(rng.expovariate(1 / faults.burst_messages))
        lost |= any(start <= now_s < stop for start, stop in faults.outages)
        flipped = rng.random() < faults.flip
        self.sent.append((now_s, len(raw), not (lost or flipped)))
        if lost:
            return
        if flipped:
            hit = bytearray(raw)
            hit[rng.randrange(len(hit))] ^= 1 << rng.randrange(8)
            raw = bytes(hit)
        for _ in range(1 + (rng.random() < faults.duplicate)):
            arrival_s = now_s + faults.delay_s + rng.random() * faults.jitter_s
            self._count += 1
            heapq.heappush(self._on_way, (arrival_s, self._count, raw))

    def get(self, now_s: float) -> list[tuple[float, bytes]]:
        """What has arrived by now, and when."""
        arrived = []
        while self._on_way and self._on_way[0][0] <= now_s:
            arrival_s, _, raw = heapq.heappop(self._on_way)
            arrived.append((arrival_s, raw))
        return arrived
