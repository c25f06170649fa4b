"""Rate and distortion of a crop, as exact as the codec's and yet differentiable.

Both are computed from the very symbols the codec would send, so an untrained network starts at
exactly the linear codec's cost; only the gradient at the rounding is another function's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from codec.quantize import ROUNDING
from codec.tables import scale_of


def rounded(latents: Tensor) -> Tensor:
    """Round as `codec.quantize` does at a step of 1; no gradient."""
    latents = latents.detach()
    return torch.copysign(torch.floor(latents.abs() + ROUNDING), latents)


def with_mean_slope(latents: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Measure symbols; the gradient is that of the mean over latents half a step to either side.

    That mean, E[f(round(y + u))] with u even in ±½, has the derivative f(round(y + ½)) −
    f(round(y − ½)) exactly. It sees what a latent's two candidate symbols cost, so descending it is
    rate–distortion optimization. The straight-through estimator sees only the rounding error of
    the present one: noise a hundred times what there is to learn here.

    Args:
        latents: Before rounding.
        measure: Symbols to values of the same shape, elementwise.
    """
    slope = measure(rounded(latents + 0.5)) - measure(rounded(latents - 0.5))
    return measure(rounded(latents)) + slope * (latents - latents.detach())


class RateDistortion(nn.Module):
    """Squared error plus bits, per component and pixel, in squared steps.

    The rate is what the codec's range coder pays: per patch and group (subband of a component) the
    entropy of a two-sided geometric law of the group's mean magnitude, which the encoder sends.

    Args:
        groups: Group of each of a component's channels, as `ScaleModel.groups`.
        bits_weight: Squared steps a bit may cost.
    """

    def __init__(self, groups: Tensor, bits_weight: float) -> None:
        super().__init__()
        members = torch.nn.functional.one_hot(groups.long()).float()
        self.register_buffer("averages", members / members.sum(dim=0))
        self.register_buffer("sizes", members.sum(dim=0))
        self.bits_weight = bits_weight

    def forward(
        self, coded: tuple[Tensor, Tensor, Tensor], components: Tensor, present: Tensor
    ) -> Tensor:
        """Return the mean cost.

        Args:
            coded: What `RoundTrip` returns: latents, the shortcut's latents, restored components.
            components: What was to be restored, shape (n, k, r, c).
            present: 1 for components the tile has, shape (n, k).
        """
        latents, linear, restored = coded
        errors = (restored - components).square().sum(dim=(2, 3))
        costs = errors + self.bits_weight * self.bits(latents)
        total = (costs * present).sum() + self._encoder_slope(latents, linear)
        return total / components.numel()

    def bits(self, latents: Tensor) -> Tensor:
        """Bits of each component, shape (n, k)."""
        n, _, rows, cols = latents.shape
        magnitudes = with_mean_slope(latents, torch.abs).mean(dim=(2, 3))
        means = magnitudes.reshape(n, -1, self._averages.shape[0]) @ self._averages
        per_symbol = geometric_bits(means)
        return (per_symbol * self._sizes).sum(dim=2) * (rows * cols)

    @staticmethod
    def _encoder_slope(latents: Tensor, linear: Tensor) -> Tensor:
        """Zero, with the gradient of the linear decoder's squared error on the latents.

        The shortcut is orthonormal, so errors can be taken before its inverse.
        """
        errors = with_mean_slope(latents, lambda symbols: (symbols - linear).square()).sum()
        return errors - errors.detach()

    @property
    def _averages(self) -> Tensor:
        return self.get_buffer("averages")

    @property
    def _sizes(self) -> Tensor:
        return self.get_buffer("sizes")


def geometric_bits(mean: Tensor) -> Tensor:
    """Bits per symbol of a two-sided geometric law of mean magnitude `mean`; 0 where it is 0.

    Below the narrowest table's scale the symbols are coded by that table.
    """
    scale = mean.detach().clamp(min=scale_of(1))
    # With ratio r = exp(−asinh(1/scale)), whose mean magnitude is 2r/(1 − r²) = scale, the law
    # costs log₂((1 + r)/(1 − r)) − magnitude · log₂ r; written so, it stays exact for large scales.
    # At this r the cost's derivative with respect to r vanishes: detaching it changes no gradient.
    bits = (torch.asinh(scale) + mean * torch.asinh(1 / scale)) / math.log(2)
    return torch.where(mean.detach() > 0, bits, bits - bits.detach())
