"""Spectra of one sensor brought to the bands of another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.tile import Tile
from training.hyspecnet import ALL_BANDS, USABLE

Floats = NDArray[np.float32]


def wavelengths_of(bands: int) -> NDArray[np.float64] | None:
    """EnMAP's band centers [nm], all 224 or HySpecNet-11k's 202; None of any other number."""
    centers = np.array(ENMAP_WAVELENGTHS_NM)
    return {ALL_BANDS: centers, USABLE.size: centers[USABLE]}.get(bands)


def spread(values: NDArray[Any], measured: Tile, bands: int) -> Floats:
    """Interpolate along the bands: by wavelength where both sides know theirs, else evenly.

    Args:
        values: Of the bands of `measured` that have any sample, shape (these, …).
        measured: The tile they are of.
        bands: How many are wanted.

    Returns:
        Shape (bands, …), float32.
    """
    present = measured.valid().any(axis=(1, 2))
    wanted = wavelengths_of(bands)
    if measured.info.wavelengths_nm and wanted is not None:
        centers = np.array(measured.info.wavelengths_nm)[present]
    else:
        centers, wanted = np.linspace(0, 1, len(values)), np.linspace(0, 1, bands)
    if len(values) == 1:
        return np.repeat(values.astype(np.float32), bands, axis=0)
    order = np.argsort(centers, kind="stable")
    centers, values = centers[order], values[order].astype(np.float32)
    above = np.clip(np.searchsorted(centers, wanted), 1, len(values) - 1)
    width = np.maximum(centers[above] - centers[above - 1], 1e-9)
    share = np.clip((wanted - centers[above - 1]) / width, 0, 1).astype(np.float32)
    share = share.reshape(-1, *(1 for _ in values.shape[1:]))
    return np.asarray(values[above - 1] * (1 - share) + values[above] * share, np.float32)
