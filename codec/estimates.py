"""What a patch would come to at a step, without encoding it: a look at a part of it.

The shortcut carries nearly all of a patch, is linear and nearly orthonormal. So the latents of one
step give those of any other by scaling, the means of their magnitudes give the bits of a geometric
law, and their rounding errors, with what the components leave out, the error of the samples.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.context_mixing import RIDGE, TREND
from codec.errors import BundleError
from codec.jobs import PatchJob
from codec.network import SHORTCUTS
from codec.patch_grid import LATENT_PX
from codec.quantize import LEAST_MEAN, best_rounding, quantize
from codec.shortcut import CHANNELS, LEVELS
from codec.subbands import SUBBANDS, to_images

T = TypeVar("T", bound=np.generic)

BLOCK_PX: Final = 24
"""Edge of the four squares looked at in a patch: a seventh of its pixels [px]."""

FRAME_BYTES: Final = 34
"""Of a patch frame without mask or payload."""

_LEAST_MEAN: Final = 2.0**-40

_REACH: Final = max(max(map(abs, place)) for place in TREND)

_CONTEXTS_LEAVE: Final = 0.87
_CONTEXTS_ROUNDINGS: Final = 6
_CONTEXTS_LEAST_MEAN: Final = 1 / 1024
"""Beside the wavelet symbols have contexts and are rounded by what they cost at their turn, rare
ones later than any table says. Rounding again and again comes near that; then, the trend apart,
contexts leave 0.86 of the law's bytes (the geometric mean of 23 scenes, steps 24 to 768)."""


