"""Integer frequency tables, one per scale, frozen in the bundle.

Encoder and decoder must agree on every probability exactly, so a probability is an integer count
of 2⁻²⁴ and never the result of a float function (Ballé et al., Integer networks for data
compression with latent-variable models, ICLR 2019).

Table t codes symbols of mean magnitude 2^((t − 1)/4 − 6), for t from 1; index 0 stands for "all
zero" and codes nothing. Beyond the last table a symbol's low bits go in plain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import BundleError

PRECISION_BITS: Final = 24
"""Resolution of a probability, 2⁻²⁴: what the range coder works with. A table of 256 entries then
loses nothing to the rule that no count is zero (at 16 bits the narrowest table lost a tenth)."""

ALPHABET_LIMIT: Final = 127
"""Symbols of a larger magnitude are escaped; at the widest table's scale one in 3000."""

ENTRIES: Final = 2 * ALPHABET_LIMIT + 2
"""−127 … 127, then the escape."""

TABLES_PER_OCTAVE: Final = 4
"""A quarter octave between scales costs at most 0.2 % against the ideal one."""

SMALLEST_OCTAVE: Final = -6
TABLE_COUNT: Final = 41
"""Mean magnitudes from 1/64 to 16."""


def scale_of(index: int) -> float:
    """Mean magnitude that table `index` (from 1) is made for."""
    return float(2.0 ** ((index - 1) / TABLES_PER_OCTAVE + SMALLEST_OCTAVE))


@dataclass(frozen=True, slots=True, eq=False)
class FrequencyTables:
    """Counts per table and entry.

    Attributes:
        counts: Shape (TABLE_COUNT, ENTRIES), each row positive with sum 2^PRECISION_BITS.

    Raises:
        BundleError: If they are not.
    """

    counts: NDArray[np.uint32]

    def __post_init__(self) -> None:
        if self.counts.shape != (TABLE_COUNT, ENTRIES) or self.counts.dtype != np.uint32:
            raise BundleError(f"tables are {self.counts.dtype} {self.counts.shape}")
        if not self.counts.all() or (self.counts.sum(axis=1) != 1 << PRECISION_BITS).any():
            raise BundleError("a table has a zero count or does not sum to 2^24")

    def probabilities(self, index: int) -> NDArray[np.float64]:
        """Row `index` (from 1) as exact binary fractions."""
        return np.asarray(self.counts[index - 1] / (1 << PRECISION_BITS), dtype=np.float64)


def laplace_tables() -> FrequencyTables:
    """Tables of the two-sided geometric law, for a codec that has not been calibrated."""
    magnitude = np.abs(np.arange(-ALPHABET_LIMIT, ALPHABET_LIMIT + 1))
    rows = []
    for index in range(1, TABLE_COUNT + 1):
        mean = scale_of(index)
        # Two-sided geometric with ratio r has mean magnitude 2r/(1 − r²).
        ratio = (math.sqrt(1 + mean * mean) - 1) / mean
        inside = (1 - ratio) / (1 + ratio) * ratio**magnitude
        escape = 2 * ratio ** (ALPHABET_LIMIT + 1) / (1 + ratio)
        rows.append(np.append(inside, escape))
    return FrequencyTables(np.stack([normalize(row) for row in rows]))


def normalize(weights: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Turn weights into counts: none zero, sum 2^PRECISION_BITS, ties to the largest."""
    total = (1 << PRECISION_BITS) - weights.size
    counts = np.floor(weights / weights.sum() * total).astype(np.int64) + 1
    counts[np.argmax(counts)] += (1 << PRECISION_BITS) - counts.sum()
    return np.asarray(counts, dtype=np.uint32)
