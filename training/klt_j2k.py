"""KLT + JPEG 2000, what a mission would fly instead, as strong as OpenJPEG lets us make it.

All components are planes of one codestream, so OpenJPEG spends the bytes where they take away most
error, over components and subbands alike; the KLT is orthonormal, so planes of one common scale
make equal error equal cost. The basis is the plain KLT's, whatever ours has become; it travels as
ours does (`KltSide`), at a step that fits the operating point. What was found to matter, each
measured on held-back scenes:

- few wavelet levels: code-blocks end at subbands, and on scenes of 50 to 100 pixels those of a
  third level cost more than it saves; hence `resolutions` is part of a setting (1 to 4 %);
- the phase of the bit-planes: what is cut between two of them is coded worse than what is cut at
  one, so the planes' unit is tied to the step (`_PHASE_OCTAVES`);
- at most 21 bits: OpenJPEG overflows in silence where bits, levels and its six fractional bits
  pass 31 (24 bits fail at three or four levels);
- no comment: OpenJPEG signs each codestream with 37 bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from codec import masks
from codec.conditioning import UNITS_PER_REFLECTANCE, centered_samples
from codec.contexts import LEVELS_PER_OCTAVE
from codec.errors import TileError
from codec.klt_side import KltSide, entry_steps, mean_step
from codec.tables import FrequencyTables
from codec.tile import Samples, Tile, fill_value

RESOLUTIONS: Final = (1, 2, 3, 4, 5)
"""Wavelet levels plus one, as imagecodecs counts; it takes fewer where an edge falls below 8 px."""

_PHASE_OCTAVES: Final = 0.25
"""The planes' unit is this and whole octaves away from the step. Of eight phases on three scenes it
is the best or within 0.5 % of it; the worst takes 1 to 3 % more bytes at equal error."""

_FINER_BITS: Final = 6
"""Bit-planes below the step: rounding to them adds 0.03 % to the error, and more take time."""

_LEAST_BITS: Final = 9
_MOST_BITS: Final = 21
"""Bits of a plane's samples: the least imagecodecs takes beyond bytes, and the most that OpenJPEG
takes at `RESOLUTIONS`."""

_FLOOR_PX: Final = 4096
_FLOOR_OCTAVES: Final = -1.5
_FLOOR_LIMITS: Final = (-2.5, -1.0)
"""Components below this many octaves over the step are not sent: in a tile of 4096 pixels those of
σ < 0.35 steps. What they save grows with the pixels and what they cost hardly does, so the floor on
σ falls with the root of the pixels, as far as this was measured (with our wavelet coder)."""

_HEAD: Final = struct.Struct(">ffBHII")
"""Step of the basis, unit of the planes, components, bytes of band bitmap, basis and mask."""

_LEVEL_OFFSET: Final = 64
"""Levels are from −20 to 192; a byte holds them plus this."""

Planes = NDArray[np.float32]
"""What JPEG 2000 codes, shape (planes, rows, cols) [10⁻⁴ reflectance]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KltJ2k:
    """One setting.

    Attributes:
        components: Most components sent; fewer where the basis' step leaves nothing of one.
        step: A uniform quantizer's step whose error, step²/12, is the target of the components;
            with `reversible`, what they are rounded to [10⁻⁴ reflectance].
        side_step: Step the basis is coded for [10⁻⁴ reflectance].
        resolutions: One of `RESOLUTIONS`.
        reversible: Whether the rounded components are coded without loss, by the 5/3 wavelet.
    """

    components: int
    step: float
    side_step: float
    resolutions: int
    reversible: bool = False

    def encode(self, tile: Tile, tables: FrequencyTables) -> tuple[bytes, int]:
        """Compress a tile.

        Args:
            tile: Any tile; bands without a valid sample are left out, other fill is masked.
            tables: Integer tables that code the basis; those of a bundle.

        Returns:
            All that `decode` needs beside the tile's type, shape and `info`; and how many bytes of
            it are no samples.
        """
        valid_bands, valid = measured(tile)
        bands, (rows, cols) = np.flatnonzero(valid_bands), tile.samples.shape[1:]
        unit = UNITS_PER_REFLECTANCE / tile.info.reflectance_scale
        side_step = float(np.float32(self.side_step))  # as it travels
        side = fit_plain_klt(tile, bands, valid, step=side_step, components=self.components)
        conditioning = side.conditioning(bands, rows * cols, side_step, unit)
        planes = conditioning.condition(tile.samples, valid) * np.float32(side_step)
        stream, plane_unit = encode_planes(
            planes, self.step, resolutions=self.resolutions, reversible=self.reversible
        )
        bitmap = pack_bands(valid_bands)
        mask = b"" if valid is None else masks.pack(valid)
        basis = side.pack(tables)
        levels = (np.array(side.levels, dtype=np.int32) + _LEVEL_OFFSET).astype(np.uint8).tobytes()
        head = _HEAD.pack(side_step, plane_unit, len(levels), len(bitmap), len(basis), len(mask))
        before = b"".join((head, bitmap, levels, basis, mask))
        return before + stream, len(before)


