"""Wavelet latents as the sixteen subband images they are.

Latents keep SSCNet's bottleneck shape, 64 channels per component at one eighth of the resolution;
a subband of level l ≤ 3 is spread over 4^(3−l) of them, and levels 4 and 5 share the plane of the
low band of level 3. Here they come together again, cut to the
coefficients there are: as many as the patch has pixels.

Source: dyadic decomposition, ISO/IEC 15444-1 annex B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.patch_grid import LATENT_PX
from codec.shortcut import CHANNELS, LEVELS, PLANE_LEVELS

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Subband:
    """One subband of every component.

    Attributes:
        level: Halvings of the resolution, 1 to 5.
        high_rows: Whether it holds vertical detail.
        high_cols: Whether it holds horizontal detail.
        first: First of its channels.
    """

    level: int
    high_rows: bool
    high_cols: bool
    first: int

    @property
    def split(self) -> int:
        """Coefficients per latent position along each axis."""
        return max(1, LATENT_PX >> self.level)

    @property
    def channels(self) -> slice:
        """Its channels among a component's 64."""
        return slice(self.first, self.first + self.split**2)

    def shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Coefficients of a patch of rows × cols pixels."""
        return self._count(rows, self.high_rows), self._count(cols, self.high_cols)

    def region(self, rows: int, cols: int) -> tuple[slice, slice]:
        """Where it lies in the plane of its channels, split coefficients to a position."""
        height, width = self.shape(rows, cols)
        if self.level <= LEVELS:  # deeper ones lie within the first channel's plane
            return slice(height), slice(width)
        spacing = 1 << self.level
        top = -(-rows // spacing) if self.high_rows else 0
        left = -(-cols // spacing) if self.high_cols else 0
        return slice(top, top + height), slice(left, left + width)

    def _count(self, pixels: int, high: bool) -> int:
        """Low-pass coefficients sit at 0, 2^l, …; high-pass ones half a spacing later."""
        spacing = 1 << self.level
        start = spacing // 2 if high else 0
        return max(0, -(-(pixels - start) // spacing))


SUBBANDS: Final = (
    Subband(LEVELS + PLANE_LEVELS, high_rows=False, high_cols=False, first=0),
    *(
        Subband(level, high_rows=rows, high_cols=cols, first=first + place * step)
        for level, first, step in ((5, 0, 0), (4, 0, 0), (3, 1, 1), (2, 4, 4), (1, 16, 16))
        for place, (rows, cols) in enumerate(((False, True), (True, False), (True, True)))
    ),
)
"""LL5, HL5, LH5, HH5, HL4, …, HH1: the order of coding, parents before children."""


def to_images(symbols: NDArray[T], rows: int, cols: int) -> list[NDArray[T]]:
    """Latents of shape (64·k, ⌈rows/8⌉, ⌈cols/8⌉) to one image (k, h, w) per subband."""
    latent_rows, latent_cols = symbols.shape[1:]
    channels = symbols.reshape(-1, CHANNELS, latent_rows, latent_cols)
    images = []
    for band in SUBBANDS:
        split = band.split
        part = channels[:, band.channels].reshape(-1, split, split, latent_rows, latent_cols)
        whole = part.transpose(0, 3, 1, 4, 2)
        whole = whole.reshape(-1, latent_rows * split, latent_cols * split)
        images.append(np.ascontiguousarray(whole[(slice(None), *band.region(rows, cols))]))
    return images


def to_symbols(images: list[NDArray[T]], rows: int, cols: int) -> NDArray[T]:
    """Inverse of `to_images`; coefficients beyond the patch are zero."""
    count, latent = images[0].shape[0], (-(-rows // LATENT_PX), -(-cols // LATENT_PX))
    symbols = np.zeros((count, CHANNELS, *latent), dtype=images[0].dtype)
    for band, image in zip(SUBBANDS, images, strict=True):
        split = band.split
        whole = np.zeros((count, latent[0] * split, latent[1] * split), dtype=image.dtype)
        whole[(slice(None), *band.region(rows, cols))] = image
        part = whole.reshape(count, latent[0], split, latent[1], split).transpose(0, 2, 4, 1, 3)
        symbols[:, band.channels] += part.reshape(count, split**2, *latent)
    return symbols.reshape(-1, *latent)
