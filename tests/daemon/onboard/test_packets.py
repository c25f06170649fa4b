"""Frames become packets of the link's size."""

from __future__ import annotations

import pytest

from daemon.errors import FrameSizeError
from daemon.link.fec import RepairPolicy
from daemon.link.lanes import Lane, Level
from daemon.link.packet import Channel, Packet
from daemon.link.segment import Segmenter
from daemon.onboard.items import EncodedFrame
from daemon.onboard.packets import PacketWorker
from fakes.clock import FakeClock


def worker(clock: FakeClock) -> PacketWorker:
    """Packets of at most 128 bytes, one repair packet for side information."""
    repair = {Channel.SIDE: RepairPolicy(minimum=1)}
    segmenters = {
        level: Segmenter(boot_id=1 + level, apid=2 + level, mtu_bytes=128, repair=repair)
        for level in Level
    }
    return PacketWorker(segmenters, clock)


def test_a_frame_becomes_one_item_of_packets() -> None:
    """Channel and arrival time go along; the packets carry the frame, and the time of day."""
    clock = FakeClock(utc_s=1_700_000_000.0)
    raw = bytes(range(200))
    (item,) = worker(clock).accept(EncodedFrame(raw=raw, lane=Lane.PATCH, received_s=4.0))
    packets = [Packet.unpack(packet) for packet in item.packets]

    assert (item.channel, item.received_s) == (Channel.PATCH, 4.0)
    assert b"".join(packet.data for packet in packets) == raw
    assert {packet.time_s for packet in packets} == {1_700_000_000.0}
    assert all(len(packet) <= 128 for packet in item.packets)


def test_repair_packets_come_last() -> None:
    """As many as the channel's policy says."""
    (item,) = worker(FakeClock()).accept(
        EncodedFrame(raw=bytes(200), lane=Lane.SIDE, received_s=0.0)
    )
    repairs = [Packet.unpack(packet).is_repair for packet in item.packets]

    assert repairs == [False] * (len(repairs) - 1) + [True]


def test_a_frame_above_the_links_limit_is_an_error() -> None:
    """The stage counts it; the next frame goes its way."""
    target = worker(FakeClock())
    with pytest.raises(FrameSizeError):
        next(target.accept(EncodedFrame(raw=b"", lane=Lane.PATCH, received_s=0.0)))
    (item,) = target.accept(EncodedFrame(raw=b"x", lane=Lane.PATCH, received_s=0.0))

    assert Packet.unpack(item.packets[0]).frame_id == 0
    assert (target.tick(), target.finish()) == ((), ())


def test_each_level_has_counters_of_its_own() -> None:
    """Boot ids, too: what waits on one does not hold up what the ground may ask of another."""
    target = worker(FakeClock())
    lanes = (Lane.PATCH_HIGH, Lane.PATCH, Lane.PATCH_HIGH, Lane.PATCH_LOW)
    read = [
        Packet.unpack(item.packets[0])
        for lane in lanes
        for item in target.accept(EncodedFrame(raw=b"x", lane=lane, received_s=0.0))
    ]

    assert [(p.boot_id, p.apid, p.frame_id) for p in read] == [
        (1, 2, 0), (2, 3, 0), (1, 2, 1), (3, 4, 0),
    ]  # fmt: skip
