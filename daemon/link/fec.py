"""Repair symbols: RaptorQ (RFC 6330) over one frame, by the library `raptorq`.

The library panics in Rust on what it does not expect, and a panic is no `Exception`, so everything
it is given is checked first. Its default parameters keep a frame of up to `MAX_FRAME_BYTES` in
one block without sub-blocks (a test holds them to it); symbols 0 to K−1 are then the frame itself
and repair symbols count on from K. Each carries 4 bytes before the symbol: block number 0, and
the symbol's id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import raptorq

from daemon.errors import RepairError
from daemon.link.packet import MAX_FRAME_BYTES, MAX_SEGMENTS, SYMBOL_ALIGNMENT_BYTES

MAX_RATIO: Final = 4.0
MAX_MINIMUM: Final = 64
_MARGIN: Final = 1.25
"""Repair symbols for each symbol that is lost on average."""
_RARE: Final = 0.01
"""Share lost below which frames get none but by their ratio."""
_ID_BYTES: Final = 4
_MAX_SYMBOL_BYTES: Final = 65_535  # the library takes the length as 16 bits
_MAX_ID: Final = 2**16 - 1  # as `Packet.segment_index`


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPolicy:
    """How many repair symbols a frame gets.

    Attributes:
        ratio: Repair symbols for each source segment, 0 to 4.
        minimum: Added to each frame whatever its size, 0 to 64: a short frame has too few
            segments for a ratio to mean anything.

    Raises:
        RepairError: If a number is out of range.
    """

    ratio: float = 0.0
    minimum: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= MAX_RATIO:
            raise RepairError(f"repair ratio must be in [0, {MAX_RATIO}], got {self.ratio}")
        if not 0 <= self.minimum <= MAX_MINIMUM:
            raise RepairError(f"repair minimum must be in [0, {MAX_MINIMUM}], got {self.minimum}")

    def symbols(self, segment_count: int) -> int:
        """Repair symbols for a frame of so many segments."""
        return math.ceil(self.ratio * segment_count) + self.minimum

    def at(self, loss: float) -> RepairPolicy:
        """As many as a share of packets lost asks for, and no more than this.

        What is lost beyond it can be asked for again, on a link that tells what is lost.
        """
        ratio = _MARGIN * loss / max(1 - loss, 1e-6)
        return RepairPolicy(
            ratio=min(self.ratio, ratio), minimum=self.minimum if loss >= _RARE else 0
        )


def repair_symbols(frame: bytes, symbol_bytes: int, count: int) -> list[bytes]:
    """Make repair symbols; their ids count on from the number of source symbols.

    Args:
        frame: The whole frame.
        symbol_bytes: Length of a symbol; the last source symbol is filled up with zeros.
        count: How many.

    Returns:
        `count` symbols of `symbol_bytes` each.

    Raises:
        RepairError: If an argument is out of range.
    """
    segments = _segments(len(frame), symbol_bytes)
    if not 0 <= count <= _MAX_ID - segments:
        raise RepairError(f"{count} repair symbols for {segments} segments")
    if not count:
        return []
    packets = raptorq.Encoder.with_defaults(frame, symbol_bytes).get_encoded_packets(count)
    return [packet[_ID_BYTES:] for packet in packets[segments:]]


def recover(symbols: Mapping[int, bytes], frame_bytes: int, symbol_bytes: int) -> bytes | None:
    """Give a frame back from any of its symbols.

    Args:
        symbols: By id, each `symbol_bytes` long; the last source symbol may lack its zeros.
        frame_bytes: Length of the frame.
        symbol_bytes: Length of a symbol.

    Returns:
        The frame, or None if these symbols do not determine it: fewer than there are segments,
        or, once in about 256 times, just as many. Repair symbols made from another frame give
        wrong bytes, which the frame's own CRC tells.

    Raises:
        RepairError: If an argument is out of range.
    """
    segments = _segments(frame_bytes, symbol_bytes)
    if len(symbols) < segments:
        return None
    for index, symbol in symbols.items():
        short = frame_bytes - (segments - 1) * symbol_bytes if index == segments - 1 else None
        if not (0 <= index <= _MAX_ID and len(symbol) in (symbol_bytes, short)):
            raise RepairError(f"symbol {index} has {len(symbol)} bytes, needs {symbol_bytes}")
    if all(index in symbols for index in range(segments)):
        return b"".join(symbols[index] for index in range(segments))[:frame_bytes]
    decoder = raptorq.Decoder.with_defaults(frame_bytes, symbol_bytes)
    for index, symbol in symbols.items():
        packet = index.to_bytes(_ID_BYTES, "big") + symbol.ljust(symbol_bytes, b"\0")
        frame: bytes | None = decoder.decode(packet)
        if frame is not None:
            return frame
    return None


def _segments(frame_bytes: int, symbol_bytes: int) -> int:
    if not 0 < frame_bytes <= MAX_FRAME_BYTES:
        raise RepairError(f"a frame must have 1 to {MAX_FRAME_BYTES} bytes, got {frame_bytes}")
    if not 0 < symbol_bytes <= _MAX_SYMBOL_BYTES or symbol_bytes % SYMBOL_ALIGNMENT_BYTES:
        raise RepairError(f"symbols of {symbol_bytes} bytes: not a multiple of 8 below 65,536")
    segments = -(-frame_bytes // symbol_bytes)
    if segments > MAX_SEGMENTS:
        raise RepairError(f"{segments} segments, the most is {MAX_SEGMENTS}")
    return segments
