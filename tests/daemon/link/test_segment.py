"""Rules of `daemon.link.segment`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import FrameSizeError, LinkError
from daemon.link.fec import RepairPolicy, recover
from daemon.link.packet import (
    MAX_FRAME_BYTES,
    MAX_PACKET_BYTES,
    MAX_SEGMENTS,
    MIN_PACKET_BYTES,
    Channel,
    Packet,
)
from daemon.link.segment import Segmenter

REPAIR = {Channel.SIDE: RepairPolicy(ratio=0.5, minimum=2)}


def segmenter(mtu_bytes: int = 256) -> Segmenter:
    """A segmenter that repairs side information only."""
    return Segmenter(boot_id=7, apid=0x42, mtu_bytes=mtu_bytes, repair=REPAIR)


@given(st.binary(min_size=1, max_size=3000), st.integers(MIN_PACKET_BYTES, 2048))
def test_packets_fit_the_link_and_hold_the_frame(frame: bytes, mtu_bytes: int) -> None:
    """No packet is above the MTU, source segments in order are the frame, repairs repair it."""
    packets = segmenter(mtu_bytes).packets(frame, Channel.SIDE, 12.5)

    assert max(map(len, packets)) <= mtu_bytes
    read = [Packet.unpack(raw) for raw in packets]
    count = read[0].segment_count
    assert len(read) == count + -(-count // 2) + 2
    assert b"".join(packet.data for packet in read[:count]) == frame
    symbols = {packet.segment_index: packet.data for packet in read[1:]}
    assert recover(symbols, len(frame), read[0].symbol_bytes) == frame


def test_counters_go_on_from_frame_to_frame() -> None:
    """Every packet has the next number, repair packets too; every frame as well."""
    cutter = segmenter()

    raw = cutter.packets(bytes(500), Channel.SIDE, 1.0) + cutter.packets(b"a", Channel.PATCH, 2.0)
    packets = [Packet.unpack(packet) for packet in raw]

    assert [packet.counter for packet in packets] == list(range(8))
    assert [packet.frame_id for packet in packets] == [0] * 7 + [1]
    assert [packet.segment_index for packet in packets] == [*range(7), 0]
    assert {packet.boot_id for packet in packets} == {7}
    assert {packet.apid for packet in packets} == {0x42}
    assert [packet.channel for packet in packets] == [Channel.SIDE] * 7 + [Channel.PATCH]
    assert (packets[0].time_s, packets[-1].time_s) == (1.0, 2.0)


def test_a_channel_without_a_policy_gets_no_repair() -> None:
    """Repair symbols are made only where they are asked for."""
    packets = segmenter().packets(bytes(500), Channel.PATCH, 0.0)

    assert not any(Packet.unpack(packet).is_repair for packet in packets)


@pytest.mark.parametrize(
    ("mtu_bytes", "limit_bytes"),
    [(MIN_PACKET_BYTES, 8 * MAX_SEGMENTS), (MAX_PACKET_BYTES, MAX_FRAME_BYTES)],
)
def test_the_longest_frame_passes_and_one_byte_more_does_not(
    mtu_bytes: int, limit_bytes: int
) -> None:
    """The limit is told beforehand and in the error, and a refusal uses up no number."""
    cutter = Segmenter(boot_id=0, apid=0, mtu_bytes=mtu_bytes, repair={})
    assert cutter.max_frame_bytes == limit_bytes

    for refused in (bytes(limit_bytes + 1), b""):
        with pytest.raises(FrameSizeError) as caught:
            cutter.packets(refused, Channel.PATCH, 0.0)
        assert (caught.value.frame_bytes, caught.value.limit_bytes) == (len(refused), limit_bytes)

    packets = cutter.packets(bytes(limit_bytes), Channel.PATCH, 0.0)
    assert Packet.unpack(packets[0]).counter == 0
    assert sum(len(Packet.unpack(packet).data) for packet in packets) == limit_bytes


@pytest.mark.parametrize(
    ("name", "value"),
    [("boot_id", 2**32), ("boot_id", -1), ("apid", 0x7FF), ("mtu_bytes", MIN_PACKET_BYTES - 1),
     ("mtu_bytes", MAX_PACKET_BYTES + 1)],
)  # fmt: skip
def test_an_argument_out_of_range_is_named(name: str, value: int) -> None:
    """A segmenter that exists can cut."""
    arguments = {"boot_id": 0, "apid": 0, "mtu_bytes": 256} | {name: value}
    with pytest.raises(LinkError, match=f"{name} must be in .* got {value}"):
        Segmenter(**arguments, repair={})
