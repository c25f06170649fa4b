"""How large the latents of each group are: the scale the encoder measures and sends.

Latent channels fall into groups (a subband of a component). Per patch and group the encoder sends
the mean magnitude of its symbols in half octaves; `codec.context_coder` refines it to each symbol.

Sent as they are, predicted from the groups coded before, the scales take half the bytes of their
differences to what the components' variances let one expect (1.2 → 0.6 % of a land patch, 7 → 2 %
of open water): what a variance spreads over the subbands differs from scene to scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import BundleError
from codec.shortcut import CHANNELS
from codec.tables import SMALLEST_OCTAVE, TABLE_COUNT, TABLES_PER_OCTAVE

LEVELS_PER_OCTAVE: Final = 8
"""Fixed-point unit of levels and step offsets: an eighth of an octave."""

MAX_INDEX: Final = TABLE_COUNT + 24 * TABLES_PER_OCTAVE
"""Largest scale index: symbols end at 2²⁴."""

TABLES_PER_SCALE: Final = 2
MAX_SCALE: Final = (MAX_INDEX + 1) // TABLES_PER_SCALE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaleModel:
    """Measures groups.

    Attributes:
        groups: Group of each channel within its component (with a shortcut, 64 entries) or within
            the patch (without one, one entry per channel), from 0 without a gap.
    """

    groups: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.groups.ndim != 1 or self.groups.size == 0 or self.groups.dtype != np.int16:
            raise BundleError(f"groups are {self.groups.dtype} {self.groups.shape}")
        if not np.array_equal(np.unique(self.groups), np.arange(self.groups.max() + 1)):
            raise BundleError("groups must be numbered from 0 without a gap")

    @property
    def count(self) -> int:
        """Groups of a component."""
        return int(self.groups.max()) + 1

    def means(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Mean magnitude of each group, shape (components, groups).

        Args:
            symbols: Shape (channels, …).
        """
        return self.group_means(np.abs(symbols).reshape(len(symbols), -1).mean(axis=1))

    def group_means(self, by_channel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean magnitude of each group, shape (components, groups), from those of channels."""
        member = (self.groups[:, None] == np.arange(self.count)) / np.bincount(self.groups)
        means: NDArray[np.float64] = by_channel.reshape(-1, self.groups.size) @ member
        return means

    def channel_means(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Mean magnitude of every channel's group, shape (channels,)."""
        means: NDArray[np.float64] = self.means(symbols)[:, self.groups].ravel()
        return means

    def scales(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Scale of each group, shape (components, groups), from 1; 0 where it is all zero."""
        return self.scales_of(self.means(symbols))

    def scales_of(self, means: NDArray[np.float64]) -> NDArray[np.int32]:
        """Scale of each mean magnitude, same shape, from 1; that of 0 is 0."""
        with np.errstate(divide="ignore"):
            octaves = np.log2(means) - SMALLEST_OCTAVE
        found = np.clip(np.rint(octaves * TABLES_PER_OCTAVE / TABLES_PER_SCALE) + 1, 1, MAX_SCALE)
        return np.asarray(np.where(means > 0, found, 0), dtype=np.int32)


def scale_index(scales: NDArray[np.int32]) -> NDArray[np.int32]:
    """Scale index, as tables count, of groups of some scale; 0 stays 0."""
    return np.asarray(np.maximum(scales * np.int32(TABLES_PER_SCALE) - 1, 0), dtype=np.int32)


def shortcut_groups(groups: tuple[int, ...]) -> NDArray[np.int16]:
    """Groups of one component's channels under a shortcut."""
    if len(groups) != CHANNELS:
        raise BundleError(f"{len(groups)} groups for {CHANNELS} channels")
    return np.array(groups, dtype=np.int16)


def step_ratio(step_offset: int) -> float:
    """How much coarser a patch's step is than the tile's [1]."""
    return float(2.0 ** (step_offset / LEVELS_PER_OCTAVE))
