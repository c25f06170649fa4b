"""The linear transform beside the network: per component, 64 channels at one eighth resolution.

Both transforms are orthonormal (the DCT exactly, the wavelet nearly), so one quantizer step serves
every channel, and both have SSCNet's bottleneck shape: three halvings of each axis. An untrained
codec that consists of the shortcut alone is a transform codec already; training adds to it.

Sources: wavelet, Cohen-Daubechies-Feauveau 9/7 by lifting, Daubechies & Sweldens, J. Fourier Anal.
Appl. 4(3), 1998, table 1 (also ISO/IEC 15444-1 annex F); edges by whole-sample symmetric extension.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.patch_grid import LATENT_PX
from codec.patching import pad

CHANNELS: Final = LATENT_PX * LATENT_PX
"""Channels each component becomes."""

_LEVELS: Final = 3
_PREDICT_UPDATE: Final = (
    -1.586134342059924,
    -0.052980118572961,
    0.882911075530934,
    0.443506852043971,
)
_GAIN: Final = 1.149604398860241
"""Scales low-pass to a gain of √2 at zero frequency: nearly orthonormal subbands."""


def _lift(target: Tensor, source: Tensor, weight: float, *, forward: bool) -> Tensor:
    """Add `weight` times the two nearest samples of `source` to each of `target`, last axis.

    `forward`: the neighbors of target[n] are source[n] and source[n+1] (odd samples); else
    source[n-1] and source[n] (even samples). Beyond the ends the signal is mirrored.
    """
    if forward:
        other = torch.cat((source[..., 1:], source[..., -1:]), dim=-1)
    else:
        other = torch.cat((source[..., :1], source[..., :-1]), dim=-1)
    return target + weight * (source + other)


def _analyze_axis(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Split the last axis (even length) into low and high halves."""
    even, odd = signal[..., 0::2], signal[..., 1::2]
    a, b, c, d = _PREDICT_UPDATE
    odd = _lift(odd, even, a, forward=True)
    even = _lift(even, odd, b, forward=False)
    odd = _lift(odd, even, c, forward=True)
    even = _lift(even, odd, d, forward=False)
    return even * _GAIN, odd / _GAIN


def _synthesize_axis(low: Tensor, high: Tensor) -> Tensor:
    """Inverse of `_analyze_axis`."""
    even, odd = low / _GAIN, high * _GAIN
    a, b, c, d = _PREDICT_UPDATE
    even = _lift(even, odd, -d, forward=False)
    odd = _lift(odd, even, -c, forward=True)
    even = _lift(even, odd, -b, forward=False)
    odd = _lift(odd, even, -a, forward=True)
    return torch.stack((even, odd), dim=-1).flatten(-2)


def _analyze_level(image: Tensor) -> tuple[Tensor, Tensor]:
    """One level: (..., r, c) to the low band (..., r/2, c/2) and details (..., 3, r/2, c/2)."""
    low, high = _analyze_axis(image)
    low, high = low.transpose(-1, -2), high.transpose(-1, -2)
    ll, lh = _analyze_axis(low)
    hl, hh = _analyze_axis(high)
    details = torch.stack((hl, lh, hh), dim=-3)
    return ll.transpose(-1, -2), details.transpose(-1, -2)


def _synthesize_level(ll: Tensor, details: Tensor) -> Tensor:
    hl, lh, hh = details.transpose(-1, -2).unbind(dim=-3)
    low = _synthesize_axis(ll.transpose(-1, -2), lh).transpose(-1, -2)
    high = _synthesize_axis(hl, hh).transpose(-1, -2)
    return _synthesize_axis(low, high)


