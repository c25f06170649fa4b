"""The KLT of a tile: its mean, and its leading eigenvectors, turned to what codes best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.coding_gain import BLOCKS, TURNS, coding_rotation, sample_blocks
from codec.conditioning import ConditionerSpec, centered_samples
from codec.contexts import LEVELS_PER_OCTAVE
from codec.errors import TileError
from codec.klt_side import KltSide, entry_steps, mean_step
from codec.lifting import compiled_wavelet
from codec.projection import projection_of
from codec.quantize import SYMBOL_LIMIT
from codec.tile import Samples

MAX_LEVEL: Final = 24 * LEVELS_PER_OCTAVE
"""Largest level of a component [1/8 octave]: standard deviation 2²⁴ steps."""

_GUESS_PX: Final = 16
"""Rows and columns looked at, at least, to guess the mean."""

_BLOCK_PX: Final = 16_384
"""Pixels converted to float32 at a time: 15 MB at 224 bands."""

_BANDS_AT_ONCE: Final = 56
"""Rows of the covariance computed at once, up to their diagonal: a third less work than all of it.
"""

_FAINTEST_STEPS: Final = 1 / 8
"""Standard deviation from which on components are considered [step]. Turned, the weak ones may be
worth sending: from 1/4 on, bytes are 0.9 % more at equal PSNR."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of a tile is looked at, and how long.

    Attributes:
        pixels: Pixels that the covariance is taken of; all if None, or if there are gaps.
        turns: See `codec.coding_gain`.
        blocks: Likewise, along an axis.
    """

    pixels: int | None
    turns: int
    blocks: int = BLOCKS


EFFORTS: Final = (
    Effort(pixels=None, turns=TURNS),
    Effort(pixels=8_192, turns=4),
    Effort(pixels=4_096, turns=3),
    Effort(pixels=4_096, turns=3, blocks=3),
)
"""By speed. On land and water the second costs 0 to 1.5 % more bytes at equal PSNR than the first:
larger classes and fewer turns do; the pixels 0.1 %, and half as many 0.5 %."""


class TileSource(Protocol):
    """The coded bands of a tile, wherever its samples are: `codec.backends.device_tile` is another.

    Attributes:
        shape: (coded bands, rows, cols).
        device: Where its tensors are.
    """

    shape: tuple[int, int, int]
    device: torch.device

    def guessed_mean(self) -> NDArray[np.float32]:
        """About the mean of each band [10⁻⁴ reflectance]; where there is fill, just their mean.

        Fill is then coded as this mean: were it far off, fill would outweigh what was measured.
        """
        ...

    def blocks(self, mean: NDArray[np.float32]) -> Iterator[Tensor]:
        """Pixels to take the covariance of, less `mean`, gaps filled as they are coded.

        Shape (coded, pixels) each, float32.
        """
        ...

    def sampled(self, basis: NDArray[np.float64], mean: NDArray[np.float64]) -> Tensor:
        """Pixels where `sample_blocks` says, less `mean`, projected on rows of shape (k, coded).

        Shape (blocks, k, rows, cols), float32.
        """
        ...

    def wavelet(self, images: Tensor) -> Tensor:
        """As `codec.lifting.wavelet`."""
        ...


def fit_klt(
    spec: ConditionerSpec,
    samples: Samples,
    *,
    bands: NDArray[np.int64],
    valid: NDArray[np.bool_] | None,
    sample_unit: float,
    step: float,
    effort: Effort = EFFORTS[0],
) -> KltSide:
    """Fit mean and eigenvectors to a tile in the host's memory.

    Args:
        spec: Limits of the bundle.
        samples: Shape (bands, rows, cols), in the tile's units.
        bands: Positions of the bands with any valid sample, shape (coded,).
        valid: Shape (coded, rows, cols), or None if all coded samples are valid.
        sample_unit: 10⁻⁴ reflectance per sample unit.
        step: Quantizer step [10⁻⁴ reflectance].
        effort: How much of the tile is looked at.

    Raises:
        TileError: If the samples are too large for the step.
    """
    source = _HostTile(samples, bands, valid, sample_unit, effort)
    return fit_source(spec, source, step, effort.turns)


def fit_source(spec: ConditionerSpec, tile: TileSource, step: float, turns: int) -> KltSide:
    """Fit mean and eigenvectors to a tile.

    Args:
        spec: Limits of the bundle.
        tile: The tile; what is large is computed where it is.
        step: Quantizer step [10⁻⁴ reflectance].
        turns: See `codec.coding_gain`.

    Raises:
        TileError: If the samples are too large for the step.
    """
    coded, pixels = tile.shape[0], tile.shape[1] * tile.shape[2]
    mean, covariance = _moments(tile, torch.float32)
    mean_symbols = np.rint(mean / mean_step(step, pixels))
    largest = np.abs(mean_symbols).max(initial=0)
    if not (largest <= SYMBOL_LIMIT and np.isfinite(covariance).all()):
        raise TileError(
            f"samples are too large for a step of {step:g}·10⁻⁴ reflectance; remedy: the"
            " reflectance_scale that they have, or a larger step"
        )
    # PyTorch's, as every product here: one pool of threads, whose size the process sets.
    eigen = torch.linalg.eigh(torch.from_numpy(covariance).to(tile.device))
    faintest = (_FAINTEST_STEPS * step) ** 2
    if coded and eigen.eigenvalues[0] < -faintest:
        # No variance is negative: float32 lost as much of the weak components. Under a saturated
        # cloud, all of them: 28 % more error on the water beside it, single samples 700 DN off.
        _, covariance = _moments(tile, torch.float64)
        eigen = torch.linalg.eigh(torch.from_numpy(covariance).to(tile.device))
    variances, vectors = eigen.eigenvalues.cpu().numpy(), eigen.eigenvectors.cpu().numpy()
    leading = slice(None, -1 - min(spec.components, coded), -1)
    variances, vectors = np.maximum(variances[leading], 1e-12), vectors[:, leading]
    considered = variances >= faintest
    variances, vectors = variances[considered], vectors[:, considered]
    blocks = tile.sampled(vectors.T / step, mean)
    in_steps = torch.from_numpy(variances / step**2).to(tile.device)
    turned = coding_rotation(blocks, in_steps, pixels, coded, turns=turns, wavelet=tile.wavelet)
    rotation = turned.cpu().numpy()
    variances, vectors = rotation**2 @ variances, vectors @ rotation.T
    levels = np.rint(np.log2(np.sqrt(variances) / step) * LEVELS_PER_OCTAVE)
    levels = np.minimum(levels, MAX_LEVEL).astype(np.int32)
    # Eigenvectors have no sign of their own; a fixed one makes equal tiles give equal bytes.
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
    entries = np.rint(vectors.T / entry_steps(levels, pixels)[:, None])
    # In a tile of few pixels an eigenvector may round to nothing; then nothing is sent of it.
    sent = entries.any(axis=1)
    levels, entries = levels[sent], entries[sent]
    symbols = np.concatenate((mean_symbols[None], entries)).astype(np.int32)
    return KltSide(levels=tuple(levels.tolist()), symbols=symbols)


def _moments(
    tile: TileSource, precision: torch.dtype
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [10⁻⁴ reflectance] and covariance of the coded bands, gaps filled as they are coded.

    One pass: sums are taken about a guess of the mean, so that nothing cancels in float32, and
    moved to the mean itself at the end.
    """
    guess, coded, pixels = tile.guessed_mean(), tile.shape[0], 0
    sums = torch.zeros(coded, dtype=torch.float64, device=tile.device)
    triangle = sums.new_zeros(coded, coded)
    for block in tile.blocks(guess):
        centered = block.to(precision)
        sums += centered.sum(dim=1)
        for start in range(0, coded, _BANDS_AT_ONCE):  # the lower triangle, nearly
            end = start + _BANDS_AT_ONCE
            triangle[start:end, :end] += centered[start:end] @ centered[:end].T
        pixels += centered.shape[1]
    products, shift = np.tril(triangle.cpu().numpy()), sums.cpu().numpy() / pixels
    products += np.tril(products, -1).T
    with np.errstate(invalid="ignore"):  # garbage in a float tile; `fit_source` refuses it
        return guess + shift, products / pixels - np.outer(shift, shift)


