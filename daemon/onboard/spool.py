"""What waits for the downlink. `Spool` is the interface; `MemorySpool` forgets with the process.

A packet waits in the spool until it was sent, leaves by priority and then by age, and is evicted
only to make room, each one counted. Where the ground acknowledges, what was sent is kept until it
has, and what it asks for leaves before what is new.

Room is made of the least urgent level, and there of what came first, be it side information or a
patch: a tile goes whole, as either is worth nothing without the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from daemon.clock import Clock
from daemon.errors import SpoolFullError
from daemon.link.beacon import Beacon
from daemon.link.commands import Report
from daemon.link.lanes import LANES, LANES_OF, Lane, Level
from daemon.link.packet import FrameKey, header_of
from daemon.link.repeats import Handle, Repeat, Unacknowledged
from daemon.metrics import FlightMetrics
from daemon.onboard.items import FramePackets
from daemon.stage import KeepsNothing

EVICTED: Final = "evicted"
UNACKNOWLEDGED: Final = "unacknowledged"
"""Why a packet was given up: for want of room, before it was sent; or after, once or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledPacket:
    """One packet that waits.

    Attributes:
        raw: Its bytes.
        lane: Lower numbers leave first.
        spooled_s: When it came in [s, monotonic].
        order: Its place among what came on all lanes.
        repeat: What it was asked for as; None: it was never sent.
    """

    raw: bytes
    lane: Lane
    spooled_s: float
    order: int = 0
    repeat: Repeat | None = None


class Ended(NamedTuple):
    """What became of packets at a spool's end.

    Attributes:
        given_up: Those that would not outlive the process, sent before or not.
        kept: Those that wait for the next one and were never sent.
    """

    given_up: int
    kept: int


OnDrop: TypeAlias = Callable[[SpooledPacket, str], None]
"""Told each packet that was given up, and why; its bytes where they are at hand."""


class Turns:
    """Whose turn it is: the highest priority's; of one packet in eight, who has waited longest."""

    _SHARE: Final = 8

    def __init__(self) -> None:
        self._since, self._oldest_first = 0, list(reversed(LANES))

    @property
    def order(self) -> Sequence[Lane]:
        """Lanes in their turn: the first that has something sends."""
        return LANES if self._since + 1 < self._SHARE else self._oldest_first

    def sent(self, lane: Lane) -> None:
        """A packet of a lane has left."""
        self._since = (self._since + 1) % self._SHARE
        self._oldest_first.remove(lane)
        self._oldest_first.append(lane)


def gives_way(order_of: Callable[[Lane], int | None]) -> Lane | None:
    """The lane that makes room: of the least urgent level the one whose oldest packet came first.

    Args:
        order_of: The place of a lane's oldest packet among what came; None: it has none.
    """
    for level in reversed(Level):
        found = [(order, lane) for lane in LANES_OF[level] if (order := order_of(lane)) is not None]
        if found:
            return min(found)[1]
    return None


