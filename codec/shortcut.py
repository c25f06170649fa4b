"""The linear transform beside the network: per component, 64 channels at one eighth resolution.

Both transforms are orthonormal (the DCT exactly, the wavelet nearly), so one quantizer step serves
every channel, and both have SSCNet's bottleneck shape: three halvings of each axis. An untrained
codec that consists of the shortcut alone is a transform codec already; training adds to it.

Sources: wavelet, Cohen-Daubechies-Feauveau 9/7 by lifting, Daubechies & Sweldens, J. Fourier Anal.
Appl. 4(3), 1998, table 1 (also ISO/IEC 15444-1 annex F); edges by whole-sample symmetric extension.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codec.patch_grid import LATENT_PX

CHANNELS: Final = LATENT_PX * LATENT_PX
"""Channels each component becomes."""

LEVELS: Final = 3
PLANE_LEVELS: Final = 2
"""Levels within the plane of the last low band: by entropies 0.1 to 1.6 % fewer bytes on land, on
open water 4 to 26 %."""
PREDICT_UPDATE: Final = (
    -1.586134342059924,
    -0.052980118572961,
    0.882911075530934,
    0.443506852043971,
)
GAIN: Final = 1.149604398860241
"""Scales low-pass to a gain of √2 at zero frequency: nearly orthonormal subbands."""


def _lift_odd(odd: Tensor, even: Tensor, weight: float) -> Tensor:
    """Add to each odd sample `weight` times the even ones beside it, last axis."""
    following = even[..., 1:]
    if even.shape[-1] == odd.shape[-1]:  # an even length: beyond the end the signal is mirrored
        following = torch.cat((following, even[..., -1:]), dim=-1)
    return odd + weight * (even[..., : odd.shape[-1]] + following)


def _lift_even(even: Tensor, odd: Tensor, weight: float) -> Tensor:
    """Add to each even sample `weight` times the odd ones beside it, last axis."""
    before = torch.cat((odd[..., :1], odd), dim=-1)[..., : even.shape[-1]]
    if even.shape[-1] > odd.shape[-1]:
        odd = torch.cat((odd, odd[..., -1:]), dim=-1)
    return even + weight * (before + odd)


def _analyze_axis(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Split the last axis, of any length, into its low and high half; a single sample is low."""
    even, odd = signal[..., 0::2], signal[..., 1::2]
    if not odd.shape[-1]:
        return even, odd
    a, b, c, d = PREDICT_UPDATE
    odd = _lift_odd(odd, even, a)
    even = _lift_even(even, odd, b)
    odd = _lift_odd(odd, even, c)
    even = _lift_even(even, odd, d)
    return even * GAIN, odd / GAIN


def _synthesize_axis(low: Tensor, high: Tensor) -> Tensor:
    """Inverse of `_analyze_axis`."""
    if not high.shape[-1]:
        return low
    even, odd = low / GAIN, high * GAIN
    a, b, c, d = PREDICT_UPDATE
    even = _lift_even(even, odd, -d)
    odd = _lift_odd(odd, even, -c)
    even = _lift_even(even, odd, -b)
    odd = _lift_odd(odd, even, -a)
    shorter = even.shape[-1] - odd.shape[-1]
    both = torch.stack((even, functional.pad(odd, (0, shorter))), dim=-1).flatten(-2)
    return both[..., : both.shape[-1] - shorter]


Details = tuple[Tensor, Tensor, Tensor]
"""HL, LH and HH: detail along rows of pixels, across them, both."""


def _analyze_level(image: Tensor) -> tuple[Tensor, Details]:
    """One level: (..., r, c) to the low band (..., ⌈r/2⌉, ⌈c/2⌉) and details, ⌊⌋ where high."""
    low, high = _analyze_axis(image)
    ll, lh = _analyze_axis(low.mT)
    hl, hh = _analyze_axis(high.mT)
    return ll.mT, (hl.mT, lh.mT, hh.mT)


def _synthesize_level(ll: Tensor, details: Details) -> Tensor:
    hl, lh, hh = details
    low = _synthesize_axis(ll.mT, lh.mT).mT
    high = _synthesize_axis(hl.mT, hh.mT).mT
    return _synthesize_axis(low, high)


def _pyramid(image: Tensor, levels: int) -> Tensor:
    """Further levels of a low band, side by side in its place: LL, HL; LH, HH."""
    if not levels:
        return image
    ll, (hl, lh, hh) = _analyze_level(image)
    upper = torch.cat((_pyramid(ll, levels - 1), hl), dim=-1)
    return torch.cat((upper, torch.cat((lh, hh), dim=-1)), dim=-2)


