"""The KLT of a tile: its mean, and its leading eigenvectors, turned to what codes best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from codec.coding_gain import TURNS, coding_rotation, sample_blocks
from codec.conditioning import ConditionerSpec, centered_samples
from codec.contexts import LEVELS_PER_OCTAVE
from codec.errors import TileError
from codec.klt_side import KltSide, entry_steps, mean_step
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
    """

    pixels: int | None
    turns: int


EFFORTS: Final = (
    Effort(pixels=None, turns=TURNS),
    Effort(pixels=8_192, turns=4),
    Effort(pixels=4_096, turns=3),
)
"""By speed. On land and water the second costs 0 to 1.5 % more bytes at equal PSNR than the first:
larger classes and fewer turns do; the pixels 0.1 %, and half as many 0.5 %."""


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
    """Fit mean and eigenvectors to a tile.

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
    pixels = samples.shape[1] * samples.shape[2]
    every = 1 if valid is not None or effort.pixels is None else max(1, pixels // effort.pixels)
    mean, covariance = _moments(
        samples, bands, valid, sample_unit, every=every, precision=torch.float32
    )
    mean_symbols = np.rint(mean / mean_step(step, pixels))
    largest = np.abs(mean_symbols).max(initial=0)
    if not (largest <= SYMBOL_LIMIT and np.isfinite(covariance).all()):
        raise TileError(f"samples are too large for a step of {step:g}·10⁻⁴ reflectance")
    # PyTorch's, as every product here: one pool of threads, whose size the process sets.
    eigen = torch.linalg.eigh(torch.from_numpy(covariance))
    faintest = (_FAINTEST_STEPS * step) ** 2
    if bands.size and eigen.eigenvalues[0] < -faintest:
        # No variance is negative: float32 lost as much of the weak components. Under a saturated
        # cloud, all of them: 28 % more error on the water beside it, single samples 700 DN off.
        _, covariance = _moments(
            samples, bands, valid, sample_unit, every=every, precision=torch.float64
        )
        eigen = torch.linalg.eigh(torch.from_numpy(covariance))
    variances, vectors = eigen.eigenvalues.numpy(), eigen.eigenvectors.numpy()
    leading = slice(None, -1 - min(spec.components, bands.size), -1)
    variances, vectors = np.maximum(variances[leading], 1e-12), vectors[:, leading]
    considered = variances >= faintest
    variances, vectors = variances[considered], vectors[:, considered]
    blocks = _projected(
        samples, vectors.T / step, mean, bands=bands, valid=valid, sample_unit=sample_unit
    )
    in_steps = torch.from_numpy(variances / step**2)
    rotation = coding_rotation(
        torch.from_numpy(blocks), in_steps, pixels, bands.size, effort.turns
    ).numpy()
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
    samples: Samples,
    bands: NDArray[np.int64],
    valid: NDArray[np.bool_] | None,
    sample_unit: float,
    *,
    every: int,
    precision: torch.dtype,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [10⁻⁴ reflectance] and covariance of the coded bands, gaps filled as they are coded.

    One pass: sums are taken about a guess of the mean, so that nothing cancels in float32, and
    moved to the mean itself at the end. About one pixel of so many counts, see `_row_blocks`.
    """
    guess, pixels = _guessed_mean(samples, bands, valid, sample_unit), 0
    sums, products = np.zeros(bands.size), np.zeros((bands.size, bands.size))
    for block, ok in _row_blocks(samples, valid, every):
        centered = centered_samples(block, bands, guess, ok, sample_unit)
        centered = centered.to(precision)
        sums += centered.sum(dim=1).numpy()
        for start in range(0, bands.size, _BANDS_AT_ONCE):  # the lower triangle, nearly
            end = start + _BANDS_AT_ONCE
            products[start:end, :end] += (centered[start:end] @ centered[:end].T).numpy()
        pixels += centered.shape[1]
    products, shift = np.tril(products), sums / pixels
    products += np.tril(products, -1).T
    with np.errstate(invalid="ignore"):  # garbage in a float tile; `fit_klt` refuses it
        return guess + shift, products / pixels - np.outer(shift, shift)


def _guessed_mean(
    samples: Samples, bands: NDArray[np.int64], valid: NDArray[np.bool_] | None, sample_unit: float
) -> NDArray[np.float32]:
    """About the mean of the coded bands [10⁻⁴ reflectance]; where there is fill, just their mean.

    Fill is then coded as this mean: were it far off, fill would outweigh what was measured.
    """
    if valid is not None:
        coded = samples if bands.size == samples.shape[0] else samples[bands]
        means = np.mean(coded, axis=(1, 2), where=valid, dtype=np.float64)
        return np.asarray(means * sample_unit, dtype=np.float32)
    thin = (slice(None), *(slice(None, None, 1 + edge // _GUESS_PX) for edge in samples.shape[1:]))
    zero = np.zeros(bands.size, dtype=np.float32)
    some = centered_samples(samples[thin], bands, zero, None, sample_unit)
    return some.mean(dim=1).numpy()


def _projected(
    samples: Samples,
    basis: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    bands: NDArray[np.int64],
    valid: NDArray[np.bool_] | None,
    sample_unit: float,
) -> NDArray[np.float32]:
    """What `coding_rotation` looks at, shape (blocks, k, rows, cols)."""
    places = sample_blocks(*samples.shape[1:])
    blocks = np.stack([samples[:, rows, cols] for rows, cols in places])
    found = np.empty((len(places), len(basis), *blocks.shape[2:]), dtype=np.float32)
    if valid is None:
        weights, off = (basis * sample_unit).astype(np.float32), mean / sample_unit
        projection = projection_of(weights, off.astype(np.float32), bands, blocks[0])
        for block, components in zip(blocks, found, strict=True):
            projection.project(block, components)
        return found
    rows_of, about = torch.from_numpy(basis.astype(np.float32)), mean.astype(np.float32)
    for block, place, components in zip(blocks, places, found, strict=True):
        centered = centered_samples(block, bands, about, valid[:, *place], sample_unit)
        components[...] = (rows_of @ centered).numpy().reshape(components.shape)
    return found


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
