"""What waits for the downlink. `Spool` is the interface; `MemorySpool` forgets with the process.

A packet stays in the spool until it was sent, leaves by priority and then by age, and is evicted
only to make room: lowest priority first, oldest first, each one counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from daemon.clock import Clock
from daemon.errors import SpoolFullError
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics
from daemon.onboard.items import FramePackets
from daemon.stage import KeepsNothing


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledPacket:
    """One packet that waits.

    Attributes:
        raw: Its bytes.
        channel: Lower numbers leave first.
        spooled_s: When it came in [s, monotonic].
    """

    raw: bytes
    channel: Channel
    spooled_s: float


class Spool(Protocol):
    """Holds packets between the encoder and the link."""

    def append(self, packets: Sequence[bytes], channel: Channel) -> None:
        """Keep packets, all of them or none.

        Raises:
            SpoolFullError: If they are larger than the spool itself.
        """
        ...

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """Return the packet to send next, or None if there is none in time; it stays spooled."""
        ...

    def sent(self, packet: SpooledPacket) -> bool:
        """Forget a packet that `take` returned; False if it was evicted, and counted, meanwhile."""
        ...

    def tick(self) -> None:
        """Do what has become due; called now and then by the thread that appends."""
        ...

    def end(self, reason: str) -> int:
        """Be used no more; give up what would not outlive the process, counted under `reason`.

        Returns:
            How many packets that were.
        """
        ...

    @property
    def outlives(self) -> bool:
        """Whether what waits outlives the process, so that nobody need wait for it."""
        ...

    @property
    def packets(self) -> int:
        """Packets waiting."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes waiting."""
        ...

    @property
    def oldest_age_s(self) -> float:
        """Age of the oldest packet [s]; 0 if there is none."""
        ...


class MemorySpool:
    """A spool in memory.

    Args:
        max_bytes: Most bytes that may wait.
        clock: Stamps packets.
        on_drop: Called with each packet given up and the reason: "evicted", or `end`'s.
    """

    outlives: Final = False

    def __init__(
        self, *, max_bytes: int, clock: Clock, on_drop: Callable[[SpooledPacket, str], None]
    ) -> None:
        self._max_bytes, self._clock, self._on_drop = max_bytes, clock, on_drop
        self._queues: dict[Channel, deque[SpooledPacket]] = {c: deque() for c in Channel}
        self._used_bytes = 0
        self._changed = threading.Condition()

    def append(self, packets: Sequence[bytes], channel: Channel) -> None:
        """See `Spool.append`."""
        size = sum(map(len, packets))
        if size > self._max_bytes:
            raise SpoolFullError(size, self._max_bytes)
        now_s = self._clock.monotonic_s()
        evicted = []
        with self._changed:
            while self._used_bytes + size > self._max_bytes:
                evicted.append(self._pop(self._lowest()))
            self._queues[channel].extend(
                SpooledPacket(raw=raw, channel=channel, spooled_s=now_s) for raw in packets
            )
            self._used_bytes += size
            self._changed.notify_all()
        for packet in evicted:
            self._on_drop(packet, "evicted")

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """See `Spool.take`."""
        until_s = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while not self._used_bytes and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._changed, until_s)
            return next((queue[0] for _, queue in sorted(self._queues.items()) if queue), None)

    def sent(self, packet: SpooledPacket) -> bool:
        """See `Spool.sent`."""
        with self._changed:
            queue = self._queues[packet.channel]
            if not queue or queue[0] is not packet:
                return False
            self._pop(packet.channel)
            return True

    def end(self, reason: str) -> int:
        """See `Spool.end`: all is given up."""
        with self._changed:
            left = [self._pop(channel) for channel in Channel for _ in self._queues[channel].copy()]
        for packet in left:
            self._on_drop(packet, reason)
        return len(left)

    def tick(self) -> None:
        """See `Spool.tick`: nothing is ever due."""

    @property
    def packets(self) -> int:
        """See `Spool.packets`."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    @property
    def used_bytes(self) -> int:
        """See `Spool.used_bytes`."""
        with self._changed:
            return self._used_bytes

    @property
    def oldest_age_s(self) -> float:
        """See `Spool.oldest_age_s`."""
        with self._changed:
            heads = [queue[0].spooled_s for queue in self._queues.values() if queue]
        return self._clock.monotonic_s() - min(heads) if heads else 0.0

    def _lowest(self) -> Channel:
        return max(channel for channel, queue in self._queues.items() if queue)

    def _pop(self, channel: Channel) -> SpooledPacket:
        packet = self._queues[channel].popleft()
        self._used_bytes -= len(packet.raw)
        return packet


class SpoolWorker(KeepsNothing):
    """Puts the packets of frames into the spool; the last stage a tile passes.

    Args:
        spool: Where they wait.
        clock: Tells how long they took.
        metrics: Counts them.
        note: Told the bytes of each frame's packets.
    """

    def __init__(
        self,
        spool: Spool,
        clock: Clock,
        metrics: FlightMetrics,
        note: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._spool, self._clock, self._metrics, self._note = spool, clock, metrics, note

    def accept(self, item: FramePackets) -> tuple[()]:
        """Keep one frame's packets.

        Raises:
            SpoolFullError: If they are larger than the spool itself; the caller counts it.
        """
        self._spool.append(item.packets, item.channel)
        self._note(item.size_bytes)
        self._metrics.frames.labels(item.channel.name.lower()).inc()
        latency_s = self._clock.monotonic_s() - item.received_s
        self._metrics.tile_to_spool_seconds.observe(latency_s)
        return ()

    def tick(self) -> tuple[()]:
        """Let the spool do what is due."""
        self._spool.tick()
        return ()
