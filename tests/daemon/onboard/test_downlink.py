"""The downlink sends what the spool offers, and forgets only what the link took."""

from __future__ import annotations

from collections.abc import Callable

from contracts.spool import Drops
from daemon.link.beacon import Beacon
from daemon.link.lanes import Lane
from daemon.link.packet import Channel, Packet
from daemon.link.passes import ContactPlan, Pass
from daemon.link.quality_note import QualityNote
from daemon.link.segment import Segmenter
from daemon.link.states import PassEvent
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.downlink import Beacons, Downlink
from daemon.onboard.notes import NoteQueue
from daemon.onboard.spool import MemorySpool
from fakes.clock import FakeClock


class FakeSender:
    """A link that takes packets while it is told to."""

    def __init__(self) -> None:
        self.up = True
        self.took: list[bytes] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Take one, if up."""
        assert timeout_s > 0
        self.meanwhile()
        if self.up:
            self.took.append(raw)
        return self.up


def downlink(
    max_bytes: int = 100,
) -> tuple[Downlink, MemorySpool, FakeSender, FlightMetrics, Drops]:
    """A downlink with all around it."""
    drops, sender, metrics = Drops(), FakeSender(), FlightMetrics(new_registry())
    clock = FakeClock()
    spool = MemorySpool(max_bytes=max_bytes, clock=clock, on_drop=drops)
    target = Downlink(spool, sender, ContactPlan(()), packet_bits=800, clock=clock, metrics=metrics)
    return target, spool, sender, metrics, drops


def test_packets_are_sent_and_counted_by_channel() -> None:
    """Each poll sends one packet, side information first; packets and bytes are counted."""
    target, spool, sender, metrics, _ = downlink()
    spool.append([b"patch"], Lane.PATCH)
    spool.append([b"abc"], Lane.SIDE)
    while target.pending():
        target.poll()

    assert sender.took == [b"abc", b"patch"]
    totals = metrics.totals()
    assert totals['prismlink_packets_total{channel="side"}'] == 1
    assert totals['prismlink_bytes_out_total{channel="side"}'] == 3
    assert totals['prismlink_bytes_out_total{channel="patch"}'] == 5


def test_what_the_seal_adds_is_counted() -> None:
    """Bytes are those on the link: the budget of a pass is."""
    _, spool, sender, metrics, _ = downlink()
    spool.append([b"abc"], Lane.SIDE)
    Downlink(
        spool, sender, ContactPlan(()), packet_bits=800, clock=FakeClock(), metrics=metrics,
        seal_bytes=31,
    ).poll()  # fmt: skip
    assert metrics.totals()['prismlink_bytes_out_total{channel="side"}'] == 34


def test_a_packet_the_link_did_not_take_stays() -> None:
    """While the link is down nothing is lost or counted; then the same packet goes first."""
    target, spool, sender, metrics, _ = downlink()
    spool.append([b"1", b"2"], Lane.PATCH)
    sender.up = False
    target.poll()
    target.poll()
    assert target.pending()
    assert (spool.packets, sender.took) == (2, [])
    assert metrics.totals()['prismlink_packets_total{channel="patch"}'] == 0

    sender.up = True
    target.poll()
    target.poll()
    assert sender.took == [b"1", b"2"]
    assert not target.pending()


def test_a_packet_evicted_under_way_is_not_counted_twice() -> None:
    """Counted as evicted, it is not counted as sent as well: packets in = sent + dropped."""
    target, spool, sender, metrics, drops = downlink(max_bytes=2)
    spool.append([b"1", b"2"], Lane.PATCH)
    sender.meanwhile = lambda: spool.append([b"3"], Lane.PATCH)
    target.poll()

    assert [raw for raw, *_ in drops.told] == [b"1"]
    assert metrics.totals()['prismlink_packets_total{channel="patch"}'] == 0
    assert spool.packets == 2


OPENS_S, CLOSES_S = 1_700_000_010.0, 1_700_000_020.0
"""The fake clock stands ten seconds before."""


class PassRig:
    """A downlink with one pass of ten seconds and 8,000 bits in each, from a full spool."""

    def __init__(self, bits_per_s: float | None = None) -> None:
        self.clock, self.metrics = FakeClock(), FlightMetrics(new_registry())
        self.sent_s = list[float]()
        self.spool = MemorySpool(max_bytes=1 << 20, clock=self.clock, on_drop=Drops())
        self.spool.append([bytes(100)] * 300, Lane.PATCH)
        one = Pass(opens_utc_s=OPENS_S, closes_utc_s=CLOSES_S, bits_per_s=8_000)
        plan = ContactPlan([one], bits_per_s)
        self.target = Downlink(
            self.spool, self, plan, packet_bits=1_000, clock=self.clock, metrics=self.metrics
        )

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Take it, and note when."""
        assert raw
        assert timeout_s > 0
        self.sent_s.append(self.clock.utc_s())
        return True


