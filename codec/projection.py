"""Samples without gaps, projected on a basis.

16-bit samples are projected by products of bytes where the machine is quick at them: cores with
VNNI add up eight times as many a second as of floats. A sample is two bytes, and so is an entry of
the basis, rounded: four sums, which depend neither on their order nor on what else is projected.
One byte for an entry would do on calm water; on land it took up to 13 % more bytes and 6 dB. Two
are too few where steps are fine beside what the scene spans, see `_MOST_STEPS`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from codec.compiled import approximate, multiplies_bytes_fast
from codec.tile import Samples

_FLOATS_PX: Final = 4096
"""Pixels projected at a time: four megabytes of floats at 224 bands. A quarter would fit the cache,
but for every block Python is asked again, and other threads wait for it."""
_BYTES_PX: Final = 1024
"""In bytes: half a megabyte, which the cache holds."""
_LONG_ROW_PX: Final = 512
"""Rows from here on are copied one by one: together, lines of one place in memory's pages wait for
each other."""

BYTE_PRODUCTS: Final = 4
"""Products of bytes for one of a sample and an entry."""

_LARGEST: Final = 127 * 256
"""The largest rounded entry: its upper byte has a sign."""
_MOST_STEPS: Final = 4096.0
"""Standard deviation of the strongest component [step] up to which rounded entries do no harm: a
bit of it stays in all others. At 5,000 that cost 0.01 dB, at 12,000 0.3 dB, at 40,000 1.4 dB."""
_FLIPPED: Final = {"int16": (0x0080, 0x80), "uint16": (-0x7F80, 0x8080)}
"""By type: the bits to flip so that both bytes have a sign, and what that takes off a sample."""


class Projection(Protocol):
    """Projects samples of a tile."""

    def project(self, samples: Samples, components: NDArray[np.float32]) -> None:
        """Project samples of shape (bands, rows, cols) into components of shape (k, rows, cols)."""


def projection_of(
    weights: NDArray[np.float32],
    mean: NDArray[np.float32],
    bands: NDArray[np.int64],
    samples: Samples,
    strongest: float = 0.0,
) -> Projection:
    """Choose how samples are projected on this machine.

    Args:
        weights: Of each coded band in each component, shape (k, coded).
        mean: What is taken off each coded band, in units of samples, shape (coded,).
        bands: Positions of the coded bands, ascending, shape (coded,).
        samples: All of the tile, or some.
        strongest: Largest standard deviation of a component [step]; 0 where all is but estimated.
    """
    if strongest <= _MOST_STEPS and in_bytes(samples):
        return ByteProjection.of(weights, mean, bands, samples.dtype)
    return FloatProjection(torch.from_numpy(weights), weights @ mean, bands)


def in_bytes(samples: Samples) -> bool:
    """Whether samples are projected by products of bytes on this machine."""
    known = samples.dtype.name in _FLIPPED and samples.dtype.isnative
    along = samples.strides[2] == samples.itemsize
    return known and along and sys.byteorder == "little" and multiplies_bytes_fast()


@dataclass(frozen=True, slots=True, eq=False)
class FloatProjection:
    """A basis in floats.

    The mean is taken off at the end: off a few components, not off every band. In float32 that
    costs 0.03 steps where the mean is 30,000 steps, far beyond what reflectance comes to.

    Attributes:
        weights: Shape (k, coded).
        offsets: What is taken off each component, shape (k,).
        bands: See `projection_of`.
    """

    weights: torch.Tensor
    offsets: NDArray[np.float32]
    bands: NDArray[np.int64]

    def project(self, samples: Samples, components: NDArray[np.float32]) -> None:
        """See `Projection`; some rows at a time, so that their float copy stays in the cache."""
        (_, rows, cols), count = samples.shape, self.bands.size
        high = min(rows, max(1, _FLOATS_PX // cols))
        # In the order samples lie in: with the bands of a pixel side by side, ten times as fast.
        if samples.strides[0] == samples.itemsize:
            block = np.empty((high, cols, count), dtype=np.float32).transpose(2, 0, 1)
        else:
            block = np.empty((count, high, cols), dtype=np.float32)
        for start in range(0, rows, high):
            part = samples[:, start : start + high]
            now = block[:, : part.shape[1]]
            for to, run in _runs(self.bands):
                np.copyto(now[to], part[run])
            found = (self.weights @ torch.from_numpy(now).flatten(1)).numpy()
            components[:, start : start + high] = found.reshape(-1, *part.shape[1:])
        components -= self.offsets[:, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class ByteProjection:
    """A basis in bytes, for samples that are two of them.

    Attributes:
        digits: Upper bytes of each component's entries, then lower ones; shape (2·k, coded), int8.
        scales: What a unit of the entries is, shape (k,).
        offsets: What is taken off each component, shape (k,).
        bands: See `projection_of`.
        flip: Of `_FLIPPED`.
    """

    digits: torch.Tensor
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32]
    bands: NDArray[np.int64]
    flip: np.int16

    @classmethod
    def of(
        cls,
        weights: NDArray[np.float32],
        mean: NDArray[np.float32],
        bands: NDArray[np.int64],
        dtype: np.dtype[Any],
    ) -> Self:
        """Round a basis, see `projection_of`."""
        scales = np.maximum(np.abs(weights).max(axis=1, initial=0), np.float32(1e-30)) / _LARGEST
        rounded = np.rint(weights / scales[:, None]).astype(np.int32)
        lower = ((rounded + 128) & 255) - 128
        flip, taken_off = _FLIPPED[dtype.name]
        return cls(
            torch.from_numpy(np.concatenate(((rounded - lower) >> 8, lower)).astype(np.int8)),
            scales,
            (scales * (rounded @ (mean.astype(np.float64) - taken_off))).astype(np.float32),
            bands,
            np.int16(flip),
        )

    def project(self, samples: Samples, components: NDArray[np.float32]) -> None:
        """See `Projection`."""
        (_, rows, cols), words = samples.shape, samples.view(np.int16)
        high = min(rows, max(1, _BYTES_PX // cols))
        lines = 1 if cols >= _LONG_ROW_PX else high
        for start in range(0, rows, high):
            part = words[:, start : start + high]
            now = np.empty((self.bands.size, *part.shape[1:]), dtype=np.int16)
            for line in range(0, part.shape[1], lines):
                chosen = slice(line, line + lines)
                for to, run in _runs(self.bands):
                    np.bitwise_xor(part[run, chosen], self.flip, out=now[to, chosen])
            flat = now.reshape(len(now), part.shape[1] * cols).view(np.int8)
            sums = torch._int_mm(self.digits, torch.from_numpy(flat)).numpy()
            found = sums.reshape(-1, part.shape[1], 2 * cols)
            _add_up(found, components[:, start : start + high], self.scales, self.offsets)


def _runs(bands: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Where coded bands that lie side by side go, and where they are."""
    ends = np.flatnonzero(np.diff(bands, append=-1) != 1) + 1
    first = 0
    for last in ends.tolist():
        band = int(bands[first])
        yield slice(first, last), slice(band, band + last - first)
        first = last


@approximate
def _add_up(
    sums: NDArray[np.int32],
    components: NDArray[np.float32],
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32],
) -> None:
    """Join the four sums of each pixel, whose lower byte comes before its upper one."""
    count, rows, cols = components.shape
    for k in range(count):
        for y in range(rows):
            upper, lower, to = sums[k, y], sums[count + k, y], components[k, y]
            for x in range(cols):
                total = np.float32(65536) * np.float32(upper[2 * x + 1])
                total += np.float32(256) * np.float32(upper[2 * x] + lower[2 * x + 1])
                total += np.float32(lower[2 * x])
                to[x] = scales[k] * total - offsets[k]
