"""Commands come back as they were sent, are never longer than allowed, and refuse all else."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import msgpack
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
from daemon.link.commands import (
    MAX_COMMAND_BYTES,
    OVERHEAD_BYTES,
    REPORT_BYTES,
    SPAN_BYTES,
    Command,
    Kind,
    Report,
    Span,
    Wanted,
    pack_value,
    unpack_value,
)
from daemon.link.packet import MAX_SEGMENTS

GOLDEN = Path(__file__).parents[2] / "golden" / "command_v1.hex"
REPORT = Report(
    loss=0.2,
    boot_id=0xB007B007,
    below=70_000,
    done=((70_002, 70_005), (70_007, 70_008)),
    wanted=(Wanted(frame_id=70_001, spans=((0, 2), (300, 301))), Wanted(frame_id=70_005)),
)
COMMAND = Command(
    apid=0x123, kind=Kind.REPORT, session=0x5E551011, number=70_000, body=REPORT.pack()
)
RAW = COMMAND.pack()


def golden() -> list[bytes]:
    """The frozen commands."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def golden_again() -> list[bytes]:
    """The same made by this build: a report, a rate and an order without a value."""
    rate = Command(apid=1, kind=Kind.RATE, session=2, number=3, body=pack_value(512.0))
    return [
        RAW,
        rate.pack(),
        Command(apid=1, kind=Kind.SUSPEND, session=2, number=4, body=b"").pack(),
    ]


def rising(most: int) -> st.SearchStrategy[tuple[Span, ...]]:
    """Spans that rise and do not touch."""
    numbers = st.lists(st.integers(0, most), unique=True, max_size=12).map(sorted)
    return numbers.map(
        lambda all_: tuple(
            (a, b)
            for i, (a, b) in enumerate(zip(all_[::2], all_[1::2], strict=False))
            if not i or a > all_[2 * i - 1]
        )
    )


REPORTS = st.builds(
    Report,
    loss=st.integers(0, 65_535).map(lambda n: n / 65_535),
    boot_id=st.integers(0, 2**32 - 1),
    below=st.integers(0, 2**32),
    done=rising(2**32),
    wanted=st.lists(
        st.builds(Wanted, frame_id=st.integers(0, 2**32 - 1), spans=rising(MAX_SEGMENTS)),
        max_size=4,
    ).map(tuple),
)


def test_the_bytes_are_frozen() -> None:
    """What is in orbit must understand a ground of any later year."""
    assert golden_again() == golden()
    assert Command.unpack(golden()[0]) == COMMAND
    assert Report.unpack(COMMAND.body) == REPORT


@given(REPORTS)
def test_a_report_comes_back_and_is_as_short_as_promised(report: Report) -> None:
    """Who fills a message counts with the most each part takes."""
    raw = report.pack()
    assert Report.unpack(raw) == report
    most = SPAN_BYTES * len(report.done) + sum(one.size_bytes for one in report.wanted)
    assert OVERHEAD_BYTES + len(raw) <= REPORT_BYTES + most


@pytest.mark.parametrize("value", [None, 0.0, 2, 7.5])
def test_a_value_comes_back(value: float | None) -> None:
    """One number, or none."""
    assert unpack_value(pack_value(value), 0, 8, "step") == value


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x92\x01\x02", b"\x91\xc0", b"\x91\xa1x", b"\x91\x09",
             msgpack.packb([float("nan")]), b"\x91\xc3"],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(body: bytes) -> None:
    """Of another type, out of range, or more than one."""
    with pytest.raises(PacketFieldError):
        unpack_value(body, 0, 8, "step")


def test_every_truncation_is_refused() -> None:
    """At each length, and what follows a command too."""
    for length in range(len(RAW)):
        with pytest.raises(TruncatedPacketError):
            Command.unpack(RAW[:length])
    with pytest.raises(PacketFieldError, match="follow"):
        Command.unpack(RAW + b"\0")


def test_every_flipped_bit_is_refused() -> None:
    """The board obeys nothing that was not said."""
    for bit in range(8 * len(RAW)):
        hit = bytearray(RAW)
        hit[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PacketError):
            Command.unpack(bytes(hit))


def forge(offset: int, value: bytes) -> bytes:
    """A command with other bytes and a CRC that holds."""
    raw = RAW[:offset] + value + RAW[offset + len(value) : -4]
    return raw + google_crc32c.value(raw).to_bytes(4)


def golden_crc(raw: bytes) -> bytes:
    """CRC32C, big-endian."""
    import google_crc32c

    return google_crc32c.value(raw).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("offset", "value", "error", "message"),
    [
        (0, b"\x09\x23", PacketFieldError, "no telecommand"),
        (0, b"\x1f\xff", PacketFieldError, "apid"),
        (2, b"\xc0\x00", PacketFieldError, "contradicts"),
        (6, b"\x02", PacketVersionError, "command version 2, this build reads 1"),
        (7, b"\x09", PacketFieldError, "kind 9"),
    ],
)
def test_a_field_that_cannot_be_is_refused(
    offset: int, value: bytes, error: type[PacketError], message: str
) -> None:
    """A sound CRC does not make a wrong field right."""
    with pytest.raises(error, match=message):
        Command.unpack(forge(offset, value))
    with pytest.raises(PacketChecksumError):
        Command.unpack(RAW[:-1] + b"\0")


@pytest.mark.parametrize(
    "fields",
    [
        [], [0], [0, 1, 2, []], [65_536, 1, 2, [], []], [-1, 1, 2, [], []], [0.5, 1, 2, [], []],
        [0, 2**32, 2, [], []], [0, 1, 2**32 + 1, [], []], [0, 1, 2, [1], []], [0, 1, 2, [1, 0], []],
        [0, 1, 2, [5, 1, 3, 1], []], [0, 1, 2, [5, 1, 6, 1], []], [0, 1, 2, [2**32, 1], []],
        [0, 1, 2, [], [[]]], [0, 1, 2, [], [[1, 2]]], [0, 1, 2, [], [[1, 0, 8193]]],
        [0, 1, 2, [], [[2**32]]], [0, 1, 2, [], [7]], [0, 1, 2, {}, []], [True, 1, 2, [], []],
        {"a": 1}, 7, None,
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_is_refused(fields: object) -> None:
    """Other types, numbers out of range, spans that fall or are empty."""
    with pytest.raises(PacketFieldError):
        Report.unpack(msgpack.packb(fields))


def test_garbage_is_refused_and_nothing_else_happens() -> None:
    """Ten thousand bodies: an array that promises billions of values allocates none."""
    rng = random.Random(0)
    for number in range(10_000):
        body = rng.randbytes(rng.randrange(40))
        if number % 3 == 0:
            body = b"\xdd\xff\xff\xff\xff" + body
        try:
            report = Report.unpack(body)
        except PacketFieldError:
            continue
        assert Report.unpack(report.pack()) == report


def test_a_command_is_no_longer_than_a_length_can_say() -> None:
    """Refused when it is made."""
    with pytest.raises(PacketFieldError, match="above a command"):
        Command(apid=0, kind=Kind.REPORT, session=0, number=0, body=bytes(MAX_COMMAND_BYTES))
    with pytest.raises(PacketFieldError, match="session"):
        Command(apid=0, kind=Kind.OPEN, session=2**32, number=0, body=b"")