def test_packets_leave_during_a_pass_alone() -> None:
    """None before, none after, and the pass is filled; what is unsent stays."""
    rig = PassRig()
    while rig.clock.utc_s() < CLOSES_S + 5:
        rig.target.poll()

    assert OPENS_S <= rig.sent_s[0] < OPENS_S + 0.25
    assert CLOSES_S - 0.5 < rig.sent_s[-1] < CLOSES_S
    assert rig.spool.packets == 300 - len(rig.sent_s)
    assert rig.metrics.totals()["prismlink_link_open"] == 0
    assert not rig.target.pending()


def test_no_second_of_a_pass_is_above_its_budget() -> None:
    """Whichever second it is; and nearly all of it is used."""
    rig = PassRig()
    while rig.clock.utc_s() < CLOSES_S:
        rig.target.poll()

    for start_s in rig.sent_s:
        assert sum(start_s <= at_s < start_s + 1 for at_s in rig.sent_s) * 800 <= 8_000
    assert len(rig.sent_s) * 800 >= 0.85 * 10 * 8_000


def test_a_command_opens_the_link_within_its_limit() -> None:
    """Before the first pass it is the link's own, and so it is again once an ordered rate ends."""
    rig = PassRig(bits_per_s=4_000)
    rig.target.poll()
    rig.target.orders.switch.command(PassEvent.OPEN)

    def sent_in_4_s() -> int:
        before, until_s = len(rig.sent_s), rig.clock.utc_s() + 4
        while rig.clock.utc_s() < until_s:
            rig.target.poll()
        return 800 * (len(rig.sent_s) - before)

    assert 4 * 2_000 < sent_in_4_s() <= 4 * 4_000
    rig.target.orders.bits_per_s = 30_000
    assert sent_in_4_s() > 4 * 20_000
    rig.target.orders.bits_per_s = None
    assert rig.clock.utc_s() < OPENS_S
    before = len(rig.sent_s)
    while rig.clock.utc_s() < OPENS_S - 0.1:
        rig.target.poll()
    assert len(rig.sent_s) - before <= 2 * 4_000 / 800


