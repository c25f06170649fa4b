"""Rules of `daemon.link.packet`: round trip, frozen bytes, broken bytes."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from pathlib import Path
from struct import pack_into
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import (
    PacketChecksumError,
    PacketError,
    PacketFieldError,
    PacketVersionError,
    TruncatedPacketError,
)
from daemon.link.fec import RepairPolicy
from daemon.link.packet import (
    MAX_APID,
    MAX_FRAME_BYTES,
    MAX_PACKET_BYTES,
    MAX_SEGMENTS,
    OVERHEAD_BYTES,
    Channel,
    Packet,
    symbol_bytes,
    ticks,
)
from daemon.link.segment import Segmenter

GOLDEN = Path(__file__).parents[2] / "golden" / "packet_v1.hex"
PACKET = Packet(
    apid=0x123,
    channel=Channel.PATCH,
    boot_id=0xB007B007,
    counter=0x0102030405060708,
    time_ticks=0x6543_2100_8000,
    frame_id=0xF00DF00D,
    segment_index=1,
    segment_count=3,
    frame_bytes=50,
    data=bytes(range(24)),
)
RAW = PACKET.pack()


def golden() -> list[bytes]:
    """The frozen packets, in the order they were made."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def golden_again() -> list[bytes]:
    """The same made by this build: a frame in three segments with two repairs, and a byte."""
    segmenter = Segmenter(
        boot_id=0xB007B007, apid=0x123, mtu_bytes=OVERHEAD_BYTES + 47,
        repair={Channel.SIDE: RepairPolicy(ratio=0.3, minimum=1)},
    )  # fmt: skip
    packets = segmenter.packets(bytes(range(100)), Channel.SIDE, 1_700_000_000.75)
    return packets + segmenter.packets(b"\xff", Channel.PATCH, 1_700_000_001.0)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Any packet, of a small frame."""
    frame_bytes = draw(st.integers(1, 3000))
    room_bytes = 8 * draw(st.integers(1, 40))
    count = -(-frame_bytes // room_bytes)
    size = symbol_bytes(frame_bytes, count)
    index = draw(st.integers(0, min(2 * count, 2**16 - 1)))
    length = frame_bytes - (count - 1) * size if index == count - 1 else size
    return Packet(
        apid=draw(st.integers(0, MAX_APID)),
        channel=draw(st.sampled_from(Channel)),
        boot_id=draw(st.integers(0, 2**32 - 1)),
        counter=draw(st.integers(0, 2**64 - 1)),
        time_ticks=draw(st.integers(0, 2**48 - 1)),
        frame_id=draw(st.integers(0, 2**32 - 1)),
        segment_index=index,
        segment_count=count,
        frame_bytes=frame_bytes,
        data=draw(st.binary(min_size=length, max_size=length)),
    )


def forge(offset: int, layout: str, value: int, raw: bytes = RAW) -> bytes:
    """Change a field and mend the CRC, as only an enemy or a bug would."""
    body = bytearray(raw[:-4])
    pack_into(layout, body, offset, value)
    crc: int = google_crc32c.value(bytes(body))
    return bytes(body) + crc.to_bytes(4, "big")


@given(packets())
def test_round_trip(packet: Packet) -> None:
    """What is packed is what is unpacked."""
    raw = packet.pack()

    assert Packet.unpack(raw) == packet
    assert len(raw) == OVERHEAD_BYTES + len(packet.data)


def test_the_bytes_are_frozen() -> None:
    """The layout of version 1 and the repair symbols never change, on any machine."""
    assert golden_again() == golden()


def test_every_field_is_where_the_document_says() -> None:
    """The offsets of docs/wire-format.md, read without our own layout."""
    assert RAW[0:2] == bytes.fromhex("0923")  # version 0, telemetry, secondary header, APID
    assert RAW[2:4] == bytes.fromhex("0708")  # continuation, the counter's low 14 bits
    assert int.from_bytes(RAW[4:6], "big") == len(RAW) - 7
    assert RAW[6:12] == bytes.fromhex("65432100 8000")
    assert RAW[12:14] == b"\x01\x01"
    assert RAW[14:18] == bytes.fromhex("b007b007")
    assert RAW[18:26] == bytes.fromhex("0102030405060708")
    assert RAW[26:30] == bytes.fromhex("f00df00d")
    assert RAW[30:38] == bytes.fromhex("0001 0003 00000032")
    assert RAW[38:-4] == PACKET.data
    assert PACKET.time_s == 0x65432100 + 0.5


@pytest.mark.parametrize(
    ("index", "count", "flags"),
    [(0, 1, 3), (0, 3, 1), (1, 3, 0), (2, 3, 2), (3, 3, 3), (1, 1, 3)],
)
def test_sequence_flags(index: int, count: int, flags: int) -> None:
    """First, continuation and last segments say so; repair symbols and whole frames stand alone."""
    size = symbol_bytes(50, count)
    data = bytes(50 - (count - 1) * size if index == count - 1 else size)
    packet = replace(PACKET, segment_index=index, segment_count=count, data=data)

    assert packet.pack()[2] >> 6 == flags
    assert packet.is_repair == (index >= count)


@pytest.mark.parametrize("length", range(len(RAW)))
def test_any_cut_is_reported(length: int) -> None:
    """A packet cut anywhere says how much was missing."""
    with pytest.raises(TruncatedPacketError) as caught:
        Packet.unpack(RAW[:length])

    assert caught.value.got_bytes == length < caught.value.needed_bytes


@pytest.mark.parametrize("bit", range(8 * len(RAW)))
def test_any_flipped_bit_is_reported(bit: int) -> None:
    """No single wrong bit passes, and none looks like a later version."""
    damaged = bytearray(RAW)
    damaged[bit // 8] ^= 0x80 >> bit % 8

    with pytest.raises((PacketChecksumError, TruncatedPacketError, PacketFieldError)):
        Packet.unpack(bytes(damaged))


def test_bytes_after_the_packet_are_refused() -> None:
    """A message holds one packet, no more."""
    with pytest.raises(PacketFieldError, match="3 bytes follow"):
        Packet.unpack(RAW + b"abc")


def test_a_future_version_is_refused() -> None:
    """A version this build does not know is an error, not a guess."""
    with pytest.raises(PacketVersionError, match="version 2, this build reads 1"):
        Packet.unpack(forge(12, ">B", 2))


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        pytest.param(0, ">H", 0x2923, "not telemetry", id="another packet version"),
        pytest.param(0, ">H", 0x1923, "not telemetry", id="telecommand"),
        pytest.param(0, ">H", 0x0123, "not telemetry", id="no secondary header"),
        pytest.param(0, ">H", 0x0FFF, "apid", id="idle packet"),
        pytest.param(2, ">H", 0x0709, "contradicts", id="another count"),
        pytest.param(2, ">H", 0xC708, "contradicts", id="other flags"),
        pytest.param(13, ">B", 3, "channel 3", id="unknown channel"),
        pytest.param(30, ">H", 2, "must have 2 bytes", id="not the last segment's length"),
        pytest.param(32, ">H", 0, "segment_count", id="no segments"),
        pytest.param(32, ">H", MAX_SEGMENTS + 1, "segment_count", id="too many segments"),
        pytest.param(32, ">H", 40, "do not fill", id="segments without bytes"),
        pytest.param(34, ">I", 0, "frame_bytes", id="empty frame"),
        pytest.param(34, ">I", MAX_FRAME_BYTES + 1, "frame_bytes", id="too long a frame"),
        pytest.param(34, ">I", 2**32 - 1, "frame_bytes", id="hostile frame length"),
        pytest.param(34, ">I", 1000, "must have 336 bytes", id="another frame length"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_refused(
    offset: int, layout: str, value: int, message: str
) -> None:
    """A sound CRC does not make a wrong field right."""
    with pytest.raises(PacketFieldError, match=message):
        Packet.unpack(forge(offset, layout, value))


@pytest.mark.parametrize(
    "change",
    [{"apid": -1}, {"apid": 0x7FF}, {"counter": 2**64}, {"boot_id": -1}, {"time_ticks": 2**48},
     {"segment_index": 2**16}, {"data": b""},
     {"frame_bytes": 70_000, "segment_count": 1, "segment_index": 0, "data": bytes(70_000)}],
)  # fmt: skip
def test_a_wrong_packet_cannot_be_made(change: dict[str, Any]) -> None:
    """A packet that exists can be sent."""
    with pytest.raises(PacketFieldError):
        replace(PACKET, **change)


def test_the_longest_packet() -> None:
    """A packet of the standard's greatest length is packed and read."""
    data = bytes(65_496)
    packet = replace(
        PACKET, segment_index=0, segment_count=2, frame_bytes=65_500 * 2 - 8, data=data
    )

    raw = packet.pack()

    assert MAX_PACKET_BYTES - 8 < len(raw) <= MAX_PACKET_BYTES
    assert Packet.unpack(raw) == packet


