"""`.prism` files: the frames of one or more tiles, one after another, as `encode` writes them.

    "PRISM" │ version u8 │ (length u32 │ frame)*

Integers are big-endian. Frames check themselves; the file adds only their lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from codec.errors import BitstreamError, FrameVersionError, TruncatedError

MAGIC: Final = b"PRISM"
VERSION: Final = 1
_LENGTH: Final = struct.Struct(">I")


def pack(frames: Iterable[bytes]) -> bytes:
    """Put frames into a file's bytes."""
    parts = [MAGIC, bytes([VERSION])]
    for frame in frames:
        parts += (_LENGTH.pack(len(frame)), frame)
    return b"".join(parts)


def unpack(raw: bytes) -> Iterator[bytes]:
    """Yield the frames of a file; inverse of `pack`.

    Raises:
        BitstreamError: If it is no such file.
        FrameVersionError: If a later build wrote it.
        TruncatedError: If it ends within a frame.
    """
    start = len(MAGIC) + 1
    if raw[: len(MAGIC)] != MAGIC:
        raise BitstreamError("no .prism file: it does not begin with PRISM")
    if len(raw) < start:
        raise TruncatedError(start, len(raw))
    if raw[len(MAGIC)] != VERSION:
        raise FrameVersionError(f"file version {raw[len(MAGIC)]}, this build reads {VERSION}")
    while start < len(raw):
        if len(raw) < (begin := start + _LENGTH.size):
            raise TruncatedError(begin, len(raw))
        stop = begin + _LENGTH.unpack_from(raw, start)[0]
        if len(raw) < stop:
            raise TruncatedError(stop, len(raw))
        yield raw[begin:stop]
        start = stop
