"""Fake cubes: smooth spectra of a few materials in soft patches, with noise at a stated level.

Never pure noise, which no codec can compress and no test can learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.tile import Tile, TileInfo


def spectra(
    materials: int, bands: int, rng: np.random.Generator, *, mean_dn: float = 2000.0
) -> NDArray[np.float64]:
    """Smooth spectra [DN], shape (materials, bands): a level, a slope and three broad features."""
    position = np.linspace(0, 1, bands)
    level = rng.uniform(0.3, 1.7, (materials, 1))
    slope = rng.uniform(-0.5, 0.5, (materials, 1)) * (position - 0.5)
    centers, depths = rng.random((2, materials, 3, 1))
    features = (0.3 * (depths - 0.5) * np.exp(-(((position - centers) / 0.15) ** 2))).sum(axis=1)
    return np.asarray(mean_dn * (level + slope + features), dtype=np.float64)


def abundances(
    materials: int, rows: int, cols: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How much of each material a pixel holds, shape (materials, rows, cols), sum 1."""
    row, col = np.mgrid[0:rows, 0:cols] / 16.0
    waves = rng.uniform(0.2, 1.5, (materials, 2, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (materials, 1, 1))
    likelihood = np.exp(2 * np.sin(waves[:, 0] * row + waves[:, 1] * col + phase))
    return np.asarray(likelihood / likelihood.sum(axis=0), dtype=np.float64)


def tile(
    *,
    bands: int = 10,
    rows: int = 24,
    cols: int = 24,
    dtype: str = "int16",
    seed: int = 0,
    materials: int = 4,
    mean_dn: float = 2000.0,
    noise_dn: float = 8.0,
    nodata: float | None = None,
    fill_pixels: float = 0.0,
    fill_samples: float = 0.0,
    fill_bands: Sequence[int] = (),
    **info: Any,
) -> Tile:
    """Make a tile.

    Args:
        bands: Bands.
        rows: Height [px].
        cols: Width [px].
        dtype: Sample type.
        seed: The same seed, the same tile.
        materials: Spectra that are mixed.
        mean_dn: About the mean of all samples [DN].
        noise_dn: Standard deviation of white noise [DN].
        nodata: Fill value; None fills floats with NaN, and integers cannot be filled.
        fill_pixels: Share of the columns, from the left, that hold fill in all bands.
        fill_samples: Share of single samples, anywhere, that hold fill.
        fill_bands: Bands that hold nothing but fill.
        info: Further fields of `TileInfo`.
    """
    rng = np.random.default_rng(seed)
    mixed = np.tensordot(
        spectra(materials, bands, rng, mean_dn=mean_dn),
        abundances(materials, rows, cols, rng),
        axes=(0, 0),
    )
    noisy = mixed + rng.normal(0, noise_dn, mixed.shape)
    if dtype == "float32":
        samples = noisy.astype(np.float32)
    else:
        limits = np.iinfo(dtype)
        samples = np.clip(np.rint(noisy), limits.min + 1, limits.max - 1).astype(dtype)
    missing = rng.random(samples.shape) < fill_samples
    missing[:, :, : round(fill_pixels * cols)] = True
    missing[list(fill_bands)] = True
    if missing.any():
        samples[missing] = np.nan if nodata is None else nodata
    return Tile(samples=samples, info=TileInfo(nodata=nodata, **info))
