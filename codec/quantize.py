"""Latents ↔ integers under a step. Rounding and range are stated here and nowhere else."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDING: Final = 0.42
"""A magnitude m·step becomes ⌊m + 0.42⌋: values in doubt go towards zero, where they are cheap.

For Laplacian latents this costs less distortion than it saves rate; 0.5 would be plain rounding.
Each bin's centroid then lies within 0.03 steps of its integer, so restoring needs no offset.
"""

SYMBOL_LIMIT: Final = 2**24
"""Largest magnitude of a symbol: float32 still holds every integer up to here exactly."""

LEAST_MEAN: Final = 1 / 64
"""Below it symbols cost no more: the narrowest table codes them."""


def best_rounding(
    mean_magnitude: NDArray[np.float64], least_mean: float = LEAST_MEAN
) -> NDArray[np.float32]:
    """Rounding offset that is best in rate and distortion together, in place of `ROUNDING`.

    Where symbols of mean magnitude m follow a two-sided geometric law, one unit more of magnitude
    costs asinh(1/m)/ln 2 bits; at the slope of a uniform quantizer a bit is worth ln 2/6 squared
    steps (distortion step²/12 falls by four per bit). So a magnitude k + x is worth k + 1 from
    x = ½ + asinh(1/m)/12 on: 0.57 at m = 1, 0.88 in a subband that is all but empty. Against a
    fixed 0.42 this took 2.0–2.6 % off the bytes of three land scenes at equal PSNR, 13 % off those
    of open water. Only the encoder asks.

    Args:
        mean_magnitude: Of symbols rounded with `ROUNDING`, any shape.
        least_mean: Below it symbols cost no more.

    Source: rate–distortion-optimized quantization, Ramchandran & Vetterli, IEEE TIP 3(5), 1994.
    """
    offset = 0.5 - np.arcsinh(1 / np.maximum(mean_magnitude, least_mean)) / 12
    return np.asarray(np.maximum(offset, 0), dtype=np.float32)


def quantize(
    latents: NDArray[np.float32], step: float, rounding: NDArray[np.float32] | float = ROUNDING
) -> NDArray[np.int32]:
    """Round latents to multiples of `step`; same shape, new.

    Args:
        latents: Any shape.
        step: Quantizer step.
        rounding: What is added to a magnitude before its fraction is cut off, broadcast.
    """
    magnitude = np.abs(latents)
    with np.errstate(over="ignore"):
        magnitude *= np.float32(1 / step)
    magnitude += np.float32(rounding)
    # fmin, not minimum: garbage in (NaN, infinity) is a large symbol, never an undefined one.
    np.fmin(magnitude, SYMBOL_LIMIT, out=magnitude)
    return np.copysign(np.floor(magnitude, out=magnitude), latents).astype(np.int32)


def dequantize(symbols: NDArray[np.int32], step: float) -> NDArray[np.float32]:
    """Restore latents from symbols; same shape, new."""
    return symbols.astype(np.float32) * np.float32(step)


def rounding_errors(
    latents: NDArray[np.float32], symbols: NDArray[np.int32], step: float
) -> NDArray[np.int32]:
    """What latents exceed their symbols by [1/256 step], within ±256; same shape, new."""
    errors = latents * np.float32(256 / step)
    errors -= symbols * np.float32(256)
    # fmax and fmin, not clip: garbage in (NaN) is no error, never an undefined one.
    return np.asarray(np.fmax(np.fmin(np.rint(errors), 256), -256), dtype=np.int32)
