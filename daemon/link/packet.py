"""The packet: a CCSDS Space Packet with our secondary header and a CRC32C at its end.

Byte by byte in docs/wire-format.md. Time comes first in the secondary header, before the version,
because CCSDS 133.0-B-2, 4.1.4.2, puts the time code there and generic tools look for it there.
Primary header, time, version and CRC keep their places in every later version.

The repair symbols of RaptorQ need segments of equal length, a multiple of 8, so the length of
every segment follows from the frame's length and its number of segments: `symbol_bytes`. A packet
that does not fit its own frame is refused here, before anything is kept for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, Self, TypeAlias

import google_crc32c

from daemon.errors import (
    PacketChecksumError,
    PacketFieldError,
    PacketVersionError,
    TruncatedPacketError,
)

VERSION: Final = 1

_HEADERS: Final = Struct(">HHH IHBBIQIHHI")
_CRC: Final = Struct(">I")
_PRIMARY_BYTES: Final = 6
_TELEMETRY: Final = 0b000_0_1 << 11
"""Packet version 0, type telemetry, secondary header present, above the 11 bits of the APID."""
_COUNT_MASK: Final = 0x3FFF
_CONTINUATION, _FIRST, _LAST, _UNSEGMENTED = range(4)  # sequence flags, 133.0-B-2, 4.1.3.4.2

OVERHEAD_BYTES: Final = _HEADERS.size + _CRC.size
"""Bytes of a packet that are not the frame's."""
MAX_PACKET_BYTES: Final = _PRIMARY_BYTES + 65_536
"""Longest Space Packet (CCSDS 133.0-B-2, 4.1.3.5.3)."""
SYMBOL_ALIGNMENT_BYTES: Final = 8
"""Every segment but the last is a multiple of this, as RaptorQ's symbols are."""
MIN_PACKET_BYTES: Final = OVERHEAD_BYTES + SYMBOL_ALIGNMENT_BYTES
"""Smallest MTU there can be: one smallest symbol."""
MAX_FRAME_BYTES: Final = 8 << 20
"""Above an uncompressed patch of 128×128×224, and below where RaptorQ's default parameters cut
a frame in several blocks (10 MiB) and a symbol stops being a stretch of the frame."""
MAX_SEGMENTS: Final = 8192
"""Most source segments: enough for the largest frame at 1024 bytes each, and repair symbols
still have room above it in the 16-bit index."""
MAX_APID: Final = 0x7FE
"""0x7FF is kept for idle packets (CCSDS 133.0-B-2, 4.1.3.3.4.4)."""
TICKS_PER_S: Final = 1 << 16
_MAX_TICKS: Final = 2**48 - 1


class Channel(IntEnum):
    """What a frame is, and, of those that are spooled, with what priority it goes down."""

    SIDE = 0
    PATCH = 1
    HOUSEKEEPING = 2


_CHANNELS: Final = {int(channel): channel for channel in Channel}

_RANGES: Final = (
    ("apid", 0, MAX_APID),
    ("time_ticks", 0, _MAX_TICKS),
    ("boot_id", 0, 2**32 - 1),
    ("counter", 0, 2**64 - 1),
    ("frame_id", 0, 2**32 - 1),
    ("segment_index", 0, 2**16 - 1),
    ("segment_count", 1, MAX_SEGMENTS),
    ("frame_bytes", 1, MAX_FRAME_BYTES),
)


FrameKey: TypeAlias = tuple[int, int]
"""(boot_id, frame_id)."""


class PacketHeader(NamedTuple):
    """What tells a packet of our own from others, unchecked: see `Packet`."""

    key: FrameKey
    segment_index: int


def header_of(raw: bytes) -> PacketHeader:
    """Read the header of a packet that `Packet.pack` made."""
    fields = _HEADERS.unpack_from(raw)
    return PacketHeader((fields[7], fields[9]), fields[10])


def check_whole(raw: bytes, length: int) -> None:
    """Hold a Space Packet that ends in a CRC32C against its length field.

    Raises:
        TruncatedPacketError: If bytes are missing.
        PacketFieldError: If bytes follow it.
        PacketChecksumError: If the bytes do not match their CRC32C.
    """
    promised = _PRIMARY_BYTES + length + 1
    if len(raw) < promised:
        raise TruncatedPacketError(promised, len(raw))
    if len(raw) > promised:
        raise PacketFieldError(f"{len(raw) - promised} bytes follow the packet")
    if _CRC.unpack_from(raw, promised - _CRC.size)[0] != google_crc32c.value(raw[: -_CRC.size]):
        raise PacketChecksumError("the packet does not match its CRC32C")


