"""What the ground sends up: Space Packets of type telecommand, each one message, each bounded.

A report is the ground's word on frames: which it has for good, and which segments it lacks. It is
whole by itself: one that is lost is made up for by the next. Byte by byte in docs/wire-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, Final, Self

import google_crc32c
import msgpack

from daemon.errors import (
    PacketFieldError,
    PacketVersionError,
    TruncatedPacketError,
)
from daemon.link.packet import MAX_APID, MAX_SEGMENTS, check_whole

VERSION: Final = 1

_HEADERS: Final = Struct(">HHH BBII")
_CRC: Final = Struct(">I")
_PRIMARY_BYTES: Final = 6
_TELECOMMAND: Final = 0b000_1_1 << 11
"""Packet version 0, type telecommand, secondary header present (CCSDS 133.0-B-2, 4.1.3)."""
_UNSEGMENTED: Final = 0b11 << 14
_COUNT_MASK: Final = 0x3FFF
OVERHEAD_BYTES: Final = _HEADERS.size + _CRC.size
"""Bytes of a command that are not its body."""
MIN_COMMAND_BYTES: Final = 128
"""Least MTU of an uplink: room for a report on one frame."""
MAX_COMMAND_BYTES: Final = 65_535
MIN_KBIT_PER_S: Final = 2.0
"""Least rate a command can set: a link's shortest MTU, once a second."""
MAX_KBIT_PER_S: Final = 1e9
MAX_OCTAVES: Final = 8.0
"""Most that a command can make tiles coarser."""
MODEL_BYTES: Final = 8
"""Of a model's name, as frames carry it."""
_U32: Final = 2**32
_LOSS_ONE: Final = 65_535
_NUMBER_BYTES: Final = 5
_ARRAY_BYTES: Final = 3
"""Most bytes that MessagePack takes for a number below 2³², and for the head of an array."""

Span = tuple[int, int]
"""Numbers from the first to before the second."""


class Kind(IntEnum):
    """What a command asks for."""

    REPORT = 0
    OPEN = 1
    CLOSE = 2
    SUSPEND = 3
    RESUME = 4
    RATE = 5
    STEP = 6
    MODEL = 7
    ROLLBACK = 8


