"""Packets in a stream are found wherever they are, and nothing else is taken for one."""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SealError
from daemon.link.packet import Packet
from daemon.link.packet_stream import StreamCounts, packets_in
from daemon.link.seal import DOWNLINK_SPI, Opener, Sealer
from fakes.captures import packets_of

KEY = bytes(range(32))
PACKETS = packets_of([b"\x05\x00side", bytes(700), b"\x05\x01patch"], mtu_bytes=128)
IDLE = bytes.fromhex("07ff c000 000f") + b"\x55" * 16
"""A packet of nobody, as links send while there is nothing to send."""


def read(data: bytes, opener: Opener | None = None) -> tuple[list[bytes], StreamCounts]:
    """All packets of a stream, and what was counted."""
    counts = StreamCounts()
    found = packets_in(data, counts, opener.read if opener else None)
    return [packet.pack() for packet in found], counts


def sealed(key: bytes = KEY) -> list[bytes]:
    """The same packets under a seal."""
    numbers = count(1)
    sealer = Sealer(key, DOWNLINK_SPI, lambda: next(numbers), salt=b"salt")
    return [sealer.seal(raw) for raw in PACKETS]


def test_packets_on_end_are_found() -> None:
    """All, in their order, and not a byte is skipped."""
    assert read(b"".join(PACKETS)) == (PACKETS, StreamCounts(packets=len(PACKETS)))


def test_strangers_between_are_skipped() -> None:
    """Idle packets, headers of an archive's frames, a part of a packet at the end."""
    parts = [IDLE, PACKETS[0], b"sync\x1a\xcf\xfc\x1d", IDLE, *PACKETS[1:], PACKETS[0][:-1]]
    found, counts = read(b"".join(parts))

    assert found == PACKETS
    assert counts.skipped_bytes == 2 * len(IDLE) + 8 + len(PACKETS[0]) - 1


def test_a_damaged_packet_costs_itself() -> None:
    """Also where its length is damaged, which would lead the reader astray."""
    for at in range(len(PACKETS[1])):
        broken = bytearray(PACKETS[1])
        broken[at] ^= 0xFF
        assert read(PACKETS[0] + bytes(broken) + PACKETS[2])[0] == [PACKETS[0], PACKETS[2]]


def test_sealed_packets_are_opened() -> None:
    """In any order and as often as they were recorded; plain ones between are read as well."""
    mixed = [*sealed(), *sealed()[::-1], *PACKETS]
    found, counts = read(b"".join(mixed), Opener({DOWNLINK_SPI: KEY}, heard={}))

    assert found == [*PACKETS, *PACKETS[::-1], *PACKETS]
    assert (counts.packets, counts.sealed) == (3 * len(PACKETS), 2 * len(PACKETS))


def test_sealed_packets_take_their_key() -> None:
    """Without one, or with another, they are strangers."""
    stream = b"".join(sealed())

    assert read(stream)[0] == []
    assert read(stream, Opener({DOWNLINK_SPI: bytes(32)}, heard={}))[0] == []


def test_reading_takes_no_note() -> None:
    """What was read can be opened, once; a key is asked for all the same."""
    opener = Opener({DOWNLINK_SPI: KEY}, heard={})
    first = sealed()[0]

    assert opener.read(first) == opener.read(first) == opener.open(first)
    with pytest.raises(SealError):
        opener.read(sealed(bytes(32))[0])


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_noise_holds_no_packet(noise: bytes, seed: int) -> None:
    """What is found between noise is what was put there."""
    shuffled = random.Random(seed).sample(PACKETS, len(PACKETS))
    found, counts = read(noise + noise.join(shuffled) + noise)

    assert found == shuffled
    assert counts.skipped_bytes == (len(PACKETS) + 1) * len(noise)
    assert all(isinstance(Packet.unpack(raw), Packet) for raw in found)
