"""The downlink sends what the spool offers, and forgets only what the link took."""

from __future__ import annotations

from collections.abc import Callable

from contracts.spool import Drops
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.downlink import Downlink
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
    spool = MemorySpool(max_bytes=max_bytes, clock=FakeClock(), on_drop=drops)
    return Downlink(spool, sender, metrics), spool, sender, metrics, drops


def test_packets_are_sent_and_counted_by_channel() -> None:
    """Each poll sends one packet, side information first; packets and bytes are counted."""
    target, spool, sender, metrics, _ = downlink()
    spool.append([b"patch"], Channel.PATCH)
    spool.append([b"abc"], Channel.SIDE)
    while target.pending():
        target.poll()

    assert sender.took == [b"abc", b"patch"]
    totals = metrics.totals()
    assert totals['prismlink_packets_total{channel="side"}'] == 1
    assert totals['prismlink_bytes_out_total{channel="side"}'] == 3
    assert totals['prismlink_bytes_out_total{channel="patch"}'] == 5


def test_a_packet_the_link_did_not_take_stays() -> None:
    """While the link is down nothing is lost or counted; then the same packet goes first."""
    target, spool, sender, metrics, _ = downlink()
    spool.append([b"1", b"2"], Channel.PATCH)
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
    spool.append([b"1", b"2"], Channel.PATCH)
    sender.meanwhile = lambda: spool.append([b"3"], Channel.PATCH)
    target.poll()

    assert [raw for raw, *_ in drops.told] == [b"1"]
    assert metrics.totals()['prismlink_packets_total{channel="patch"}'] == 0
    assert spool.packets == 2
