"""The seal: round trip, frozen bytes, and nothing but what was sealed, once, comes out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import PacketError, PacketFieldError, ReplayError, SealError
from daemon.errors import TruncatedPacketError as Truncated
from daemon.link.packet import MAX_PACKET_BYTES, Channel, Packet
from daemon.link.seal import (
    DOWNLINK_SPI,
    MAX_COUNTER,
    OVERHEAD_BYTES,
    UPLINK_SPI,
    Opener,
    Sealer,
    derived_key,
)
from daemon.link.segment import Segmenter

GOLDEN = Path(__file__).parents[2] / "golden" / "sealed_v1.hex"
MASTER = bytes(range(32))
KEY = derived_key(MASTER, DOWNLINK_SPI)
SALT = bytes.fromhex("5a17ed00")
(RAW,) = Segmenter(boot_id=7, apid=0x123, mtu_bytes=256, repair={}).packets(
    bytes(range(100)), Channel.PATCH, 1_700_000_000.75
)


def sealer(*counters: int, key: bytes = KEY, spi: int = DOWNLINK_SPI) -> Sealer:
    """One that takes these counters, or 1, 2, 3 and so on."""
    source: Iterator[int] = iter(counters) if counters else count(1)
    return Sealer(key, spi, lambda: next(source), salt=SALT)


def opener(heard: int = 0, window: int = 64) -> Opener:
    """One with the key."""
    return Opener({DOWNLINK_SPI: KEY}, heard={DOWNLINK_SPI: heard}, window=window)


SEALED = sealer(0x0102030405060708).seal(RAW)


def space_packet(identification: int, sequence: int, body: bytes) -> bytes:
    """Any Space Packet."""
    words = (identification, sequence, len(body) - 1)
    return b"".join(word.to_bytes(2) for word in words) + body


space_packets = st.builds(
    space_packet,
    # Type, secondary header flag and APID; the version is 0.
    st.integers(0, 2**13 - 1),
    st.integers(0, 2**16 - 1),
    st.binary(min_size=1, max_size=300),
)


@given(space_packets, st.integers(1, MAX_COUNTER))
def test_round_trip(raw: bytes, counter: int) -> None:
    """What is sealed is what is opened: telemetry, telecommand, with secondary header or not."""
    sealed = sealer(counter).seal(raw)

    assert len(sealed) == len(raw) + OVERHEAD_BYTES
    assert opener().open(sealed) == raw


def test_the_bytes_are_frozen() -> None:
    """Key, layout and cipher never change, on any machine."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    golden = [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]
    command = space_packet(0x1877, 0xC001, b"pause")
    up = derived_key(MASTER, UPLINK_SPI)

    assert [SEALED, sealer(MAX_COUNTER, key=up, spi=UPLINK_SPI).seal(command)] == golden


def test_every_field_is_where_the_document_says() -> None:
    """The offsets of docs/wire-format.md, read without our own layout."""
    assert SEALED[0:2] == bytes.fromhex("0123")  # as RAW's, without the secondary header flag
    assert SEALED[2:4] == RAW[2:4]
    assert int.from_bytes(SEALED[4:6]) == len(SEALED) - 7
    assert SEALED[6:8] == b"\0\x01"
    assert SEALED[8:12] == SALT
    assert SEALED[12:20] == bytes.fromhex("0102030405060708")
    assert len(SEALED) == 20 + 1 + len(RAW) - 6 + 16
    assert not any(RAW[at : at + 8] in SEALED[20:] for at in range(6, len(RAW) - 8))


def test_directions_have_keys_of_their_own() -> None:
    """One file serves both; a packet is not opened as one of the other direction."""
    up = derived_key(MASTER, UPLINK_SPI)
    assert len({KEY, up, MASTER}) == 3
    reflected = sealer(key=KEY, spi=UPLINK_SPI).seal(RAW)
    with pytest.raises(SealError, match="MAC"):
        Opener({UPLINK_SPI: up}, heard={}).open(reflected)


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_any_cut_is_refused(length: int) -> None:
    """A sealed packet cut anywhere, also with a length that says so."""
    cut = bytearray(SEALED[:length])
    with pytest.raises(SealError):
        opener().open(bytes(cut))
    if length > 6:
        cut[4:6] = (length - 7).to_bytes(2)
        with pytest.raises(SealError):
            opener().open(bytes(cut))


def test_any_flipped_bits_are_refused() -> None:
    """Every single bit, and thousands of others together, wherever they are."""
    source, target = random.Random(1), opener()
    masks = [1 << bit for bit in range(8 * len(SEALED))]
    masks += [source.getrandbits(8 * len(SEALED)) or 1 for _ in range(5000)]
    number = int.from_bytes(SEALED)
    for mask in masks:
        with pytest.raises(SealError):
            target.open((number ^ mask).to_bytes(len(SEALED)))

    assert target.open(SEALED) == RAW