def _flattened(pyramid: Tensor, levels: int) -> Tensor:
    """Inverse of `_pyramid`."""
    if not levels:
        return pyramid
    rows, cols = (-(-edge // 2) for edge in pyramid.shape[-2:])
    upper, lower = pyramid[..., :rows, :], pyramid[..., rows:, :]
    details = upper[..., cols:], lower[..., :cols], lower[..., cols:]
    return _synthesize_level(_flattened(upper[..., :cols], levels - 1), details)


def _spread(image: Tensor, step: int, rows: int, cols: int) -> Tensor:
    """Move squares of step×step into channels: (n, k, ≤r·s, ≤c·s) to (n, k, s², r, c)."""
    n, k, height, width = image.shape
    whole = functional.pad(image, (0, cols * step - width, 0, rows * step - height))
    squares = whole.reshape(n, k, rows, step, cols, step)
    return squares.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


def _gathered(channels: Tensor, step: int, height: int, width: int) -> Tensor:
    """Inverse of `_spread`."""
    n, k, _, rows, cols = channels.shape
    squares = channels.reshape(n, k, step, step, rows, cols).permute(0, 1, 4, 2, 5, 3)
    return squares.reshape(n, k, rows * step, cols * step)[..., :height, :width]


def mirrored(images: Tensor) -> Tensor:
    """Extend the last two axes to whole latent positions by reflection at the far edges.

    The edge pixel is repeated, so that even a single pixel has a reflection.
    """
    for axis in (-2, -1):
        length = images.shape[axis]
        if beyond := -length % LATENT_PX:
            order = np.pad(np.arange(length), (0, beyond), "symmetric")
            images = images.index_select(axis, torch.from_numpy(order).to(images.device))
    return images


class Wavelet:
    """Three levels of CDF 9/7, and two more within the plane of LL3.

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
    def forward(images: Tensor) -> Tensor:
        """Transform images of shape (n, k, r, c) to (n, 64·k, ⌈r/8⌉, ⌈c/8⌉).

        There are as many coefficients as pixels; what a channel has beyond them is zero.
        """
        rows, cols = (-(-edge // LATENT_PX) for edge in images.shape[-2:])
        low, channels = images, []
        for level in range(LEVELS):
            low, details = _analyze_level(low)
            step = LATENT_PX >> (level + 1)
            channels.append(torch.cat([_spread(d, step, rows, cols) for d in details], dim=2))
        channels.append(_pyramid(low, PLANE_LEVELS).unsqueeze(2))
        return torch.cat(channels[::-1], dim=2).flatten(1, 2)

    @staticmethod
    def inverse(latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Transform latents of shape (n, 64·k, r/8, c/8) to (n, k, r, c).

        Args:
            latents: What `forward` returns.
            size: (r, c); multiples of eight if None.
        """
        n, channels, rows, cols = latents.shape
        height, width = size or (rows * LATENT_PX, cols * LATENT_PX)
        shape = (n, channels // CHANNELS, CHANNELS, rows, cols)
        parts = torch.split(latents.reshape(shape), [1, 3, 12, 48], dim=2)
        low = _flattened(parts[0].squeeze(2), PLANE_LEVELS)
        for level, part in zip(reversed(range(LEVELS)), parts[1:], strict=True):
            step = LATENT_PX >> (level + 1)
            r, c = (-(-edge >> level) for edge in (height, width))  # of the image to restore
            hl, lh, hh = torch.split(part, step * step, dim=2)
            low = _synthesize_level(
                low,
                (
                    _gathered(hl, step, -(-r // 2), c // 2),
                    _gathered(lh, step, r // 2, -(-c // 2)),
                    _gathered(hh, step, r // 2, c // 2),
                ),
            )
        return low


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

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        """Transform images of shape (n, k, r, c) to (n, 64·k, ⌈r/8⌉, ⌈c/8⌉)."""
        images = mirrored(images)
        n, k, rows, cols = images.shape
        basis = _dct_matrix().to(images)
        blocks = images.reshape(n, k, rows // LATENT_PX, LATENT_PX, cols // LATENT_PX, LATENT_PX)
        return torch.einsum("vr,uc,nkirjc->nkvuij", basis, basis, blocks).flatten(1, 3)

    @staticmethod
    def inverse(latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Transform latents of shape (n, 64·k, r/8, c/8) to (n, k, r, c); as of `Wavelet`."""
        n, channels, rows, cols = latents.shape
        basis = _dct_matrix().to(latents)
        k = channels // CHANNELS
        blocks = latents.reshape(n, k, LATENT_PX, LATENT_PX, rows, cols)
        images = torch.einsum("vr,uc,nkvuij->nkirjc", basis, basis, blocks)
        height, width = size or (rows * LATENT_PX, cols * LATENT_PX)
        return images.reshape(n, k, rows * LATENT_PX, cols * LATENT_PX)[..., :height, :width]