class Spool(Protocol):
    """Holds packets between the encoder and the link."""

    def append(self, packets: Sequence[bytes], lane: Lane) -> None:
        """Keep packets, and make room for them; what is more urgent than they never gives way.

        Raises:
            SpoolFullError: If they are larger than the spool itself.
        """
        ...

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """Return the packet to send next, or None if there is none in time; it stays spooled."""
        ...

    def sent(self, packet: SpooledPacket) -> bool:
        """A packet that `take` returned has left; False if it was evicted, and counted, meanwhile.

        Where the ground acknowledges it is kept; else it is forgotten.
        """
        ...

    def hear(self, session: int, number: int, report: Report) -> None:
        """Take a report of the ground, see `daemon.link.repeats.Unacknowledged.hear`."""
        ...

    def beacon(self, sent_packets: int) -> Beacon:
        """Say how far all is, see `daemon.link.repeats.Unacknowledged.beacon`."""
        ...

    def tick(self) -> None:
        """Do what has become due; called now and then by the thread that appends."""
        ...

    def end(self, reason: str) -> Ended:
        """Be used no more; give up what would not outlive the process, counted under `reason`."""
        ...

    @property
    def outlives(self) -> bool:
        """Whether what waits outlives the process, so that nobody need wait for it."""
        ...

    @property
    def packets(self) -> int:
        """Packets waiting that were never sent."""
        ...

    @property
    def kept_frames(self) -> int:
        """Frames of which packets were sent, and that are not acknowledged."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes waiting or kept."""
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
        on_drop: Called with each packet given up and the reason: `EVICTED`, `UNACKNOWLEDGED`, or
            `end`'s.
        acknowledged: Whether the ground acknowledges.
    """

    outlives: Final = False

    def __init__(
        self, *, max_bytes: int, clock: Clock, on_drop: OnDrop, acknowledged: bool = False
    ) -> None:
        self._max_bytes, self._clock, self._on_drop = max_bytes, clock, on_drop
        self._queues: dict[Lane, deque[SpooledPacket]] = {lane: deque() for lane in LANES}
        self._used_bytes = self._came = 0
        self._sent = Unacknowledged(self._release) if acknowledged else None
        self._turns = Turns()
        self._changed = threading.Condition()

    def append(self, packets: Sequence[bytes], lane: Lane) -> None:
        """See `Spool.append`."""
        size = sum(map(len, packets))
        if size > self._max_bytes:
            raise SpoolFullError(size, self._max_bytes)
        now_s = self._clock.monotonic_s()
        dropped = list[tuple[SpooledPacket, str]]()
        with self._changed:
            if self._sent is not None and packets:
                self._sent.note(lane, header_of(packets[0]).key)
            self._queues[lane].extend(
                SpooledPacket(raw=raw, lane=lane, spooled_s=now_s, order=order)
                for order, raw in enumerate(packets, start=self._came)
            )
            self._came += len(packets)
            self._used_bytes += size
            while self._used_bytes > self._max_bytes:
                dropped += self._give_up()
            self._changed.notify_all()
        for packet, reason in dropped:
            self._on_drop(packet, reason)

    def take(self, timeout_s: float) -> SpooledPacket | None:
        """See `Spool.take`."""
        until_s = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while (found := self._next()) is None and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._changed, until_s)
            return found

    def sent(self, packet: SpooledPacket) -> bool:
        """See `Spool.sent`."""
        with self._changed:
            self._turns.sent(packet.lane)
            if packet.repeat is not None:
                return self._sent is not None and self._sent.repeated(packet.repeat)
            queue = self._queues[packet.lane]
            if not queue or queue[0] is not packet:
                return False
            queue.popleft()
            if self._sent is None:
                self._used_bytes -= len(packet.raw)
            else:
                header = header_of(packet.raw)
                index = header.segment_index
                self._sent.add(packet.lane, header.key, (index,), (packet.raw,), packet.order)
            return True

    def hear(self, session: int, number: int, report: Report) -> None:
        """See `Spool.hear`."""
        with self._changed:
            if self._sent is not None:
                self._sent.hear(session, number, report, self._heads())
                self._changed.notify_all()

    def beacon(self, sent_packets: int) -> Beacon:
        """See `Spool.beacon`."""
        with self._changed:
            sent = self._sent or Unacknowledged(self._release)
            return sent.beacon(sent_packets, self._heads())

    def end(self, reason: str) -> Ended:
        """See `Spool.end`: all is given up."""
        left = list[tuple[SpooledPacket, str]]()
        with self._changed:
            while self._used_bytes:
                left += self._give_up()
        for packet, _ in left:
            self._on_drop(packet, reason)
        return Ended(given_up=len(left), kept=0)

    def tick(self) -> None:
        """See `Spool.tick`: nothing is ever due."""

    @property
    def packets(self) -> int:
        """See `Spool.packets`."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    @property
    def kept_frames(self) -> int:
        """See `Spool.kept_frames`."""
        with self._changed:
            return 0 if self._sent is None else self._sent.frames

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

    def _next(self) -> SpooledPacket | None:
        for lane in self._turns.order:
            queue = self._queues[lane]
            repeat = None if self._sent is None else self._sent.next_repeat(lane)
            if repeat is not None and isinstance(repeat.handle, bytes):
                return SpooledPacket(
                    raw=repeat.handle,
                    lane=lane,
                    spooled_s=self._clock.monotonic_s(),
                    repeat=repeat,
                )
            while (
                queue and self._sent is not None and self._sent.is_done(header_of(queue[0].raw).key)
            ):
                self._used_bytes -= len(queue.popleft().raw)
            if queue:
                return queue[0]
        return None

    def _heads(self) -> dict[Lane, FrameKey | None]:
        return {a: header_of(q[0].raw).key if q else None for a, q in self._queues.items()}

    def _give_up(self) -> list[tuple[SpooledPacket, str]]:
        """Make room, see `gives_way`."""
        lane = gives_way(self._oldest)
        if lane is None:
            return []
        if self._sent is not None and (handles := self._sent.give_up(lane)):
            return [(kept_packet(handle, lane), UNACKNOWLEDGED) for handle in handles]
        packet = self._queues[lane].popleft()
        self._used_bytes -= len(packet.raw)
        return [(packet, EVICTED)]

    def _oldest(self, lane: Lane) -> int | None:
        """What was sent came before what was not."""
        order = None if self._sent is None else self._sent.oldest(lane)
        if order is None and self._queues[lane]:
            order = self._queues[lane][0].order
        return order

    def _release(self, _lane: Lane, handles: Iterable[Handle]) -> None:
        self._used_bytes -= sum(len(raw) for raw in handles if isinstance(raw, bytes))


def kept_packet(handle: Handle, lane: Lane) -> SpooledPacket:
    """What is told of a packet that was sent, and is given up."""
    raw = handle if isinstance(handle, bytes) else b""
    return SpooledPacket(raw=raw, lane=lane, spooled_s=0.0)


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
        self._spool.append(item.packets, item.lane)
        self._note(item.size_bytes)
        self._metrics.frames.labels(item.channel.name.lower()).inc()
        latency_s = self._clock.monotonic_s() - item.received_s
        self._metrics.tile_to_spool_seconds.observe(latency_s)
        return ()

    def tick(self) -> tuple[()]:
        """Let the spool do what is due."""
        self._spool.tick()
        return ()
