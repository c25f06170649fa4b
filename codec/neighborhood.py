"""Contexts: each symbol's table is chosen by the magnitudes around it, in integer arithmetic.

Subbands are coded from coarse to fine, in each the components by falling variance, and a
component's subband in four passes over its even and odd rows and columns:

    1 3 1 3     pass 1 sees nothing of its own subband, pass 2 its diagonal neighbors, pass 3 the
    4 2 4 2     four beside it, pass 4 all eight. Beyond that every pass sees the parent (the same
    1 3 1 3     place one level up), the sibling subbands already coded, and the same subband of
    4 2 4 2     the two components before. A pass is coded at once: decoding is vectorized.

Two weighted sums of the neighbors' loudness (⅛ octaves), one of what lies in the same component,
one of what lies in the components before, and the scale of the symbol's group then look up in a
frozen map how many tables the symbol's scale lies above or below its group's.

Sources: context quantization by weighted magnitudes, Wu, ECECOW, Asilomar 1997; passes over
interleaved lattices, as in He et al., Checkerboard Context Model, CVPR 2021; integers, so that both
ends agree, Ballé et al., ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX, scale_index
from codec.errors import BundleError
from codec.subbands import SUBBANDS

LOUDNESS_PER_OCTAVE: Final = 8
_LOUDEST: Final = 4095
_LOUDNESS: Final = np.rint(LOUDNESS_PER_OCTAVE * np.log2(1 + np.arange(_LOUDEST + 1))).astype(
    np.int32
)
"""Loudness of a magnitude. No value lies within 10⁻⁵ of a half, so every machine rounds alike."""

PASSES: Final = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Row and column parity of each pass."""

NEIGHBORS: Final = (
    *("beside", "above and below", "diagonal"),
    *("parent", "around the parent"),
    *("first sibling", "around it", "second sibling", "around it too"),
    *("previous", "beside the previous", "diagonal to the previous"),
    *("second previous", "beside the second previous"),
)
"""What is summed: the first `WITHIN` in the same component, the rest in those before."""

WITHIN: Final = 9

GROUP_SCALES: Final = 32
"""Group scales the map tells apart [half octaves]; larger ones count as the last."""

SUM_LEVELS: Final = 32
"""Levels of each sum the map tells apart."""

SUM_SHIFT: Final = 8
"""Weights and biases are in 1/256 level. Fourteen neighborhoods of four times loudness 96 at the
largest weight stay within 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighborModel:
    """Chooses tables by neighbors.

    Attributes:
        weights: Shape (subbands, passes, neighbors), int16.
        biases: Of both sums, shape (subbands, passes, 2), int32.
        shifts: Tables above the group's, shape (subbands, GROUP_SCALES, SUM_LEVELS, SUM_LEVELS),
            int8: by group scale, sum within the component, sum over those before.

    Raises:
        BundleError: If a shape, type or range does not fit.
    """

    weights: NDArray[np.int16]
    biases: NDArray[np.int32]
    shifts: NDArray[np.int8]

    def __post_init__(self) -> None:
        for name, (dtype, shape) in NEIGHBOR_TENSORS.items():
            array = getattr(self, name)
            if array.dtype.name != dtype or array.shape != shape:
                raise BundleError(f"contexts.{name} is {array.dtype} {array.shape}")
        if np.abs(self.biases.astype(np.int64)).max() > 1 << 24:
            raise BundleError("contexts.biases must be within 2^24")

    def within(self, band: int, coded: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        """What parent and siblings add to the first sum, for each pass; see `within`."""
        return self._summed(band, 0, within(band, coded), coded[band].shape)

    def before(
        self, band: int, previous: NDArray[np.int32], second: NDArray[np.int32]
    ) -> list[NDArray[np.int32]]:
        """The second sum, for each pass: what the components before add; see `before`."""
        return self._summed(band, 1, before(previous, second), previous.shape)

    def own(self, band: int, number: int, loudness: NDArray[np.int32]) -> NDArray[np.int32]:
        """What the subband itself adds to the first sum in a pass; see `own`."""
        parts = own(number, loudness)
        total = np.zeros(pass_shape(loudness.shape, number), dtype=np.int32)
        for neighbor, part in parts.items():
            total += np.int32(self.weights[band, number, neighbor]) * part
        return total

    def indices(
        self,
        band: int,
        scales: NDArray[np.int32],
        first_sum: NDArray[np.int32],
        second_sum: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        """Scale index of each symbol; 0 where its group is all zero.

        Args:
            band: Position in `SUBBANDS`.
            scales: Scale of each component's group, shape (k,).
            first_sum: Shape (k, h, w).
            second_sum: Same shape.
        """
        scale = np.minimum(scales, GROUP_SCALES - 1)[:, None, None]
        place = (scale * SUM_LEVELS + _level(first_sum)) * SUM_LEVELS + _level(second_sum)
        index = scale_index(scales)[:, None, None] + self.shifts[band].reshape(-1)[place]
        index = np.minimum(np.maximum(index, 1), MAX_INDEX)
        return np.asarray(np.where(scales[:, None, None] > 0, index, 0), dtype=np.int32)

    def _summed(
        self, band: int, which: int, parts: Mapping[int, NDArray[np.int32]], shape: tuple[int, ...]
    ) -> list[NDArray[np.int32]]:
        sums = []
        for number, (row, col) in enumerate(PASSES):
            total = np.full(
                pass_shape(shape, number), self.biases[band, number, which], dtype=np.int32
            )
            for neighbor, part in parts.items():
                total += np.int32(self.weights[band, number, neighbor]) * part[:, row::2, col::2]
            sums.append(total)
        return sums


NEIGHBOR_TENSORS: Final = {
    "weights": ("int16", (len(SUBBANDS), len(PASSES), len(NEIGHBORS))),
    "biases": ("int32", (len(SUBBANDS), len(PASSES), 2)),
    "shifts": ("int8", (len(SUBBANDS), GROUP_SCALES, SUM_LEVELS, SUM_LEVELS)),
}
"""Type and shape of each tensor "contexts.…" of a bundle."""

_OFFSETS: Final = (
    ((0, -1), (0, 1)),
    ((-1, 0), (1, 0)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
)
_SEEN_IN: Final = ((2, 3), (2, 3), (1, 3))
"""Passes that find each of the subband's own neighbors coded."""


