"""A tile in a device's memory: its coded samples, what its KLT is fitted to, and its components.

The same as in `codec.conditioning` and `codec.klt`, in PyTorch's operations; what depends on the
order of sums differs in its last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from codec.coding_gain import sample_blocks
from codec.conditioning import Conditioning
from codec.shortcut import Wavelet

_BLOCK_PX: Final = 65_536
"""Pixels converted to float32 at a time: 59 MB at 224 bands."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSamples:
    """Samples of some pixels, as they were uploaded.

    Attributes:
        raw: Shape (bands, rows, cols).
        unsigned: Whether its int16 are the bits of uint16.
        bands: Positions of the coded bands.
        valid: Shape (coded, rows, cols); None if all are.
        sample_unit: 10⁻⁴ reflectance per sample unit.
    """

    raw: Tensor
    unsigned: bool
    bands: Tensor
    valid: Tensor | None
    sample_unit: float

    def part(self, rows: slice, cols: slice = slice(None)) -> DeviceSamples:
        """Some of the pixels."""
        valid = None if self.valid is None else self.valid[:, rows, cols]
        return DeviceSamples(
            self.raw[:, rows, cols], self.unsigned, self.bands, valid, self.sample_unit
        )

    def coded(self) -> Tensor:
        """The coded bands [10⁻⁴ reflectance], invalid samples 0; float32, new."""
        chosen = self.raw.index_select(0, self.bands)
        if self.unsigned:
            chosen = chosen.int() & 0xFFFF
        values = chosen.float()
        if self.sample_unit != 1:
            values *= self.sample_unit
        return values if self.valid is None else torch.where(self.valid, values, 0)

    def centered(self, mean: Tensor) -> Tensor:
        """The coded bands minus the mean, gaps filled, as `centered_samples` has them.

        Shape (coded, rows, cols), float32, new.
        """
        values = self.coded() - mean[:, None, None]
        if self.valid is None:
            return values
        values = torch.where(self.valid, values, 0)
        near = _sum_beside(self.valid.float()).clamp(min=1)
        return torch.where(self.valid, values, _sum_beside(values) / near)


def _sum_beside(values: Tensor) -> Tensor:
    """Sum of the four neighbors of each pixel; beyond an edge there is nothing."""
    framed = functional.pad(values, (1, 1, 1, 1))
    up, down = framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]
    left, right = framed[:, 1:-1, :-2], framed[:, 1:-1, 2:]
    return up + down + left + right


class DeviceTile:
    """What a KLT is fitted to, see `codec.klt.TileSource`: every pixel counts, at any effort."""

    def __init__(self, samples: DeviceSamples) -> None:
        self._samples = samples
        _, rows, cols = samples.raw.shape
        self.shape, self.device = (samples.bands.numel(), rows, cols), samples.raw.device

    def guessed_mean(self) -> NDArray[np.float32]:
        """See `TileSource`: the mean itself."""
        sums = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
        for part in self._parts():
            sums += part.coded().sum(dim=(1, 2), dtype=torch.float64)
        valid = self._samples.valid
        counts = self.shape[1] * self.shape[2] if valid is None else valid.sum(dim=(1, 2))
        mean: NDArray[np.float32] = (sums / counts).float().cpu().numpy()
        return mean

    def blocks(self, mean: NDArray[np.float32]) -> Iterator[Tensor]:
        """See `TileSource`."""
        offset = torch.from_numpy(mean).to(self.device)
        for part in self._parts():
            yield part.centered(offset).flatten(1)

    def sampled(self, basis: NDArray[np.float64], mean: NDArray[np.float64]) -> Tensor:
        """See `TileSource`."""
        weights, offset = (torch.from_numpy(x).float().to(self.device) for x in (basis, mean))
        places = sample_blocks(*self.shape[1:])
        blocks = torch.stack([self._samples.part(*place).centered(offset) for place in places])
        return torch.einsum("kb,nbrc->nkrc", weights, blocks)

    def wavelet(self, images: Tensor) -> Tensor:
        """See `TileSource`."""
        return Wavelet.forward(images[None])[0]

    def _parts(self) -> Iterator[DeviceSamples]:
        rows = max(1, _BLOCK_PX // self.shape[2])
        for start in range(0, self.shape[1], rows):
            yield self._samples.part(slice(start, start + rows))


class DeviceConditioning:
    """A tile's way from samples to components, in a device's memory.

    Args:
        way: In the host's.
        device: Which.
    """

    def __init__(self, way: Conditioning, device: torch.device) -> None:
        self.way = way
        scale = np.float32(1 / way.component_unit)
        self.bands = torch.from_numpy(way.bands).to(device)
        self._mean = torch.from_numpy(way.mean).to(device)
        self._scale = float(scale)
        basis = None if way.basis is None else torch.from_numpy(way.basis.T * scale)
        self._basis = None if basis is None else basis.to(device)

    def components(self, samples: DeviceSamples) -> Tensor:
        """What the network sees, shape (components, rows, cols), float32, new."""
        centered = samples.centered(self._mean)
        if self._basis is not None:
            return (self._basis @ centered.flatten(1)).reshape(-1, *centered.shape[1:])
        scaled = centered * self._scale
        seen = scaled.new_zeros(samples.raw.shape)
        return seen.index_copy_(0, self.bands, scaled.clamp(0, 1) if self.way.clip else scaled)
