"""Our packets in a stream of bytes: one after another, among strangers, or behind damage.

What a ground station records as "raw" is Space Packets on end, with idle packets and those of other
instruments between, now and then wrapped in the frames of its own archive, now and then damaged. So
none is looked for by the length of the one before alone: where no sound packet of ours begins, the
next place is tried that looks like one, and the CRC32C decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from daemon.errors import PacketError
from daemon.link.packet import Packet

_LOOKS_PLAIN: Final = re.compile(rb"[\x08-\x0f][\s\S]{11}\x01[\x00-\x02]")
"""Telemetry with a secondary header; behind the time our version, and a channel."""
_LOOKS_SEALED: Final = re.compile(rb"[\x00-\x07][\s\S]{5}\x00\x01")
"""Telemetry without one; then the SPI of the downlink."""
_LENGTH: Final = Struct(">H")
_LENGTH_AT, _LENGTH_OFFSET = 4, 7


@dataclass(slots=True)
class StreamCounts:
    """What was met in streams.

    Attributes:
        packets: Sound packets of ours.
        sealed: Those of them that were sealed.
        skipped_bytes: Bytes that are none: strangers, damage, or sealed with another key.
    """

    packets: int = 0
    sealed: int = 0
    skipped_bytes: int = 0


def packets_in(
    data: bytes | memoryview,
    counts: StreamCounts,
    unseal: Callable[[bytes], bytes] | None = None,
) -> Iterator[Packet]:
    """Find every sound packet of ours.

    Args:
        data: The stream, or one message.
        counts: Added to.
        unseal: Opens a sealed packet or raises PacketError; None: those are passed over.
    """
    view, at = memoryview(data), 0
    plain, sealed = _Places(_LOOKS_PLAIN, view), _Places(_LOOKS_SEALED, view)
    while at < len(view):
        start = plain.at_or_after(at)
        if unseal is not None:
            start = min(start, sealed.at_or_after(at))
        counts.skipped_bytes += start - at
        if start >= len(view):
            return
        stop = start + _LENGTH_OFFSET + _LENGTH.unpack_from(view, start + _LENGTH_AT)[0]
        packet = None
        if stop <= len(view):
            packet = _packet(bytes(view[start:stop]), counts, unseal)
        if packet is None:
            counts.skipped_bytes += 1
            at = start + 1
        else:
            counts.packets += 1
            at = stop
            yield packet


def _packet(
    raw: bytes, counts: StreamCounts, unseal: Callable[[bytes], bytes] | None
) -> Packet | None:
    is_sealed = raw[0] < 8
    try:
        packet = Packet.unpack(unseal(raw) if is_sealed and unseal is not None else raw)
    except PacketError:
        return None
    counts.sealed += is_sealed
    return packet


class _Places:
    """Where a stream looks like something, asked for in rising order."""

    def __init__(self, pattern: re.Pattern[bytes], view: memoryview) -> None:
        self._pattern, self._view, self._found = pattern, view, -1

    def at_or_after(self, position: int) -> int:
        """The first such place not before this; the stream's end if there is none."""
        if self._found < position:
            match = self._pattern.search(self._view, position)
            self._found = match.start() if match else len(self._view)
        return self._found
