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


def quantize(latents: NDArray[np.float32], step: float) -> NDArray[np.int32]:
    """Round latents to multiples of `step`; same shape, new."""
    magnitude = np.abs(latents)
    with np.errstate(over="ignore"):
        magnitude *= np.float32(1 / step)
    magnitude += np.float32(ROUNDING)
    # fmin, not minimum: garbage in (NaN, infinity) is a large symbol, never an undefined one.
    np.fmin(magnitude, SYMBOL_LIMIT, out=magnitude)
    return np.copysign(np.floor(magnitude, out=magnitude), latents).astype(np.int32)


def dequantize(symbols: NDArray[np.int32], step: float) -> NDArray[np.float32]:
    """Restore latents from symbols; same shape, new."""
    return symbols.astype(np.float32) * np.float32(step)