@given(st.integers(1, MAX_FRAME_BYTES), st.integers(1, 8187))
def test_symbols_fill_the_frame(frame_bytes: int, room_symbols: int) -> None:
    """Equal shares never need more room than there is, nor leave the last segment empty."""
    count = -(-frame_bytes // (8 * room_symbols))
    size = symbol_bytes(frame_bytes, count)

    assert size <= 8 * room_symbols
    assert 0 < frame_bytes - (count - 1) * size <= size


@pytest.mark.parametrize(
    ("utc_s", "expected"),
    [(0.0, 0), (1.5, 0x18000), (-3.0, 0), (1e300, 2**48 - 1), (math.inf, 2**48 - 1),
     (-math.inf, 0), (math.nan, 0)],
)  # fmt: skip
def test_any_clock_gives_a_time(utc_s: float, expected: int) -> None:
    """A clock that was never set does not stop the downlink."""
    assert ticks(utc_s) == expected


def test_random_bytes_are_refused() -> None:
    """Whatever comes off the link is a packet or a `PacketError`."""
    source = random.Random(1)
    for _ in range(10_000):
        with pytest.raises(PacketError):
            Packet.unpack(source.randbytes(source.randrange(200)))


@given(st.integers(0, len(RAW) - 5), st.binary(min_size=1, max_size=8))
def test_forged_bytes_are_a_packet_or_refused(offset: int, patch: bytes) -> None:
    """With a sound CRC every other check still holds: what passes is packed the same again."""
    body = (RAW[:offset] + patch + RAW[offset + len(patch) :])[: len(RAW) - 4]
    raw = body + google_crc32c.value(body).to_bytes(4, "big")
    try:
        packet = Packet.unpack(raw)
    except PacketError:
        return
    assert packet.pack() == raw


def test_errors_survive_pickling() -> None:
    """An error keeps its values on the way out of another process."""
    error = pickle.loads(pickle.dumps(TruncatedPacketError(9, 4)))  # noqa: S301 - our own bytes

    assert (error.needed_bytes, error.got_bytes) == (9, 4)
