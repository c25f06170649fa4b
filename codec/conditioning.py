"""Samples ↔ what the network sees.

Min–max is the paper's: samples scaled to [0, 1] by constants of the bundle. A KLT adapts to each
tile: the mean spectrum and the leading eigenvectors of the tile's covariance travel as side
information (`codec.klt` fits them, `codec.klt_side` says how they travel), and the network sees
components in units of the quantizer step. Adapting the spectral transform to the scene frees
everything behind it from the sensor's bands and units.

Samples are brought to units of 10⁻⁴ reflectance first, so that a step means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from codec.contexts import LEVELS_PER_OCTAVE
from codec.errors import BundleError, TileError
from codec.projection import Projection, projection_of
from codec.threads import Each
from codec.tile import Samples

UNITS_PER_REFLECTANCE: Final = 10_000.0
"""Conditioned samples are in units of 10⁻⁴ reflectance, EnMAP's and AVIRIS's DN."""


_SCALED_PX: Final = 2048
"""Pixels scaled at a time."""
_PART_ROWS: Final = 16
"""Rows of a patch that are conditioned at a time, by whoever is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionerSpec:
    """How a bundle conditions tiles.

    Attributes:
        kind: "klt" or "minmax".
        components: Most KLT components sent; for minmax the bands the network takes.
        low: Reflectance that becomes 0 (minmax only).
        high: Reflectance that becomes 1 (minmax only).
        clip: Whether samples outside [low, high] are clipped (minmax only).
    """

    kind: Literal["klt", "minmax"]
    components: int
    low: float = 0.0
    high: float = 1.0
    clip: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("klt", "minmax") or self.components <= 0:
            raise BundleError(f"conditioner {self.kind!r} of {self.components} components")
        if not self.low < self.high:
            raise BundleError(f"minmax range [{self.low}, {self.high}] is empty")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioning:
    """One tile's way between samples and components; both ends hold the same.

    Attributes:
        bands: Bands that are coded, as positions in the tile, shape (coded,).
        basis: Orthonormal columns, shape (coded, components), float32.
        mean: Mean of each coded band [10⁻⁴ reflectance], shape (coded,), float32.
        levels: log₂(σ/step) of each component [1/8 octave], shape (components,), int32.
        sample_unit: 10⁻⁴ reflectance per sample unit.
        component_unit: 10⁻⁴ reflectance per unit of what the network sees.
        latent_step: Quantizer step in the network's units.
    """

    bands: NDArray[np.int64]
    basis: NDArray[np.float32] | None
    mean: NDArray[np.float32]
    levels: NDArray[np.int32]
    sample_unit: float
    component_unit: float
    latent_step: float
    clip: bool = False

    def condition(
        self,
        samples: Samples,
        valid: NDArray[np.bool_] | None,
        each: Each = map,
    ) -> NDArray[np.float32]:
        """Project a patch.

        Args:
            samples: Shape (bands, rows, cols), in the tile's units.
            valid: Shape (coded, rows, cols), or None where all coded samples are valid; what
                invalid samples become, see `centered_samples`.
            each: Goes over parts of a patch without gaps; threads may.

        Returns:
            What the network sees, shape (components, rows, cols), new.
        """
        shape = samples.shape[1:]
        if valid is None:
            count = samples.shape[0] if self.basis is None else self.levels.size
            components = np.empty((count, *shape), dtype=np.float32)
            do = (
                self._scale if self.basis is None else self._projection(self.basis, samples).project
            )
            parts = [slice(start, start + _PART_ROWS) for start in range(0, shape[0], _PART_ROWS)]
            for _ in each(lambda part: do(samples[:, part], components[:, part]), parts):
                pass
            return components
        centered = centered_samples(samples, self.bands, self.mean, valid, self.sample_unit)
        scale = np.float32(1 / self.component_unit)
        if self.basis is None:
            components = np.zeros((samples.shape[0], *shape), dtype=np.float32)
            scaled = centered.numpy().reshape(self.bands.size, *shape) * scale
            components[self.bands] = np.clip(scaled, 0, 1) if self.clip else scaled
            return components
        projected = torch.from_numpy(self.basis.T * scale) @ centered
        return projected.numpy().reshape(self.levels.size, *shape)

    def _scale(self, samples: Samples, scaled: NDArray[np.float32]) -> None:
        """Scale a patch without gaps, some rows at a time: they stay in the cache."""
        bands, rows, cols = samples.shape
        offset = np.zeros((bands, 1, 1), dtype=np.float32)
        offset[self.bands, 0, 0] = self.mean / np.float32(self.component_unit)
        scale = np.float32(self.sample_unit / self.component_unit)
        has_offset, high = offset.any(), max(1, _SCALED_PX // cols)
        for start in range(0, rows, high):
            now = scaled[:, start : start + high]
            np.copyto(now, samples[:, start : start + high])
            now *= scale
            if has_offset:
                now -= offset
            if self.clip:
                np.clip(now, 0, 1, out=now)
        scaled[np.delete(np.arange(bands), self.bands)] = 0

    def _projection(self, basis: NDArray[np.float32], samples: Samples) -> Projection:
        unit = np.float32(self.sample_unit)
        weights = basis.T * (unit / np.float32(self.component_unit))
        strongest = 2.0 ** (self.levels.max(initial=0) / LEVELS_PER_OCTAVE)
        return projection_of(weights, self.mean / unit, self.bands, samples, strongest)

    def restore(self, components: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return samples of the coded bands in the tile's units, shape (coded, rows, cols)."""
        if self.basis is None:
            components = components[self.bands]
        count, rows, cols = components.shape
        flat = torch.from_numpy(components.reshape(count, rows * cols))
        if self.basis is not None:
            flat = torch.from_numpy(self.basis * np.float32(self.component_unit)) @ flat
        else:
            flat = flat * self.component_unit
        flat.add_(torch.from_numpy(self.mean)[:, None]).div_(self.sample_unit)
        return flat.numpy().reshape(self.bands.size, rows, cols)


def centered_samples(
    samples: Samples,
    bands: NDArray[np.int64],
    mean: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    sample_unit: float,
) -> torch.Tensor:
    """Coded samples minus the mean [10⁻⁴ reflectance], shape (coded, rows·cols).

    An invalid sample becomes the mean of the valid ones beside it, 0 where there is none: thin gaps
    vanish, and wide ones cost no more than their edge. With 0 everywhere one dead detector in a
    hundred cost a fifth more bytes; with wide gaps interpolated a half-empty tile cost a third.
    """
    chosen = samples if bands.size == samples.shape[0] else samples[bands]
    flat = chosen.reshape(bands.size, samples.shape[1] * samples.shape[2]).astype(np.float32)
    with np.errstate(over="ignore"):  # garbage in a float tile; `fit_klt` refuses it
        if sample_unit != 1:
            flat *= np.float32(sample_unit)
        flat -= mean[:, None]
    if valid is not None:
        flat[~valid.reshape(flat.shape)] = 0
        _bridge_gaps(flat.reshape(valid.shape), valid)
    return torch.from_numpy(flat)


def _bridge_gaps(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Fill invalid samples, which are 0, with the mean of the valid ones beside them, in place.

    Args:
        values: Shape (bands, rows, cols).
        valid: Same shape.
    """
    _, height, width = valid.shape
    # Gaps of whole pixels, the common kind, are sought in one band for all.
    whole = bool((valid == valid[:1]).all())
    band, row, col = np.nonzero(~(valid[:1] if whole else valid))
    # Beyond an edge a gap is its own neighbor: invalid and 0, it adds nothing.
    beside = [
        (np.clip(row + down, 0, height - 1), np.clip(col + right, 0, width - 1))
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1))
    ]
    counts = np.stack([valid[band, r, c] for r, c in beside]).sum(axis=0, dtype=np.float32)
    near = np.flatnonzero(counts)
    bands = slice(None) if whole else band[near]
    sums = np.stack([values[bands, r[near], c[near]] for r, c in beside]).sum(axis=0)
    values[bands, row[near], col[near]] = sums / counts[near]


def fit_minmax(
    spec: ConditionerSpec, valid_bands: NDArray[np.bool_], sample_unit: float, step: float
) -> Conditioning:
    """Condition as the paper does; there is no side information.

    Args:
        spec: The bundle's constants.
        valid_bands: Bands with any valid sample, shape (bands,); the network has a channel for
            every band and sees 0 in the others.
        sample_unit: 10⁻⁴ reflectance per sample unit.
        step: Quantizer step of the latents [1].

    Raises:
        TileError: If the network takes another number of bands.
    """
    if valid_bands.size != spec.components:
        raise TileError(f"the model takes {spec.components} bands, the tile has {valid_bands.size}")
    bands = np.flatnonzero(valid_bands)
    return Conditioning(
        bands=bands,
        basis=None,
        mean=np.full(bands.size, spec.low * UNITS_PER_REFLECTANCE, dtype=np.float32),
        levels=np.zeros(1, dtype=np.int32),
        sample_unit=sample_unit,
        component_unit=(spec.high - spec.low) * UNITS_PER_REFLECTANCE,
        latent_step=step,
        clip=spec.clip,
    )