class PatchProbe:
    """A look at a patch of an opened tile.

    Components that the tile leaves out at its step stay left out of every estimate, so the tile
    should be opened near the steps that are asked about.

    Args:
        bundle: The model; a flight bundle is enough.
        patch: The patch.

    Raises:
        BundleError: If the model has no shortcut.
    """

    def __init__(self, bundle: Bundle, patch: PatchJob) -> None:
        shortcut, self._side = bundle.network.shortcut, patch.conditioning
        if shortcut == "none":
            raise BundleError(f"model {bundle.name} has no shortcut: no step can be estimated")
        self._scales = bundle.scales
        self._has_contexts = bundle.contexts is not None
        rows, cols = map(_pixels, patch.extent.shape)
        cut = partial(_cut, rows=rows, cols=cols)
        self._samples = cut(patch.samples)
        self._valid = None if patch.valid is None else cut(patch.valid)
        self._components = self._side.condition(self._samples, self._valid)
        # Each block is transformed for itself: no edge runs between them.
        count, (high, wide) = self._side.levels.size, (rows.shape[1], cols.shape[1])
        shape = count, rows.shape[0], high, cols.shape[0], wide
        blocks = self._components.reshape(shape).transpose(1, 3, 0, 2, 4)
        images = np.ascontiguousarray(blocks).reshape(len(rows) * len(cols), count, high, wide)
        found = SHORTCUTS[shortcut].forward(torch.from_numpy(images))
        self._latents: NDArray[np.float32] = found.transpose(0, 1).flatten(1).numpy()
        self._block = high, wide
        # Latents beyond a ragged edge are zero, and as many as latent positions have beyond pixels.
        self._looked_at = rows.size * cols.size
        pixels = patch.extent.shape[0] * patch.extent.shape[1]
        self._positions = float(self._latents.shape[1] * pixels / self._looked_at)

    @cached_property
    def left_out(self) -> float:
        """Mean squared error of a sample that no step takes away [10⁻⁸ reflectance²].

        What the components leave out, and the rounding of integer samples.
        """
        error = self._side.restore(self._components) - self._samples[self._side.bands]
        flat = (error if self._valid is None else error[self._valid]).ravel()
        rounding = 1 / 12 if np.issubdtype(self._samples.dtype, np.integer) else 0.0
        mean = float(np.vdot(flat, flat)) / float(max(1, flat.size))
        unit: float = self._side.sample_unit
        return (mean + rounding) * unit * unit

    def frame_bytes(self, step: float) -> float:
        """Bytes of the patch's frame at a step [10⁻⁴ reflectance]."""
        if not self._latents.size:
            return FRAME_BYTES
        means = self._scales.channel_means(self._symbols(step))
        if not self._has_contexts:
            bits = float(_bits(means).sum())
        else:
            foreseen = means.reshape(-1, CHANNELS) * self._unforeseen
            bits = _CONTEXTS_LEAVE * float(_bits(foreseen).sum())
        return FRAME_BYTES + bits * self._positions / 8

    @cached_property
    def _unforeseen(self) -> NDArray[np.float64]:
        """What is left of magnitudes once the subband's trend is known, shape (CHANNELS,).

        At the step the tile was opened at, one trend for all components.
        """
        left, (rows, cols) = np.ones(CHANNELS), self._block
        shape = -(-rows // LATENT_PX), -(-cols // LATENT_PX)
        blocks = self._symbols(self._side.component_unit).reshape(len(self._latents), -1, *shape)
        images = [to_images(blocks[:, i], rows, cols) for i in range(blocks.shape[1])]
        for number, band in enumerate(SUBBANDS):
            if band.level <= LEVELS:
                left[band.channels] = _magnitude_left([image[number] for image in images])
        return left

    def rounding_error(self, step: float) -> float:
        """Mean squared error of a sample that rounding at a step costs [10⁻⁸ reflectance²]."""
        if not self._latents.size:
            return 0.0
        error = self._latents * np.float32(self._side.component_unit)
        error -= self._symbols(step) * np.float32(step)
        # Both transforms are orthonormal, so no error gets lost. None falls on fill: it is flat.
        samples = float(self._looked_at * self._side.bands.size)
        if self._valid is not None:
            samples *= float(self._valid.mean())
        energy = float(np.vdot(error, error))
        return energy / max(1.0, samples)

    def _symbols(self, step: float) -> NDArray[np.int32]:
        """Round as the encoder does."""
        ratio = step / self._side.component_unit
        symbols = quantize(self._latents, ratio)
        least = _CONTEXTS_LEAST_MEAN if self._has_contexts else LEAST_MEAN
        for _ in range(_CONTEXTS_ROUNDINGS if self._has_contexts else 1):
            if not symbols.any():
                return symbols
            rounding = best_rounding(self._scales.channel_means(symbols), least)
            symbols = quantize(self._latents, ratio, rounding[:, None])
        return symbols


def _magnitude_left(images: list[NDArray[np.int32]]) -> float:
    """Magnitudes that the best trend leaves of a subband's, shape (components, h, w) each [1]."""
    symbols = np.concatenate(images).astype(np.float64)
    height, width = symbols.shape[1:]
    framed = np.pad(symbols, ((0, 0), (_REACH, 0), (_REACH, _REACH)))
    places = [(_REACH - up, _REACH - left) for up, left in TREND]
    near = np.stack([framed[:, y : y + height, x : x + width].ravel() for y, x in places])
    products, energy = near @ symbols.ravel(), float(np.vdot(symbols, symbols))
    weights = np.linalg.solve(near @ near.T + RIDGE * np.eye(len(TREND)), products)
    return math.sqrt(max(0.0, 1 - float(weights @ products) / max(1.0, energy)))


def _pixels(edge_px: int) -> NDArray[np.int64]:
    """Where to look along an edge: everywhere, or in the middle of each half.

    Returns:
        Positions, shape (blocks, pixels).
    """
    if edge_px <= 2 * BLOCK_PX:
        return np.arange(edge_px)[None]
    middles = np.array([edge_px // 4, 3 * edge_px // 4])
    return middles[:, None] + np.arange(BLOCK_PX) - BLOCK_PX // 2


def _cut(values: NDArray[T], *, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[T]:
    """Take some rows and columns of an array of shape (bands, rows, cols)."""
    return values[:, rows.ravel()][:, :, cols.ravel()]


def _bits(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of symbols of a mean magnitude under the two-sided geometric law [bits].

    P(k) ∝ θ^|k| has the mean magnitude 1/sinh(−ln θ).
    """
    decay = np.arcsinh(1 / np.maximum(mean, _LEAST_MEAN))
    share = np.exp(-decay)
    return np.asarray((np.log((1 + share) / (1 - share)) + mean * decay) / np.log(2))