def decode(raw: bytes, like: Tile, tables: FrequencyTables) -> Tile:
    """Inverse of `KltJ2k.encode`.

    Args:
        raw: What it returned.
        like: Its type, shape and `info` are the restored tile's; its samples are not looked at.
        tables: Those it was given.
    """
    (_, rows, cols), at = like.samples.shape, _HEAD.size
    side_step, plane_unit, components, *sizes = _HEAD.unpack_from(raw)
    parts = []
    for size in (sizes[0], components, *sizes[1:]):
        parts.append(raw[at : at + size])
        at += size
    bitmap, levels, basis, mask = parts
    bands = np.flatnonzero(unpack_bands(bitmap, like.samples.shape[0]))
    unit = UNITS_PER_REFLECTANCE / like.info.reflectance_scale
    side = KltSide.unpack(
        tuple(level - _LEVEL_OFFSET for level in levels), basis, bands.size, tables
    )
    conditioning = side.conditioning(bands, rows * cols, side_step, unit)
    planes = decode_planes(raw[at:], plane_unit, (components, rows, cols))
    restored = conditioning.restore(planes / np.float32(side_step))
    return place(restored, bands, masks.unpack(mask, restored.shape), like)


def fit_plain_klt(
    tile: Tile,
    bands: NDArray[np.int64],
    valid: NDArray[np.bool_] | None,
    *,
    step: float,
    components: int,
) -> KltSide:
    """Fit mean and leading eigenvectors: the KLT of the textbook, without what ours makes of it.

    Args:
        tile: The tile.
        bands: Positions of the bands with any valid sample, shape (coded,).
        valid: Shape (coded, rows, cols), or None if all coded samples are valid.
        step: What the basis is coded for [10⁻⁴ reflectance].
        components: Most components.
    """
    samples = tile.samples[bands]
    pixels = samples.shape[1] * samples.shape[2]
    unit = UNITS_PER_REFLECTANCE / tile.info.reflectance_scale
    where = True if valid is None else valid
    mean = unit * np.mean(samples, axis=(1, 2), where=where, dtype=np.float64)
    guess = np.asarray(mean, dtype=np.float32)
    centered = centered_samples(tile.samples, bands, guess, valid, unit).double()
    shift = centered.mean(dim=1, keepdim=True)  # not zero where gaps were filled
    covariance = (centered @ centered.T / pixels - shift @ shift.T).numpy()
    variances, vectors = np.linalg.eigh(covariance)
    variances, vectors = np.maximum(variances[::-1], 1e-12), vectors[:, ::-1]
    levels = np.rint(np.log2(np.sqrt(variances) / step) * LEVELS_PER_OCTAVE).astype(np.int32)
    sent = np.flatnonzero(levels >= _floor(pixels))[:components]
    levels = levels[sent]
    symbols = (
        (mean + shift.numpy()[:, 0]) / mean_step(step, pixels),
        *(vectors[:, sent] / entry_steps(levels, pixels)).T,
    )
    return KltSide(levels=tuple(levels.tolist()), symbols=np.rint(symbols).astype(np.int32))


def _floor(pixels: int) -> float:
    """Level of the weakest component worth sending [1/8 octave]."""
    octaves = _FLOOR_OCTAVES - math.log2(pixels / _FLOOR_PX) / 2
    return LEVELS_PER_OCTAVE * min(max(octaves, _FLOOR_LIMITS[0]), _FLOOR_LIMITS[1])