_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One message to the board.

    Attributes:
        apid: Application process it is for, 0 to 0x7FE.
        kind: What it asks for.
        session: Names a run of the sender's process.
        number: The sender's count since then.
        body: Depends on the kind.

    Raises:
        PacketFieldError: If a field is out of range.
    """

    apid: int
    kind: Kind
    session: int
    number: int
    body: bytes

    def __post_init__(self) -> None:
        for name, high in (("apid", MAX_APID), ("session", _U32 - 1), ("number", _U32 - 1)):
            if not 0 <= (value := getattr(self, name)) <= high:
                raise PacketFieldError(f"{name} must be in [0, {high}], got {value}")
        if OVERHEAD_BYTES + len(self.body) > MAX_COMMAND_BYTES:
            raise PacketFieldError(f"a body of {len(self.body)} bytes is above a command's length")

    def pack(self) -> bytes:
        """Return the bytes that go on the wire."""
        headers = _HEADERS.pack(
            _TELECOMMAND | self.apid,
            _UNSEGMENTED | self.number & _COUNT_MASK,
            OVERHEAD_BYTES + len(self.body) - _PRIMARY_BYTES - 1,
            VERSION,
            self.kind,
            self.session,
            self.number,
        )
        raw = headers + self.body
        return raw + _CRC.pack(google_crc32c.value(raw))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a command that fills `raw`.

        Raises:
            TruncatedPacketError: If bytes are missing.
            PacketChecksumError: If the bytes do not match their CRC32C.
            PacketVersionError: If a later build wrote it.
            PacketFieldError: If it is not our kind of Space Packet, bytes follow it, or a field is
                out of range.
        """
        if len(raw) < OVERHEAD_BYTES:
            raise TruncatedPacketError(OVERHEAD_BYTES, len(raw))
        fields = _HEADERS.unpack_from(raw)
        identification, sequence, length, version, kind, session, number = fields
        if identification >> 11 != _TELECOMMAND >> 11:
            raise PacketFieldError(f"no telecommand with a secondary header: {identification:#06x}")
        check_whole(raw, length)
        if version != VERSION:
            raise PacketVersionError(f"command version {version}, this build reads {VERSION}")
        if kind not in _KINDS:
            raise PacketFieldError(f"kind {kind} of command is unknown")
        if sequence != _UNSEGMENTED | number & _COUNT_MASK:
            raise PacketFieldError(f"sequence control {sequence:#06x} contradicts the number")
        return cls(
            apid=identification & 0x7FF,
            kind=_KINDS[kind],
            session=session,
            number=number,
            body=raw[_HEADERS.size : -_CRC.size],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A frame that is not whole.

    Attributes:
        frame_id: Which.
        spans: Segments that are lacking, rising; empty: all of it.
    """

    frame_id: int
    spans: tuple[Span, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Most bytes it takes in a report."""
        return _ARRAY_BYTES + _NUMBER_BYTES + 6 * len(self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The ground's word on the frames of one boot of the board.

    Attributes:
        loss: Share of packets that do not come, 0 to 1.
        boot_id: Which boot.
        below: All frames below are done: the ground has them for good, or will never.
        done: Further ones that are, as spans of ids, rising.
        wanted: Frames that should be sent again, in part or whole.
    """

    loss: float
    boot_id: int
    below: int
    done: tuple[Span, ...] = ()
    wanted: tuple[Wanted, ...] = ()

    def pack(self) -> bytes:
        """Return the body of a command."""
        wanted = [[one.frame_id, *_flat(one.spans)] for one in self.wanted]
        loss = round(min(max(self.loss, 0.0), 1.0) * _LOSS_ONE)
        raw: bytes = msgpack.packb([loss, self.boot_id, self.below, _flat(self.done), wanted])
        return raw

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """Read a report that fills `body`.

        Raises:
            PacketFieldError: If it is none.
        """
        loss, boot_id, below, done, wanted = list_of(read_list(body, "report"), "a report", 5)
        return cls(
            loss=number_of(loss, _LOSS_ONE + 1, "loss") / _LOSS_ONE,
            boot_id=number_of(boot_id, _U32, "boot id"),
            below=number_of(below, _U32 + 1, "the lowest frame that is not done"),
            done=_spans(list_of(done, "frames done"), _U32, "frames done"),
            wanted=tuple(_wanted(one) for one in list_of(wanted, "frames wanted")),
        )


def pack_value(value: float | None) -> bytes:
    """Return the body of a command that carries one number, or none."""
    raw: bytes = msgpack.packb([] if value is None else [value])
    return raw


def unpack_value(body: bytes, low: float, high: float, what: str) -> float | None:
    """Read the number a command carries; None if it carries none.

    Raises:
        PacketFieldError: If it is not one from `low` to `high`.
    """
    values = read_list(body, what)
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or type(value) not in (int, float) or not low <= value <= high:
        raise PacketFieldError(f"{what} must be in [{low:g}, {high:g}]")
    return float(value)


def pack_model(model: bytes) -> bytes:
    """Return the body of a command to load a model, of its name in frames."""
    raw: bytes = msgpack.packb([model])
    return raw


def unpack_model(body: bytes) -> bytes:
    """Read the name of a model that a command carries.

    Raises:
        PacketFieldError: If it is none.
    """
    (model,) = list_of(read_list(body, "model"), "a model", 1)
    if not isinstance(model, bytes) or len(model) != MODEL_BYTES:
        raise PacketFieldError(f"a model's name has {MODEL_BYTES} bytes")
    return model


REPORT_BYTES: Final = OVERHEAD_BYTES + 3 * _ARRAY_BYTES + 3 * _NUMBER_BYTES
"""Most bytes of a report on nothing."""
SPAN_BYTES: Final = 2 * _NUMBER_BYTES
"""Most bytes that a span of frames adds."""


def read_list(body: bytes, what: str) -> list[Any]:
    """Read one MessagePack array; nothing is allocated that the bytes do not hold.

    Raises:
        PacketFieldError: If it is none.
    """
    try:
        value = msgpack.unpackb(body, use_list=True, max_array_len=len(body), strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PacketFieldError(f"no {what}: {type(error).__name__}") from None
    return list_of(value, what)


def number_of(value: object, below: int, what: str) -> int:
    """Return a whole number from 0 to before `below`.

    Raises:
        PacketFieldError: If it is none.
    """
    if type(value) is not int or not 0 <= value < below:
        raise PacketFieldError(f"{what} must be a number below {below}")
    return value


def list_of(value: object, what: str, length: int | None = None) -> list[Any]:
    """Return an array, of a length if one is given.

    Raises:
        PacketFieldError: If it is none.
    """
    if not isinstance(value, list) or len(value) != (len(value) if length is None else length):
        raise PacketFieldError(f"{what} must be an array of {'any' if length is None else length}")
    return value


def _wanted(value: object) -> Wanted:
    fields = list_of(value, "a frame wanted")
    if not fields:
        raise PacketFieldError("a frame wanted has an id")
    return Wanted(
        frame_id=number_of(fields[0], _U32, "frame id"),
        spans=_spans(fields[1:], MAX_SEGMENTS, "segments"),
    )


def _spans(flat: Sequence[object], end: int, what: str) -> tuple[Span, ...]:
    """Spans below an end, from first numbers and lengths in turn; they rise and do not touch."""
    if len(flat) % 2:
        raise PacketFieldError(f"{what} must be pairs")
    spans, least = [], 0
    for start, length in zip(flat[::2], flat[1::2], strict=True):
        first = number_of(start, end, what)
        stop = first + number_of(length, end + 1, what)
        if not least <= first < stop <= end:
            raise PacketFieldError(f"{what} must rise, each of them at least one")
        spans.append((first, stop))
        least = stop + 1
    return tuple(spans)


def _flat(spans: Sequence[Span]) -> list[int]:
    return [number for start, stop in spans for number in (start, stop - start)]
