"""What the board says of itself while the link is open, every second or so: a beacon.

It is the end of a transfer that nobody has to wait for: it tells the ground how far frames were
sent, which of them can still be had, and which of its reports were heard and answered. So the
ground never has to guess how long an answer takes. A beacon that is lost is made up for by the
next. It travels as a packet of the housekeeping channel, under an APID of its own, whose counts
are therefore its own, too. Byte by byte in docs/wire-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import msgpack

from daemon.errors import PacketFieldError
from daemon.link.commands import list_of, number_of, read_list

VERSION: Final = 1
SEEN_BITS: Final = 64
"""Reports back from the last whose hearing is told."""
MAX_BOOTS: Final = 5
MAX_GONE: Final = 3
"""Most boots, and spans of frames gone, in one beacon: it must fit the smallest packet."""
Gone: TypeAlias = tuple[int, int, int]
"""A boot, the first frame of a span, and the one after its last."""
_U32: Final = 2**32
_U64: Final = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class BootState:
    """How far the frames of one boot are.

    Attributes:
        boot_id: Which.
        kept_from: No frame below can be had any more.
        sent_below: Every frame below was sent, or is gone.
    """

    boot_id: int
    kept_from: int
    sent_below: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """The board's word on its frames.

    Attributes:
        session: Of the ground whose reports it speaks of; 0 with `seen` 0: none was heard.
        seen: The highest number of a report that was heard; reports count from 1.
        seen_bits: Bit i: whether report `seen` − i was heard, lowest first.
        answered: What was asked for in the reports heard, up to this one, was sent.
        sent_packets: Packets since the board's process began, repeats and beacons too.
        boots: How far frames are, oldest boot first.
        gone: Frames that cannot be had, some of them asked for.
    """

    session: int
    seen: int
    seen_bits: int
    answered: int
    sent_packets: int
    boots: tuple[BootState, ...]
    gone: tuple[Gone, ...] = ()

    def has_seen(self, number: int) -> bool:
        """Whether a report was heard, as far back as is told."""
        back = self.seen - number
        return 0 <= back < SEEN_BITS and bool(self.seen_bits >> back & 1)

    def pack(self) -> bytes:
        """Return the bytes of the frame it is."""
        fields: list[Any] = [VERSION, self.session, self.seen, self.seen_bits, self.answered]
        fields.append(self.sent_packets)
        fields.append([[b.boot_id, b.kept_from, b.sent_below] for b in self.boots])
        fields.append([list(gone) for gone in self.gone])
        raw: bytes = msgpack.packb(fields)
        return raw

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a beacon that fills `raw`.

        Raises:
            PacketFieldError: If it is none.
        """
        version, *fields = read_list(raw, "beacon") or [None]
        if version != VERSION:
            raise PacketFieldError(f"beacon version {version}, this build reads {VERSION}")
        session, seen, bits, answered, sent, boots, gone = list_of(fields, "a beacon", 7)
        return cls(
            session=number_of(session, _U32, "session"),
            seen=number_of(seen, _U32, "report seen"),
            seen_bits=number_of(bits, _U64, "reports seen"),
            answered=number_of(answered, _U32, "report answered"),
            sent_packets=number_of(sent, _U64, "packets sent"),
            boots=tuple(_boot(one) for one in list_of(boots, "boots")),
            gone=tuple(_gone(one) for one in list_of(gone, "frames gone")),
        )


def _boot(value: object) -> BootState:
    boot_id, kept_from, sent_below = list_of(value, "a boot", 3)
    return BootState(
        boot_id=number_of(boot_id, _U32, "boot id"),
        kept_from=number_of(kept_from, _U32 + 1, "lowest frame kept"),
        sent_below=number_of(sent_below, _U32 + 1, "lowest frame unsent"),
    )


def _gone(value: object) -> Gone:
    boot_id, start, stop = list_of(value, "frames gone", 3)
    return (
        number_of(boot_id, _U32, "boot id"),
        number_of(start, _U32 + 1, "frame id"),
        number_of(stop, _U32 + 1, "frame id"),
    )