# ---- planes ↔ a codestream ---------------------------------------------------------------------


def encode_planes(
    planes: Planes, step: float, *, resolutions: int, reversible: bool
) -> tuple[bytes, float]:
    """Code planes in one codestream of one layer; see `KltJ2k` for what the arguments mean.

    Returns:
        The codestream, empty if there is no plane, and the planes' unit [10⁻⁴ reflectance].

    Raises:
        TileError: If the planes are too large to be rounded to the step.
    """
    if not len(planes):
        return b"", step
    peak = float(np.abs(planes).max())
    if reversible:
        unit = float(np.float32(step))
    else:
        coarsest = step * 2.0**_PHASE_OCTAVES
        room = math.floor(math.log2(coarsest * 2.0 ** (_MOST_BITS - 1) / max(peak, 1e-30)) - 1e-6)
        unit = float(np.float32(coarsest * 2.0 ** -min(room, _FINER_BITS)))
    # As few bits as hold the peak: an empty bit-plane costs a bit in every code-block.
    bits = max(_LEAST_BITS, 1 + math.ceil(math.log2(peak / unit + 1)))
    if bits > _MOST_BITS:
        raise TileError(f"planes up to {peak:g} do not fit {_MOST_BITS} bits in units of {unit:g}")
    # OpenJPEG's PSNR is over all planes together, and its peak is that of the bit depth.
    level = 10 * math.log10(12 * ((2**bits - 1) * unit / step) ** 2)
    stream = imagecodecs.jpeg2k_encode(
        np.rint(planes / np.float32(unit)).astype(np.int16 if bits <= 16 else np.int32),
        level=None if reversible else level,  # type: ignore[arg-type]  # it takes fractions
        codecformat="j2k",
        planar=True,
        mct=False,
        resolutions=resolutions,
        reversible=reversible,
        bitspersample=bits,
        numthreads=1,
    )
    return _without_comment(bytes(stream)), unit


def decode_planes(stream: bytes, unit: float, shape: tuple[int, int, int]) -> Planes:
    """Inverse of `encode_planes`."""
    if not stream:
        return np.zeros(shape, dtype=np.float32)
    decoded = imagecodecs.jpeg2k_decode(stream, planar=True, numthreads=1)
    return np.asarray(decoded, dtype=np.float32).reshape(shape) * np.float32(unit)


def _without_comment(stream: bytes) -> bytes:
    """Drop the comment from a codestream's main header."""
    at = 2  # after the start marker, which has no length
    while (marker := stream[at : at + 2]) != b"\xff\x90":  # start of the first tile
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == b"\xff\x64":
            return stream[:at] + stream[end:]
        at = end
    return stream


# ---- fill --------------------------------------------------------------------------------------


def measured(tile: Tile) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Bands with a valid sample, shape (bands,), and where they are valid; None: everywhere."""
    valid = tile.valid()
    bands: NDArray[np.bool_] = np.asarray(valid.any(axis=(1, 2)))
    coded = valid[bands]
    return bands, None if coded.all() else coded


def pack_bands(valid_bands: NDArray[np.bool_]) -> bytes:
    """One bit per band; nothing if all are valid."""
    return b"" if valid_bands.all() else np.packbits(valid_bands).tobytes()


def unpack_bands(bitmap: bytes, count: int) -> NDArray[np.bool_]:
    """Inverse of `pack_bands`."""
    if not bitmap:
        return np.ones(count, dtype=np.bool_)
    bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), count=count)
    return bits.astype(np.bool_)


def place(
    restored: NDArray[np.float32] | NDArray[np.int32],
    bands: NDArray[np.int64],
    valid: NDArray[np.bool_] | None,
    like: Tile,
) -> Tile:
    """Put restored bands among filled ones, rounded to the tile's own type."""
    dtype = like.samples.dtype
    fill = fill_value(dtype, like.info.nodata)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        restored = np.clip(np.rint(restored), limits.min, limits.max)
    values = restored.astype(dtype)
    samples: Samples = np.full(like.samples.shape, fill, dtype=dtype)
    samples[bands] = values if valid is None else np.where(valid, values, dtype.type(fill))
    return Tile(samples=samples, info=like.info)
