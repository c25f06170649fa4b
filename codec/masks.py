"""Which samples of a patch are valid, in as few bytes as its pattern allows.

Fill comes in three patterns: none (most patches: no bytes), whole pixels (the edge of a swath:
one bit per pixel, deflated), single samples (dead or saturated detectors: one bit per sample,
deflated).
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import PayloadError
from codec.frame import inflate

_PIXELS: Final = b"P"
_SAMPLES: Final = b"S"


def pack(valid: NDArray[np.bool_]) -> bytes:
    """Describe a mask of shape (bands, rows, cols); empty if all is valid."""
    if valid.all():
        return b""
    pixels = valid[:1]
    kind, bits = (_PIXELS, pixels) if (valid == pixels).all() else (_SAMPLES, valid)
    return kind + zlib.compress(np.packbits(bits).tobytes(), 9)


def unpack(packed: bytes, shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """Inverse of `pack`.

    Returns:
        Shape `shape`, read-only; None if all is valid.

    Raises:
        BitstreamError: If the bytes do not describe a mask of this shape.
    """
    if not packed:
        return None
    kind, (bands, rows, cols) = packed[:1], shape
    if kind not in (_PIXELS, _SAMPLES):
        raise PayloadError(f"unknown kind of mask {kind!r}")
    described = (1 if kind == _PIXELS else bands, rows, cols)
    count = described[0] * rows * cols
    raw = inflate(packed[1:], -(-count // 8))
    if len(raw) != -(-count // 8):
        raise PayloadError(f"a mask of {count} bits came as {len(raw)} bytes")
    bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(np.bool_)
    return np.broadcast_to(bits.reshape(described), shape)
