"""Which table codes which channel: integer arithmetic both ends repeat exactly.

Latent channels fall into groups (a subband of a component). The scale of a channel is predicted
from what the decoder already has, the level of its component (log₂ of its standard deviation over
the step, from the tile's side information) and the bundle's offset for the channel; the encoder
sends, per patch and group, by how many table steps the patch differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import BundleError
from codec.shortcut import CHANNELS
from codec.tables import (
    ALPHABET_LIMIT,
    SMALLEST_OCTAVE,
    TABLE_COUNT,
    TABLES_PER_OCTAVE,
    index_of,
)

LEVELS_PER_OCTAVE: Final = 8
"""Fixed-point unit of levels and offsets: an eighth of an octave."""

MAX_INDEX: Final = TABLE_COUNT + 24 * TABLES_PER_OCTAVE
"""Largest scale index: symbols end at 2²⁴."""

DELTA_TABLE: Final = 1 - SMALLEST_OCTAVE * TABLES_PER_OCTAVE
"""The deltas themselves are coded by the table of mean magnitude 1."""

MAX_OFFSET: Final = 64 * LEVELS_PER_OCTAVE
"""Largest offset of a channel [1/8 octave]: a damaged one would overflow what follows from it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaleModel:
    """Predicts the scale index of every latent channel.

    Attributes:
        offsets: Offset of each channel [1/8 octave], shape (channels,), int16. With a shortcut
            the channels of the last described component stand for those beyond it.
        groups: Group of each channel within its component (with a shortcut, 64 entries) or within
            the patch (without one, one entry per channel), from 0 without a gap.
    """

    offsets: NDArray[np.int16]
    groups: NDArray[np.int16]

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or self.offsets.size == 0 or self.offsets.dtype != np.int16:
            raise BundleError(f"offsets are {self.offsets.dtype} {self.offsets.shape}")
        if self.groups.ndim != 1 or self.groups.size == 0 or self.groups.dtype != np.int16:
            raise BundleError(f"groups are {self.groups.dtype} {self.groups.shape}")
        if self.offsets.size % self.groups.size:
            raise BundleError(f"{self.offsets.size} offsets for {self.groups.size} groups")
        if np.abs(self.offsets.astype(np.int32)).max() > MAX_OFFSET:
            raise BundleError(f"offsets must be within {MAX_OFFSET} eighths of an octave")
        if not np.array_equal(np.unique(self.groups), np.arange(self.groups.max() + 1)):
            raise BundleError("groups must be numbered from 0 without a gap")

    def group_count(self, levels: int) -> int:
        """Groups, and so deltas, of a patch whose tile has `levels` levels."""
        return levels * (int(self.groups.max()) + 1)

    def channel_groups(self, levels: int) -> NDArray[np.int64]:
        """Group of every channel of a patch whose tile has `levels` levels, numbered from 0."""
        return (np.arange(levels)[:, None] * self.group_count(1) + self.groups).ravel()

    def predict(self, levels: NDArray[np.int32], step_offset: int) -> NDArray[np.int32]:
        """Predict the scale index of every channel.

        Args:
            levels: Level of each component [1/8 octave], shape (components,).
            step_offset: How much coarser the patch's step is than the tile's [1/8 octave].

        Returns:
            Scale indices, shape (components · channels per component,), not yet limited.
        """
        described = self.offsets.reshape(-1, self.groups.size).astype(np.int32)
        rows = np.minimum(np.arange(levels.size), len(described) - 1)
        eighths = described[rows] + levels[:, None] - np.int32(step_offset)
        return (eighths.ravel() * TABLES_PER_OCTAVE) // LEVELS_PER_OCTAVE

    def group_means(self, symbols: NDArray[np.int32], levels: int) -> NDArray[np.float64]:
        """Mean magnitude of every channel's group, shape (channels,)."""
        groups, count = self.channel_groups(levels), self.group_count(levels)
        magnitude = np.abs(symbols).reshape(groups.size, -1).mean(axis=1)
        sizes = np.maximum(np.bincount(groups, minlength=count), 1)
        means = np.bincount(groups, magnitude, minlength=count) / sizes
        return np.asarray(means[groups], dtype=np.float64)

    def deltas(
        self, symbols: NDArray[np.int32], predicted: NDArray[np.int32], levels: int
    ) -> NDArray[np.int32]:
        """Choose the deltas of a patch: what its groups' mean magnitudes ask for.

        Channels of a group differ by their offsets; the group's delta is the one that fits the
        mean of magnitudes, each brought to its group's common scale.
        """
        groups, count = self.channel_groups(levels), self.group_count(levels)
        magnitude = np.abs(symbols).reshape(groups.size, -1).mean(axis=1)
        base = self._base(predicted, groups, count)
        relative = 2.0 ** ((predicted - base[groups]) / TABLES_PER_OCTAVE)
        sums = np.bincount(groups, magnitude, minlength=count)
        weights = np.bincount(groups, relative, minlength=count)
        index = np.minimum(index_of(sums / np.maximum(weights, 1e-300)), MAX_INDEX)
        delta = index - np.clip(base, 0, MAX_INDEX)
        # No delta is escaped: the decoder needs them before it can read what follows.
        return np.asarray(np.clip(delta, -ALPHABET_LIMIT, ALPHABET_LIMIT), dtype=np.int32)

    def indices(
        self, deltas: NDArray[np.int32], predicted: NDArray[np.int32], levels: int
    ) -> NDArray[np.int32]:
        """Scale index of every channel, in [0, MAX_INDEX]; 0 where the group is all zero."""
        groups = self.channel_groups(levels)
        base = self._base(predicted, groups, deltas.size)
        index = np.clip(base, 0, MAX_INDEX) + deltas
        channel = np.clip(index[groups] + predicted - base[groups], 1, MAX_INDEX)
        return np.where(index[groups] > 0, channel, 0).astype(np.int32)

    @staticmethod
    def _base(
        predicted: NDArray[np.int32], groups: NDArray[np.int64], count: int
    ) -> NDArray[np.int32]:
        """Prediction of each group: that of its first channel."""
        base = np.zeros(count, dtype=np.int32)
        base[groups[::-1]] = predicted[::-1]
        return base


def shortcut_groups(groups: tuple[int, ...]) -> NDArray[np.int16]:
    """Groups of one component's channels under a shortcut."""
    if len(groups) != CHANNELS:
        raise BundleError(f"{len(groups)} groups for {CHANNELS} channels")
    return np.array(groups, dtype=np.int16)


def step_ratio(step_offset: int) -> float:
    """How much coarser a patch's step is than the tile's [1]."""
    return float(2.0 ** (step_offset / LEVELS_PER_OCTAVE))
