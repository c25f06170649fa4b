"""`.prism` files: the frames of one or more tiles, one after another, as `encode` writes them.

    "PRISM" │ version u8 │ count u32 │ (length u32 │ frame)*

Integers are big-endian. Frames check themselves; the file adds their lengths, and their number, so
that a file cut off between two frames is known to be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from codec.errors import BitstreamError, FrameVersionError, TruncatedError

MAGIC: Final = b"PRISM"
VERSION: Final = 1
_NUMBER: Final = struct.Struct(">I")


def pack(frames: Sequence[bytes]) -> bytes:
    """Put frames into a file's bytes."""
    parts = [MAGIC, bytes([VERSION]), _NUMBER.pack(len(frames))]
    for frame in frames:
        parts += (_NUMBER.pack(len(frame)), frame)
    return b"".join(parts)


def unpack(raw: bytes) -> Iterator[bytes]:
    """Yield the frames of a file; inverse of `pack`.

    Raises:
        BitstreamError: If it is no such file, or bytes follow its last frame.
        FrameVersionError: If a later build wrote it.
        TruncatedError: If bytes are missing.
    """
    for start, length in places(raw):
        yield raw[start : start + length]


def places(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each frame of a file begins, and its length; raises as `unpack` does."""
    if not (MAGIC.startswith(raw) or raw.startswith(MAGIC)):
        raise BitstreamError("no .prism file: it does not begin with PRISM")
    _require(raw, len(MAGIC) + 1)
    if raw[len(MAGIC)] != VERSION:
        raise FrameVersionError(f"file version {raw[len(MAGIC)]}, this build reads {VERSION}")
    start = len(MAGIC) + 1
    count, start = _number(raw, start)
    for _ in range(count):
        length, start = _number(raw, start)
        _require(raw, start + length)
        yield start, length
        start += length
    if start < len(raw):
        raise BitstreamError(f"{len(raw) - start} bytes follow the last frame")


def _number(raw: bytes, start: int) -> tuple[int, int]:
    """Read an integer; return it, and where the next thing starts."""
    stop = start + _NUMBER.size
    _require(raw, stop)
    return _NUMBER.unpack_from(raw, start)[0], stop


def _require(raw: bytes, needed: int) -> None:
    if len(raw) < needed:
        raise TruncatedError(needed, len(raw))