def test_beacons_leave_first_and_every_so_often() -> None:
    """With counts of their own; on a slow link they take a fifth of it at most."""
    clock, sender, metrics = FakeClock(), FakeSender(), FlightMetrics(new_registry())
    spool = MemorySpool(max_bytes=1 << 20, clock=clock, on_drop=Drops(), acknowledged=True)
    segmenter = Segmenter(boot_id=7, apid=1, mtu_bytes=128, repair={})
    for _ in range(20):
        spool.append(segmenter.packets(bytes(80), Channel.PATCH, 0.0), Lane.PATCH)
    target = Downlink(
        spool, sender, ContactPlan((), 2_000), packet_bits=1_024, clock=clock, metrics=metrics,
        beacons=Beacons(boot_id=7, apid=2, every_s=1.0, clock=clock),
    )  # fmt: skip
    start_s = clock.monotonic_s()
    while len(sender.took) < 25 and clock.monotonic_s() < start_s + 300:
        target.poll()

    sent = [Packet.unpack(raw) for raw in sender.took]
    beacons = [packet for packet in sent if packet.channel is Channel.HOUSEKEEPING]
    assert sent[0] is beacons[0]
    assert [packet.counter for packet in beacons] == list(range(len(beacons)))
    assert {packet.apid for packet in beacons} == {2}
    told = [Beacon.unpack(packet.data).sent_packets for packet in beacons]
    assert told == [sent.index(packet) for packet in beacons]
    assert sum(len(p.pack()) for p in beacons) < 0.25 * sum(len(raw) for raw in sender.took)
    totals = metrics.totals()
    assert totals['prismlink_packets_total{channel="housekeeping"}'] == len(beacons)


def test_notes_leave_after_a_beacon_and_before_packets() -> None:
    """Each once, with the counts and the boot of beacons; one that is not taken is not lost."""
    clock, sender, metrics = FakeClock(), FakeSender(), FlightMetrics(new_registry())
    spool = MemorySpool(max_bytes=1 << 20, clock=clock, on_drop=Drops(), acknowledged=True)
    segmenter = Segmenter(boot_id=7, apid=1, mtu_bytes=128, repair={})
    spool.append(segmenter.packets(bytes(80), Channel.PATCH, 0.0), Lane.PATCH)
    notes = NoteQueue(metrics)
    target = Downlink(
        spool, sender, ContactPlan(()), packet_bits=1_024, clock=clock, metrics=metrics,
        beacons=Beacons(boot_id=7, apid=2, every_s=1.0, clock=clock, notes=notes), seal_bytes=30,
    )  # fmt: skip
    for row in range(2):
        notes.put(bytes(8), row, 0, 40.0, 2.0)
    target.poll()
    sender.up = False
    target.poll()
    sender.up = True
    for _ in range(3):
        target.poll()

    beacon, *told, patch = [Packet.unpack(raw) for raw in sender.took]
    assert Beacon.unpack(beacon.data).sent_packets == 0
    assert [QualityNote.unpack(packet.data).row for packet in told] == [0, 1]
    assert [(p.apid, p.boot_id, p.counter) for p in (beacon, *told)] == [
        (2, 7, n) for n in range(3)
    ]
    assert patch.channel is Channel.PATCH
    totals = metrics.totals()
    assert totals['prismlink_packets_total{channel="housekeeping"}'] == 3
    assert totals['prismlink_bytes_out_total{channel="housekeeping"}'] == sum(
        len(p.pack()) + 30 for p in (beacon, *told)
    )


def test_notes_leave_a_slow_link_to_packets() -> None:
    """They keep within the budget, and take a fifth of it at most."""
    clock, sender, metrics = FakeClock(), FakeSender(), FlightMetrics(new_registry())
    spool = MemorySpool(max_bytes=1 << 20, clock=clock, on_drop=Drops())
    spool.append([bytes(100)] * 300, Lane.PATCH)
    notes = NoteQueue(metrics)
    for row in range(256):
        notes.put(bytes(8), row, 0, 40.0, 2.0)
    start_s = clock.monotonic_s()
    target = Downlink(
        spool, sender, ContactPlan((), 20_000), packet_bits=800, clock=clock, metrics=metrics,
        beacons=Beacons(boot_id=7, apid=2, every_s=1e6, clock=clock, notes=notes),
    )  # fmt: skip
    while clock.monotonic_s() < start_s + 10:
        target.poll()

    bits = [8 * len(raw) for raw in sender.took]
    told = [8 * len(raw) for raw in sender.took if any(raw)][1:]
    assert 10 * 20_000 / 10 < sum(told) <= 10 * 20_000 / 5
    assert 0.85 * 10 * 20_000 < sum(bits) <= 10 * 20_000
