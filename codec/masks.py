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
from codec.tile import Tile

_PIXELS: Final = b"P"
_SAMPLES: Final = b"S"


def validity(tile: Tile) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Find what of a tile is coded.

    Returns:
        Bands with any valid sample, shape (bands,); and which samples of these are valid, shape
        (coded, rows, cols), or None if all are.
    """
    samples, nodata = tile.samples, tile.info.nodata
    if samples.dtype.kind != "f":  # nearly always whole bands are fill, or nothing is
        missing = np.zeros(len(samples), np.int64)
        if nodata is not None:
            fill = samples.dtype.type(nodata)
            # Fill is nearly always the lowest value of its type: then the lowest sample tells. All
            # bands at once, for then they are read in the order they lie in; one axis at a time,
            # for that takes half as long.
            for band in np.flatnonzero(samples.min(axis=1).min(axis=1) <= fill):
                missing[band] = np.count_nonzero(samples[band] == fill)
        if ((missing == 0) | (missing == samples[0].size)).all():
            return np.asarray(missing == 0), None
    measured = tile.valid()
    valid_bands: NDArray[np.bool_] = np.asarray(measured.any(axis=(1, 2)))
    valid = measured if valid_bands.all() else measured[valid_bands]
    # Half as large as the tile: patches hold on to it only where it says something.
    return valid_bands, None if valid.all() else valid


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
