"""Spool out, link in: sends what the spool offers while a pass is open, within its budget.

Where the ground acknowledges, a beacon leaves every so often, before all else, and then notes of
the quality of patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Protocol

from daemon.clock import Clock
from daemon.link.beacon import Beacon
from daemon.link.packet import Channel, Packet, ticks
from daemon.link.passes import ContactPlan, LinkSwitch, TokenBucket
from daemon.link.quality_note import QualityNote
from daemon.metrics import FlightMetrics
from daemon.onboard.notes import NoteQueue
from daemon.onboard.spool import Spool

_WAIT_S: Final = 0.1
"""Longest wait for the spool, the link or a pass, so that a stop is noticed [s]."""


class Sender(Protocol):
    """The door to the link."""

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Send one packet; False if the link did not take it in time."""
        ...


class Beacons:
    """Makes the packets of housekeeping: how far all is, and notes; one thread alone.

    Args:
        boot_id: Of this process.
        apid: Application process of housekeeping, with counts of its own.
        every_s: Time between two [s].
        clock: Paces and stamps them.
        notes: Notes that wait to be sent; None: there are none.
    """

    def __init__(
        self,
        *,
        boot_id: int,
        apid: int,
        every_s: float,
        clock: Clock,
        notes: NoteQueue | None = None,
    ) -> None:
        self._boot_id, self._apid, self._every_s, self._clock = boot_id, apid, every_s, clock
        self._counter, self._next_s, self._next_note_s = 0, -math.inf, -math.inf
        self._notes = notes

    @property
    def wait_s(self) -> float:
        """Time until the next is due [s]."""
        return max(0.0, self._next_s - self._clock.monotonic_s())

    def take_note(self) -> QualityNote | None:
        """Take a note to be sent now, if one is due."""
        if self._notes is None or self._clock.monotonic_s() < self._next_note_s:
            return None
        return self._notes.take()

    def give_back(self, note: QualityNote) -> None:
        """It has not left; it is the next one again."""
        if self._notes is not None:
            self._notes.give_back(note)

    def packet(self, content: Beacon | QualityNote) -> bytes:
        """Return the next one."""
        raw = content.pack()
        return Packet(
            apid=self._apid,
            channel=Channel.HOUSEKEEPING,
            boot_id=self._boot_id,
            counter=self._counter,
            time_ticks=ticks(self._clock.utc_s()),
            frame_id=self._counter % 2**32,
            segment_index=0,
            segment_count=1,
            frame_bytes=len(raw),
            data=raw,
        ).pack()

    def sent(self, least_s: float) -> None:
        """It has left; the next one is due no sooner than after `least_s`."""
        self._counter += 1
        self._next_s = self._clock.monotonic_s() + max(self._every_s, least_s)

    def note_sent(self, least_s: float) -> None:
        """A note has left; the next one is due no sooner than after `least_s`."""
        self._counter += 1
        self._next_note_s = self._clock.monotonic_s() + least_s


@dataclass(slots=True)
class Orders:
    """What commands have changed; set by one thread and read by others.

    Attributes:
        switch: Whether the board may send.
        bits_per_s: Limit instead of the plan's; None: the plan's.
        octaves: How much coarser than given tiles are quantized at least.
    """

    switch: LinkSwitch = field(default_factory=LinkSwitch)
    bits_per_s: float | None = None
    octaves: float = 0.0


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
        beacons: Makes beacons; None: the ground does not acknowledge.
        orders: What commands have changed.

    Attributes:
        orders: The same.
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
        beacons: Beacons | None = None,
        orders: Orders | None = None,
    ) -> None:
        self.orders = orders or Orders()
        self._beacons, self._sent_packets = beacons, 0
        self._spool, self._sender, self._plan = spool, sender, plan
        self._packet_bits, self._clock, self._metrics = packet_bits, clock, metrics
        self._seal_bytes = seal_bytes
        self._planned = plan.bits_per_s
        self._limit: float | None = None
        self._bucket: TokenBucket | None = None

    def poll(self) -> None:
        """Send one packet, or wait a little."""
        if not self._is_open():
            self._clock.sleep(min(_WAIT_S, self._plan.opens_in_s(self._clock.utc_s())))
            return
        if self._beacons is not None and self._told(self._beacons):
            return
        wait_s = _WAIT_S if self._beacons is None else min(_WAIT_S, self._beacons.wait_s)
        packet = self._spool.take(wait_s)
        # Evicted meanwhile it is counted as that, and once is enough.
        if packet is not None and self._send(packet.raw) and self._spool.sent(packet):
            self._metrics.sent(packet.lane.channel, len(packet.raw) + self._seal_bytes)
            self._metrics.packets_repeated.inc(packet.repeat is not None)

    def pending(self) -> bool:
        """Whether anything waits that the process would take along, and could be sent."""
        waits = self._spool.packets > 0 or self._spool.kept_frames > 0
        return waits and not self._spool.outlives and self._is_open()

    def _told(self, beacons: Beacons) -> bool:
        """Send a beacon or a note, if one is due; False if none was."""
        if not beacons.wait_s:
            raw = beacons.packet(self._spool.beacon(self._sent_packets))
            if self._send(raw, Channel.HOUSEKEEPING):
                beacons.sent(self._least_s(raw))
            return True
        note = beacons.take_note()
        if note is None:
            return False
        raw = beacons.packet(note)
        if self._send(raw, Channel.HOUSEKEEPING):
            beacons.note_sent(self._least_s(raw))
        else:
            beacons.give_back(note)
        return True

    def _least_s(self, raw: bytes) -> float:
        """Time until the next of its kind: a fifth of the budget at most is theirs."""
        bits = 8 * (len(raw) + self._seal_bytes)
        return 0.0 if self._bucket is None else 5 * bits / self._bucket.bits_per_s

    def _send(self, raw: bytes, channel: Channel | None = None) -> bool:
        """Send when the budget allows; False if it did not soon, or the link did not take it."""
        size_bytes, bucket = len(raw) + self._seal_bytes, self._bucket
        bits = 8 * size_bytes
        if bucket is not None:
            wait_s = bucket.wait_s(self._clock.monotonic_s(), bits)
            self._clock.sleep(min(wait_s, _WAIT_S))
            if wait_s > _WAIT_S or not self._is_open():
                return False
        if not self._sender.send(raw, _WAIT_S):
            return False
        if bucket is not None:
            bucket.spend(self._clock.monotonic_s(), bits)
        self._sent_packets += 1
        if channel is not None:
            self._metrics.sent(channel, size_bytes)
        return True

    def _is_open(self) -> bool:
        now = self._plan.at(self._clock.utc_s())
        is_open = self.orders.switch.plan(now is not None)
        if now is not None:  # else a command opened it, and the last limit goes on
            self._planned = now.bits_per_s
        limit = self.orders.bits_per_s or self._planned
        if limit != self._limit:
            self._limit, self._bucket = limit, None
            if limit is not None:  # empty: what left just now may count against it
                self._bucket = TokenBucket(limit, self._packet_bits)
                self._bucket.spend(self._clock.monotonic_s(), self._packet_bits)
        self._metrics.link_open.set(is_open)
        return is_open
