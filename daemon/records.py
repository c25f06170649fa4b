"""The bytes of what is kept on a disk: payloads as records, and how far they are done.

    record    magic │ length u32 │ sequence u64 │ payload │ CRC32C of all before it
    cursor    sequence of the first record that is not done │ CRC32C, in two places in turn

Frozen, and written down in docs/wire-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from daemon.link.packet import MAX_PACKET_BYTES

MAGIC: Final = b"\xb1PLS"
_HEADER: Final = Struct(">4sIQ")
_CRC: Final = Struct(">I")
HEADER_BYTES: Final = _HEADER.size
"""Bytes of a record before its payload."""
OVERHEAD_BYTES: Final = _HEADER.size + _CRC.size
"""Bytes of a record that are not the payload's."""
_CURSOR: Final = Struct(">QI")
CURSOR_BYTES: Final = _CURSOR.size
"""One place of a cursor."""
CURSORS_BYTES: Final = 2 * CURSOR_BYTES
"""Both places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What was found when files of records were opened.

    Attributes:
        records: Sound records that are still of use.
        read_bytes: Bytes read.
        skipped_bytes: Bytes that are no record.
        skipped_places: Stretches of them; what a crash left unfinished at an end is one.
        unreadable: Files that could not be read at all.
    """

    records: int = 0
    read_bytes: int = 0
    skipped_bytes: int = 0
    skipped_places: int = 0
    unreadable: int = 0

    def __add__(self, other: Recovery) -> Recovery:
        """What was found in both."""
        return Recovery(
            records=self.records + other.records,
            read_bytes=self.read_bytes + other.read_bytes,
            skipped_bytes=self.skipped_bytes + other.skipped_bytes,
            skipped_places=self.skipped_places + other.skipped_places,
            unreadable=self.unreadable + other.unreadable,
        )


def packed(payloads: Sequence[bytes], first: int) -> bytes:
    """Make records of payloads, numbered from a sequence on."""
    parts = []
    for sequence, raw in enumerate(payloads, start=first):
        header = _HEADER.pack(MAGIC, len(raw), sequence)
        crc = google_crc32c.extend(google_crc32c.value(header), raw)
        parts += [header, raw, _CRC.pack(crc)]
    return b"".join(parts)


def payload_of(raw: bytes, sequence: int, *, limit: int = MAX_PACKET_BYTES) -> bytes | None:
    """The payload of a record that fills `raw`; None if it is not sound, or of a lower sequence."""
    whole = len(raw) and _record_bytes(raw, 0, sequence, limit) == len(raw)
    return raw[_HEADER.size : -_CRC.size] if whole else None


class Scan(NamedTuple):
    """What a segment's bytes hold.

    Attributes:
        records: Sequence, where the record begins, and the payload's bytes, of each sound one.
        skipped_bytes: Bytes that are no record.
        skipped_places: Stretches of them.
    """

    records: list[tuple[int, int, int]]
    skipped_bytes: int
    skipped_places: int


def scan(data: bytes, *, limit: int = MAX_PACKET_BYTES) -> Scan:
    """Find every sound record of a segment, of rising sequence and no longer payload than this."""
    records = list[tuple[int, int, int]]()
    position = least = skipped = places = 0
    while position < len(data):
        if size := _record_bytes(data, position, least, limit):
            _, length, sequence = _HEADER.unpack_from(data, position)
            records.append((sequence, position, length))
            position, least = position + size, sequence + 1
            continue
        following = data.find(MAGIC, position + 1)
        while following >= 0 and not _record_bytes(data, following, least, limit):
            following = data.find(MAGIC, following + 1)
        following = len(data) if following < 0 else following
        skipped, places, position = skipped + following - position, places + 1, following
    return Scan(records, skipped, places)


def with_crc(raw: bytes) -> bytes:
    """Bytes with their CRC32C behind them."""
    return raw + _CRC.pack(google_crc32c.value(raw))


def without_crc(raw: bytes) -> bytes | None:
    """What `with_crc` was given; None if it is not that."""
    body, crc = raw[: -_CRC.size], raw[-_CRC.size :]
    return body if crc == _CRC.pack(google_crc32c.value(body)) else None


def packed_cursor(sequence: int) -> bytes:
    """The bytes of a cursor in one place."""
    return _CURSOR.pack(sequence, google_crc32c.value(sequence.to_bytes(8)))


def spare_place(raw: bytes) -> int:
    """Where of two places the next cursor goes: not over the one that counts."""
    return 0 if cursor_of(raw[:CURSOR_BYTES]) < cursor_of(raw) else CURSOR_BYTES


def cursor_of(raw: bytes) -> int:
    """The higher of two places that is sound; 0 if none is."""
    found = 0
    for start in (0, _CURSOR.size):
        place = raw[start : start + _CURSOR.size]
        if len(place) == _CURSOR.size:
            sequence, crc = _CURSOR.unpack(place)
            if crc == google_crc32c.value(place[: -_CRC.size]):
                found = max(found, sequence)
    return found


def _record_bytes(data: bytes, position: int, least: int, limit: int) -> int:
    """Length of the sound record at a position, of a sequence or a later one; 0 if it is none."""
    if position + OVERHEAD_BYTES > len(data):
        return 0
    magic, length, sequence = _HEADER.unpack_from(data, position)
    end = position + OVERHEAD_BYTES + length
    if magic != MAGIC or length > limit or end > len(data) or sequence < least:
        return 0
    (crc,) = _CRC.unpack_from(data, end - _CRC.size)
    return end - position if crc == google_crc32c.value(data[position : end - _CRC.size]) else 0
