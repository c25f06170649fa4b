"""How far a restored tile is from the one that went in.

Conventions, the same for every measure:

- samples are (bands, rows, cols) in the tile's own units [DN], computed in 64-bit floats;
- only samples marked valid count; a measure over no sample at all is NaN;
- `peak` is the sample value of reflectance 1.0 [DN], whatever range the samples really span.

A reported PSNR is taken per patch and then averaged over patches, never over a batch, whose size
would change it (as in the public evaluation code of HySpecNet-11k): measure patches, then average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileError
from codec.tile import Samples, Tile

SSIM_TAPS: Final = 11
SSIM_SIGMA_PX: Final = 1.5
SSIM_K1: Final = 0.01
SSIM_K2: Final = 0.03
"""Window and constants of Wang et al., IEEE TIP 13(4), 2004, section III-C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What `measure` found.

    Attributes:
        psnr_db: Peak signal-to-noise ratio, MAX = reflectance 1.0 [dB]; infinite if lossless.
        spectral_angle_deg: Mean angle between the spectra of a pixel before and after [degrees].
        ssim: Mean structural similarity of the bands, at most 1 [1].
        max_abs_error: Largest difference of a sample [DN].
        samples: Samples compared: valid before and after.
        samples_missing: Samples that were valid and came back as fill; no measure above sees them.
    """

    psnr_db: float
    spectral_angle_deg: float
    ssim: float
    max_abs_error: float
    samples: int
    samples_missing: int


def measure(reference: Tile, restored: Tile) -> Quality:
    """Compare a restored tile with its original.

    Args:
        reference: The tile that went in; its `reflectance_scale` is the peak.
        restored: What came back; samples of lost patches are fill and counted apart.

    Raises:
        TileError: If the two differ in shape.
    """
    if reference.samples.shape != restored.samples.shape:
        raise TileError(f"{reference.samples.shape} against {restored.samples.shape}")
    before, after = reference.samples, restored.samples
    expected = reference.valid()
    valid = expected & restored.valid()
    peak = reference.info.reflectance_scale
    samples = int(np.count_nonzero(valid))
    return Quality(
        psnr_db=psnr_db(before, after, valid, peak),
        spectral_angle_deg=spectral_angle_deg(before, after, valid),
        ssim=ssim(before, after, valid, peak),
        max_abs_error=max_abs_error(before, after, valid),
        samples=samples,
        samples_missing=int(np.count_nonzero(expected)) - samples,
    )


def psnr_db(reference: Samples, restored: Samples, valid: NDArray[np.bool_], peak: float) -> float:
    """Peak signal-to-noise ratio 10·log₁₀(peak² / mean squared error).

    Args:
        reference: Shape (bands, rows, cols) [DN].
        restored: Same shape [DN].
        valid: Same shape; True where a sample counts.
        peak: Sample value of reflectance 1.0 [DN].

    Returns:
        [dB]; infinite for identical samples, NaN if none is valid.
    """
    total, count = 0.0, 0
    for before, after, mask in zip(reference, restored, valid, strict=True):  # bands: less memory
        error = _differences(before, after, mask)
        total += float(error @ error)
        count += error.size
    if count == 0:
        return math.nan
    return 10 * math.log10(peak**2 * count / total) if total else math.inf


def max_abs_error(reference: Samples, restored: Samples, valid: NDArray[np.bool_]) -> float:
    """Largest absolute difference of a valid sample [DN]; NaN if none is valid.

    Args:
        reference: Shape (bands, rows, cols) [DN].
        restored: Same shape [DN].
        valid: Same shape; True where a sample counts.
    """
    worst = [
        float(np.abs(_differences(before, after, mask)).max())
        for before, after, mask in zip(reference, restored, valid, strict=True)
        if mask.any()
    ]
    return float(np.max(worst)) if worst else math.nan


def spectral_angle_deg(reference: Samples, restored: Samples, valid: NDArray[np.bool_]) -> float:
    """Mean over pixels of the angle between the two spectra.

    A pixel counts if one of its bands is valid; its spectrum is its valid bands. Two spectra of
    zeros are 0° apart, a spectrum of zeros and another 90°.

    Args:
        reference: Shape (bands, rows, cols) [DN].
        restored: Same shape [DN].
        valid: Same shape; True where a sample counts.

    Returns:
        [degrees], 0 to 180; NaN if no sample is valid.

    Source:
        Kruse et al., Remote Sensing of Environment 44, 1993. The cosine is clamped: rounding
        takes it past 1 for equal spectra.
    """
    product, before_2, after_2 = np.zeros((3, *reference.shape[1:]))
    for before, after, mask in zip(reference, restored, valid, strict=True):
        x, y = np.where(mask, before, 0).astype(float), np.where(mask, after, 0).astype(float)
        product += x * y
        before_2 += x * x
        after_2 += y * y
    norms = np.sqrt(before_2) * np.sqrt(after_2)
    cosine = np.where((before_2 == 0) & (after_2 == 0), 1.0, 0.0)
    np.divide(product, norms, out=cosine, where=norms != 0)
    pixels = valid.any(axis=0)
    if not pixels.any():
        return math.nan
    return float(np.degrees(np.arccos(np.clip(cosine[pixels], -1, 1))).mean())


def ssim(reference: Samples, restored: Samples, valid: NDArray[np.bool_], peak: float) -> float:
    """Structural similarity of each band's image, averaged over the bands.

    Only windows whose samples are all valid count; a band without one is left out. Along an edge
    shorter than the window, the window shrinks to the largest odd length that fits.

    Args:
        reference: Shape (bands, rows, cols) [DN].
        restored: Same shape [DN].
        valid: Same shape; True where a sample counts.
        peak: Sample value of reflectance 1.0 [DN].

    Returns:
        [1], at most 1; NaN if no window is valid.

    Source:
        Wang et al., IEEE Transactions on Image Processing 13(4), 2004, equation 13.
    """
    c1, c2 = (SSIM_K1 * peak) ** 2, (SSIM_K2 * peak) ** 2
    bands: list[float] = []
    for before, after, mask in zip(reference, restored, valid, strict=True):
        whole = _blur(mask.astype(float)) > 1 - 1e-9
        if not whole.any():
            continue
        x, y = np.where(mask, before, 0).astype(float), np.where(mask, after, 0).astype(float)
        mean_x, mean_y, xx, yy, xy = _blur(np.stack([x, y, x * x, y * y, x * y]))
        covariance = xy - mean_x * mean_y
        variances = (xx - mean_x**2) + (yy - mean_y**2)
        similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
        bands.append(float(similarity[whole].mean()))
    return float(np.mean(bands)) if bands else math.nan


def _differences(
    before: NDArray[Any], after: NDArray[Any], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Errors of one band's valid samples [DN], shape (valid samples,)."""
    return np.asarray(after[mask].astype(np.float64) - before[mask])


def _blur(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weigh the last two axes with the window, where it fits wholly; both get shorter."""
    for axis in (-2, -1):
        taps = min(SSIM_TAPS, (images.shape[axis] - 1) // 2 * 2 + 1)
        offsets = np.arange(taps) - taps // 2
        weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
        windows = np.lib.stride_tricks.sliding_window_view(images, taps, axis=axis)
        images = windows @ (weights / weights.sum())
    return images