def loudness(symbols: NDArray[np.int32]) -> NDArray[np.int32]:
    """⌊8·log₂(1 + magnitude)⌉, same shape."""
    heard: NDArray[np.int32] = _LOUDNESS[np.minimum(np.abs(symbols), _LOUDEST)]
    return heard


def _level(sums: NDArray[np.int32]) -> NDArray[np.int32]:
    # Far faster than np.clip on what a pass is.
    return np.asarray(np.minimum(np.maximum(sums >> SUM_SHIFT, 0), SUM_LEVELS - 1), dtype=np.int32)


def pass_shape(shape: tuple[int, ...], number: int) -> tuple[int, int, int]:
    """Shape of a pass over images of shape (k, h, w)."""
    (count, height, width), (row, col) = shape, PASSES[number]
    return count, -(-(height - row) // 2), -(-(width - col) // 2)


def within(band: int, coded: Sequence[NDArray[np.int32]]) -> dict[int, NDArray[np.int32]]:
    """Loudness summed over the neighbors in parent and siblings, by position in `NEIGHBORS`.

    Args:
        band: Position in `SUBBANDS`.
        coded: Loudness of the subbands, shape (k, h, w) each; of this one only the shape matters.
    """
    shape, parts = coded[band].shape, dict[int, NDArray[np.int32]]()
    parent = _parent(band)
    if parent is not None:
        above = coded[parent]
        parts |= {3: _enlarged(above, shape), 4: _enlarged(_beside(above), shape)}
    for neighbor, sibling in zip((5, 7), _siblings(band), strict=False):
        fitted = _fitted(coded[sibling], shape)
        parts |= {neighbor: fitted, neighbor + 1: _beside(fitted)}
    return parts


def before(previous: NDArray[np.int32], second: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    """Loudness summed over the neighbors in the components before, by position in `NEIGHBORS`.

    Args:
        previous: Loudness of the component before each, shape (k, h, w).
        second: Loudness of the one before that.
    """
    return {
        9: previous,
        10: _beside(previous),
        11: _diagonal(previous),
        12: second,
        13: _beside(second),
    }


def own(number: int, loudness: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    """Loudness summed over the neighbors a pass finds coded, by position in `NEIGHBORS`.

    Args:
        number: The pass.
        loudness: Of the subband, shape (k, h, w); passes not yet coded are not looked at.

    Returns:
        Arrays of the pass's shape.
    """
    row, col = PASSES[number]
    _, height, width = pass_shape(loudness.shape, number)
    padded, parts = _padded(loudness), dict[int, NDArray[np.int32]]()
    for neighbor, offsets in enumerate(_OFFSETS):
        if number in _SEEN_IN[neighbor]:
            corners = [(1 + row + down, 1 + col + right) for down, right in offsets]
            seen = [
                padded[:, top : top + 2 * height : 2, left : left + 2 * width : 2][
                    :, :height, :width
                ]
                for top, left in corners
            ]
            parts[neighbor] = np.sum(seen, axis=0, dtype=np.int32)
    return parts


def shifted_components(loud: NDArray[np.int32], by: int) -> NDArray[np.int32]:
    """Component k − `by` in place of component k, zero before the first."""
    return np.concatenate((np.zeros_like(loud[:by]), loud[: len(loud) - by]))[: len(loud)]


def _parent(band: int) -> int | None:
    """Same orientation, one level up; the coarsest details have none."""
    return band - 3 if band > 3 else None


def _siblings(band: int) -> tuple[int, ...]:
    """Orientations of the same level that are coded before: HL; HL and LH."""
    place = (band - 1) % 3 if band else 0
    return tuple(range(band - place, band))


def _padded(image: NDArray[np.int32]) -> NDArray[np.int32]:
    count, height, width = image.shape
    padded = np.zeros((count, height + 2, width + 2), dtype=np.int32)
    padded[:, 1:-1, 1:-1] = image
    return padded


def _beside(image: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum of the four neighbors; nothing lies beyond the edge."""
    p = _padded(image)
    return p[:, :-2, 1:-1] + p[:, 2:, 1:-1] + p[:, 1:-1, :-2] + p[:, 1:-1, 2:]


def _diagonal(image: NDArray[np.int32]) -> NDArray[np.int32]:
    p = _padded(image)
    return p[:, :-2, :-2] + p[:, :-2, 2:] + p[:, 2:, :-2] + p[:, 2:, 2:]


def _enlarged(image: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Each value on a square of four, the last repeated where a child has no parent."""
    if 0 in image.shape:
        return np.zeros(shape, dtype=np.int32)
    rows, cols = (
        np.minimum(np.arange(n) // 2, have - 1)
        for n, have in zip(shape[1:], image.shape[1:], strict=True)
    )
    return image[:, rows[:, None], cols]


def _fitted(image: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Cut or zero-fill to `shape`: subbands of a level differ by a row or column."""
    if image.shape == shape:
        return image
    fitted = np.zeros(shape, dtype=np.int32)
    height, width = (min(a, b) for a, b in zip(shape[1:], image.shape[1:], strict=True))
    fitted[:, :height, :width] = image[:, :height, :width]
    return fitted