def symbol_bytes(frame_bytes: int, segment_count: int) -> int:
    """Length of every segment but the last: equal shares of the frame, rounded up to 8 bytes."""
    return -(-frame_bytes // (segment_count * SYMBOL_ALIGNMENT_BYTES)) * SYMBOL_ALIGNMENT_BYTES


def ticks(utc_s: float) -> int:
    """Time of day as a packet carries it [2⁻¹⁶ s since 1970].

    A clock that was never set must not stop the downlink, so what a packet cannot say becomes
    the nearest that it can, and NaN the beginning.
    """
    return 0 if math.isnan(utc_s) else int(min(max(utc_s * TICKS_PER_S, 0), _MAX_TICKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One segment of a frame, or one repair symbol for it.

    Attributes:
        apid: Application process, 0 to 0x7FE.
        channel: What the frame is.
        boot_id: Names a run of the board's process; counters begin at 0 with each.
        counter: The board's count of packets since that boot, 64 bits.
        time_ticks: When the packet was made [2⁻¹⁶ s since 1970-01-01 UTC].
        frame_id: The board's count of frames since that boot; after 2³² − 1 comes another boot.
        segment_index: Position in the frame; from `segment_count` on, the encoding symbol id of
            a repair symbol.
        segment_count: Segments the frame is cut in.
        frame_bytes: Length of the whole frame.
        data: The segment or symbol.

    Raises:
        PacketFieldError: If a field is out of range or contradicts another.
    """

    apid: int
    channel: Channel
    boot_id: int
    counter: int
    time_ticks: int
    frame_id: int
    segment_index: int
    segment_count: int
    frame_bytes: int
    data: bytes

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            if not low <= (value := getattr(self, name)) <= high:
                raise PacketFieldError(f"{name} must be in [{low}, {high}], got {value}")
        symbol = self.symbol_bytes
        last = self.frame_bytes - (self.segment_count - 1) * symbol
        if last <= 0:
            raise PacketFieldError(f"{self.frame_bytes} bytes do not fill {self.segment_count}")
        needed = last if self.segment_index == self.segment_count - 1 else symbol
        if len(self.data) != needed:
            raise PacketFieldError(f"segment must have {needed} bytes, got {len(self.data)}")
        if OVERHEAD_BYTES + needed > MAX_PACKET_BYTES:
            raise PacketFieldError(f"segment of {needed} bytes is above a packet's length")

    @property
    def time_s(self) -> float:
        """When the packet was made [s since 1970-01-01 UTC], exactly."""
        return self.time_ticks / TICKS_PER_S

    @property
    def is_repair(self) -> bool:
        """Whether it carries a repair symbol, not a part of the frame."""
        return self.segment_index >= self.segment_count

    @property
    def symbol_bytes(self) -> int:
        """Length of each of its frame's symbols."""
        return symbol_bytes(self.frame_bytes, self.segment_count)

    @property
    def _sequence(self) -> int:
        """Sequence flags and 14-bit count. A repair symbol is no segment: it stands alone."""
        if self.is_repair or self.segment_count == 1:
            flags = _UNSEGMENTED
        elif self.segment_index == 0:
            flags = _FIRST
        else:
            flags = _LAST if self.segment_index == self.segment_count - 1 else _CONTINUATION
        return flags << 14 | self.counter & _COUNT_MASK

    def pack(self) -> bytes:
        """Return the bytes that go on the wire."""
        headers = _HEADERS.pack(
            _TELEMETRY | self.apid,
            self._sequence,
            OVERHEAD_BYTES + len(self.data) - _PRIMARY_BYTES - 1,
            self.time_ticks >> 16,
            self.time_ticks & 0xFFFF,
            VERSION,
            self.channel,
            self.boot_id,
            self.counter,
            self.frame_id,
            self.segment_index,
            self.segment_count,
            self.frame_bytes,
        )
        crc = google_crc32c.extend(google_crc32c.value(headers), self.data)
        return b"".join((headers, self.data, _CRC.pack(crc)))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a packet that fills `raw`.

        Raises:
            TruncatedPacketError: If bytes are missing.
            PacketChecksumError: If the bytes do not match their CRC32C.
            PacketVersionError: If a later build wrote the packet.
            PacketFieldError: If it is not our kind of Space Packet, bytes follow it, or a field
                is out of range or contradicts another.
        """
        if len(raw) <= OVERHEAD_BYTES:
            raise TruncatedPacketError(OVERHEAD_BYTES + 1, len(raw))
        (
            identification, sequence, length, seconds, fraction, version, channel, boot_id,
            counter, frame_id, segment_index, segment_count, frame_bytes,
        ) = _HEADERS.unpack_from(raw)  # fmt: skip
        if identification >> 11 != _TELEMETRY >> 11:
            raise PacketFieldError(f"not telemetry with a secondary header: {identification:#06x}")
        # Before the version: a damaged version byte must not look like a later build.
        check_whole(raw, length)
        if version != VERSION:
            raise PacketVersionError(f"packet version {version}, this build reads {VERSION}")
        if channel not in _CHANNELS:
            raise PacketFieldError(f"channel {channel} is unknown")
        packet = cls(
            apid=identification & 0x7FF,
            channel=_CHANNELS[channel],
            boot_id=boot_id,
            counter=counter,
            time_ticks=seconds << 16 | fraction,
            frame_id=frame_id,
            segment_index=segment_index,
            segment_count=segment_count,
            frame_bytes=frame_bytes,
            data=raw[_HEADERS.size : -_CRC.size],
        )
        if sequence != packet._sequence:
            raise PacketFieldError(f"sequence control {sequence:#06x} contradicts the counter")
        return packet