class _HostTile:
    """A tile in the host's memory.

    About one pixel of so many counts where there is little time, see `_row_blocks`.
    """

    def __init__(
        self,
        samples: Samples,
        bands: NDArray[np.int64],
        valid: NDArray[np.bool_] | None,
        sample_unit: float,
        effort: Effort,
    ) -> None:
        self._samples, self._bands, self._valid, self._unit = samples, bands, valid, sample_unit
        rows, cols = samples.shape[1:]
        self.shape, self.device = (bands.size, rows, cols), torch.device("cpu")
        seen = None if valid is not None else effort.pixels
        self._every = 1 if seen is None else max(1, rows * cols // seen)
        self._blocks = effort.blocks

    def guessed_mean(self) -> NDArray[np.float32]:
        samples, bands = self._samples, self._bands
        if self._valid is not None:
            coded = samples if bands.size == samples.shape[0] else samples[bands]
            means = np.mean(coded, axis=(1, 2), where=self._valid, dtype=np.float64)
            return np.asarray(means * self._unit, dtype=np.float32)
        thin = (slice(None), *(slice(None, None, 1 + e // _GUESS_PX) for e in samples.shape[1:]))
        zero = np.zeros(bands.size, dtype=np.float32)
        some = centered_samples(samples[thin], bands, zero, None, self._unit)
        return some.mean(dim=1).numpy()

    def blocks(self, mean: NDArray[np.float32]) -> Iterator[Tensor]:
        for block, ok in _row_blocks(self._samples, self._valid, self._every):
            yield centered_samples(block, self._bands, mean, ok, self._unit)

    def sampled(self, basis: NDArray[np.float64], mean: NDArray[np.float64]) -> Tensor:
        samples, valid, unit = self._samples, self._valid, self._unit
        places = sample_blocks(*self.shape[1:], self._blocks)
        blocks = np.stack([samples[:, rows, cols] for rows, cols in places])
        found = np.empty((len(places), len(basis), *blocks.shape[2:]), dtype=np.float32)
        if valid is None:
            weights, off = (basis * unit).astype(np.float32), mean / unit
            projection = projection_of(weights, off.astype(np.float32), self._bands, blocks[0])
            for block, components in zip(blocks, found, strict=True):
                projection.project(block, components)
            return torch.from_numpy(found)
        rows_of, about = torch.from_numpy(basis.astype(np.float32)), mean.astype(np.float32)
        for block, place, components in zip(blocks, places, found, strict=True):
            centered = centered_samples(block, self._bands, about, valid[:, *place], unit)
            components[...] = (rows_of @ centered).numpy().reshape(components.shape)
        return torch.from_numpy(found)

    def wavelet(self, images: Tensor) -> Tensor:
        return compiled_wavelet(images)


def _row_blocks(
    samples: Samples, valid: NDArray[np.bool_] | None, every: int
) -> Iterator[tuple[Samples, NDArray[np.bool_] | None]]:
    """Cut a tile into blocks of rows, so that the float copy of a large one stays small.

    Of a tile without gaps about one pixel of `every` is taken, on a lattice: what is larger than
    its spacing is seen. Each row of it begins a column further, so that each detector is heard.
    """
    spacing = max(1, round(math.sqrt(every)))
    for first in range(spacing):
        taken = samples[:, first * spacing :: spacing**2, first::spacing]
        rows = max(1, _BLOCK_PX // max(1, taken.shape[2]))
        for start in range(0, taken.shape[1], rows):
            chosen = slice(start, start + rows)
            yield taken[:, chosen], None if valid is None else valid[:, chosen]