def test_bytes_after_the_packet_are_refused() -> None:
    """A message holds one packet, no more."""
    with pytest.raises(SealError):
        opener().open(SEALED + b"\0")


def test_another_key_is_refused() -> None:
    """And so is an index that names none."""
    with pytest.raises(SealError, match="MAC"):
        opener().open(sealer(key=bytes(32)).seal(RAW))
    with pytest.raises(SealError, match="SPI 9"):
        opener().open(sealer(spi=9).seal(RAW))


def test_a_plain_packet_is_refused() -> None:
    """Who has a key takes nothing that is not sealed."""
    with pytest.raises(SealError, match="not sealed"):
        opener().open(RAW)
    with pytest.raises(SealError):
        opener().open(space_packet(0x0123, 0, RAW))


def test_a_replay_is_refused() -> None:
    """Once each, in whatever order they come; a late one is no replay."""
    sealed = [sealer(n).seal(RAW) for n in (5, 7, 6, 2)]
    target = opener()
    assert [target.open(one) for one in sealed] == [RAW] * 4
    for one in sealed:
        with pytest.raises(ReplayError):
            target.open(one)
    assert target.highest(DOWNLINK_SPI) == 7


def test_a_restart_takes_no_replay_for_new() -> None:
    """What an earlier process heard, and all below, is refused; the next one is not."""
    target = opener(heard=7)
    for old in (1, 6, 7):
        with pytest.raises(ReplayError, match=f"counter {old} of SPI 1"):
            target.open(sealer(old).seal(RAW))
    assert target.open(sealer(8).seal(RAW)) == RAW


def test_what_is_too_old_is_refused() -> None:
    """Past the window nobody can tell, so it is taken for a replay."""
    target = opener(window=64)
    target.open(sealer(100).seal(RAW))
    assert target.open(sealer(37).seal(RAW)) == RAW
    with pytest.raises(ReplayError):
        target.open(sealer(36).seal(RAW))


def test_the_last_counter() -> None:
    """A leap to 2⁶⁴ − 1 costs no memory; what is just below may still come, 0 never."""
    target = opener(window=64)
    target.open(sealer(1).seal(RAW))
    target.open(sealer(MAX_COUNTER).seal(RAW))
    assert target.open(sealer(MAX_COUNTER - 63).seal(RAW)) == RAW
    for old in (MAX_COUNTER, MAX_COUNTER - 64, 2, 0):
        with pytest.raises(ReplayError):
            target.open(sealer(old).seal(RAW))


def test_a_forged_counter_moves_nothing() -> None:
    """Only a sound MAC moves the window: one leap of a stranger would shut out the board."""
    target = opener()
    forged = SEALED[:12] + b"\xff" * 8 + SEALED[20:]
    with pytest.raises(SealError):
        target.open(forged)

    assert target.highest(DOWNLINK_SPI) == 0
    assert target.open(sealer(1).seal(RAW)) == RAW


def test_a_flag_that_cannot_be_is_refused() -> None:
    """What the holder of the key makes wrong is an error as well, and none of struct's."""
    headers = space_packet(0x0123, 0, bytes(14 + 4 + 16))[:6] + b"\0\1" + SALT + (9).to_bytes(8)
    forged = headers + AESGCM(KEY).encrypt(headers[8:20], b"\2abc", headers)
    with pytest.raises(SealError, match="flag 2"):
        opener().open(forged)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", Truncated),
        (RAW[:6], Truncated),
        (RAW[:-1], PacketFieldError),
        (RAW + b"\0", PacketFieldError),
        (space_packet(0x0123, 0, bytes(MAX_PACKET_BYTES - 6 - 30)), PacketFieldError),
    ],
)
def test_what_is_no_packet_is_not_sealed(raw: bytes, error: type[PacketError]) -> None:
    """Nor what would be too long; no counter is used up."""

    def next_iv() -> int:
        raise AssertionError

    with pytest.raises(error):
        Sealer(KEY, DOWNLINK_SPI, next_iv, salt=SALT).seal(raw)


def test_the_longest_packet() -> None:
    """A packet of the greatest length that leaves room is sealed to the standard's greatest."""
    raw = space_packet(0x0123, 0, bytes(MAX_PACKET_BYTES - 6 - OVERHEAD_BYTES))
    sealed = sealer().seal(raw)

    assert len(sealed) == MAX_PACKET_BYTES
    assert opener().open(sealed) == raw


def test_what_is_opened_is_our_packet() -> None:
    """CRC, secondary header and all."""
    assert Packet.unpack(opener().open(SEALED)) == Packet.unpack(RAW)