def _unshuffle(images: Tensor, step: int) -> Tensor:
    """Move squares of step×step samples into axis 2: (n, k, d, r, c) to (n, k, d·s², r/s, c/s)."""
    n, k, details, rows, cols = images.shape
    squares = images.reshape(n, k, details, rows // step, step, cols // step, step)
    return squares.permute(0, 1, 2, 4, 6, 3, 5).flatten(2, 4)


def _shuffle(channels: Tensor, step: int) -> Tensor:
    """Inverse of `_unshuffle`."""
    n, k, count, rows, cols = channels.shape
    squares = channels.reshape(n, k, count // (step * step), step, step, rows, cols)
    images = squares.permute(0, 1, 2, 5, 3, 6, 4)
    return images.reshape(n, k, count // (step * step), rows * step, cols * step)


class Wavelet:
    """Three levels of CDF 9/7.

    Channels: LL3, HL3, LH3, HH3, then 4 of HL2, 4 of LH2, 4 of HH2, then 16 of each of level 1.
    """

    GROUPS: Final = (
        0,
        1,
        2,
        3,
        *(4,) * 4,
        *(5,) * 4,
        *(6,) * 4,
        *(7,) * 16,
        *(8,) * 16,
        *(9,) * 16,
    )
    """Subband of each of the 64 channels."""

    @staticmethod
    def extend(images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Extend images of shape (k, r, c) to whole latent positions, for nothing.

        The pixels added are those that make every coefficient beyond the edge zero: a patch has as
        many coefficients to code as it has pixels, where reflection has up to 7 more rows of them.
        """
        below, right = (_extension(edge) for edge in images.shape[1:])
        if below.size:
            images = np.concatenate((images, below @ images), axis=1)
        if right.size:
            images = np.concatenate((images, images @ right.T), axis=2)
        return images

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        """Transform images of shape (n, k, r, c) to (n, 64·k, r/8, c/8)."""
        low, channels = images, []
        for level in range(_LEVELS):
            low, details = _analyze_level(low)
            step = LATENT_PX >> (level + 1)
            channels.append(_unshuffle(details, step))
        channels.append(low.unsqueeze(2))
        return torch.cat(channels[::-1], dim=2).flatten(1, 2)

    @staticmethod
    def inverse(latents: Tensor) -> Tensor:
        """Transform latents of shape (n, 64·k, r/8, c/8) to (n, k, r, c)."""
        n, channels, rows, cols = latents.shape
        shape = (n, channels // CHANNELS, CHANNELS, rows, cols)
        parts = torch.split(latents.reshape(shape), [1, 3, 12, 48], dim=2)
        low = parts[0].squeeze(2)
        for level, part in zip(reversed(range(_LEVELS)), parts[1:], strict=True):
            step = LATENT_PX >> (level + 1)
            low = _synthesize_level(low, _shuffle(part, step))
        return low


@lru_cache(maxsize=64)
def _extension(length: int) -> NDArray[np.float32]:
    """Pixels after `length` as weights of those before, shape (−length mod 8, length).

    A coefficient lies beyond the edge if its center does; there are as many as there are pixels to
    choose, and the equations that set them to zero are well conditioned (at most 5).
    """
    whole = length + -length % LATENT_PX
    low, rows, centers = torch.eye(whole, dtype=torch.float64), [], []
    for level in range(_LEVELS):
        low, high = _analyze_axis(low)
        rows.append(high.T)
        centers.append((2 * np.arange(high.shape[1]) + 1) << level)
    beyond = torch.cat(rows).numpy()[np.concatenate(centers) >= length]
    weights = -np.linalg.solve(beyond[:, length:], beyond[:, :length])
    return weights.astype(np.float32)


def _dct_matrix() -> Tensor:
    """Orthonormal DCT-II of eight samples, rows are frequencies."""
    n = torch.arange(LATENT_PX, dtype=torch.float64)
    basis = torch.cos(math.pi / LATENT_PX * (n + 0.5) * n[:, None]) * math.sqrt(2 / LATENT_PX)
    basis[0] /= math.sqrt(2)
    return basis.float()


class Dct:
    """8×8 DCT; channel 8·v + u holds vertical frequency v and horizontal frequency u."""

    GROUPS: Final = tuple(max(u, v) for v in range(LATENT_PX) for u in range(LATENT_PX))
    """Frequency shell of each of the 64 channels."""

    extend = staticmethod(pad)

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        """Transform images of shape (n, k, r, c) to (n, 64·k, r/8, c/8)."""
        n, k, rows, cols = images.shape
        basis = _dct_matrix().to(images)
        blocks = images.reshape(n, k, rows // LATENT_PX, LATENT_PX, cols // LATENT_PX, LATENT_PX)
        return torch.einsum("vr,uc,nkirjc->nkvuij", basis, basis, blocks).flatten(1, 3)

    @staticmethod
    def inverse(latents: Tensor) -> Tensor:
        """Transform latents of shape (n, 64·k, r/8, c/8) to (n, k, r, c)."""
        n, channels, rows, cols = latents.shape
        basis = _dct_matrix().to(latents)
        k = channels // CHANNELS
        blocks = latents.reshape(n, k, LATENT_PX, LATENT_PX, rows, cols)
        images = torch.einsum("vr,uc,nkvuij->nkirjc", basis, basis, blocks)
        return images.reshape(n, k, rows * LATENT_PX, cols * LATENT_PX)
