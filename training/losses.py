"""Rate and distortion of a crop, as exact as the codec's and yet differentiable.

Both are computed from the very symbols the codec would send, so an untrained network starts at
exactly the linear codec's cost; only the gradient at the rounding is another function's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.quantize import ROUNDING
from codec.tables import scale_of


class Groups(nn.Module):
    """Averages over the groups (subbands) of each component, and back to channels.

    Args:
        groups: Group of each of a component's channels, as `ScaleModel.groups`.
    """

    def __init__(self, groups: Tensor) -> None:
        super().__init__()
        self.register_buffer("members", nn.functional.one_hot(groups.long()).float())

    @property
    def _members(self) -> Tensor:
        """Shape (channels of a component, groups), 1 where one belongs to the other."""
        return self.get_buffer("members")

    @property
    def sizes(self) -> Tensor:
        """Channels of each group, shape (groups,)."""
        return self._members.sum(dim=0)

    def means(self, values: Tensor) -> Tensor:
        """Average over positions and groups: (n, channels · k, r, c) to (n, k, groups)."""
        channels = values.mean(dim=(2, 3)).reshape(values.shape[0], -1, self._members.shape[0])
        means: Tensor = channels @ (self._members / self.sizes)
        return means

    def spread(self, values: Tensor) -> Tensor:
        """Hand each channel its group's value: (n, k, groups) to (n, channels · k, 1, 1)."""
        return (values @ self._members.T).flatten(1)[:, :, None, None]


def rounded(latents: Tensor, rounding: Tensor | float = ROUNDING) -> Tensor:
    """Round as `codec.quantize` does at a step of 1; no gradient."""
    latents = latents.detach()
    return torch.copysign(torch.floor(latents.abs() + rounding), latents)


def best_rounding(latents: Tensor, groups: Groups) -> Tensor:
    """Rounding offset of each channel as the encoder chooses it, shape (n, channels, 1, 1).

    The same as `codec.quantize.best_rounding`; a test compares them.
    """
    means = groups.means(rounded(latents).abs()).clamp(min=scale_of(1))
    return groups.spread(0.5 - torch.asinh(1 / means) / 12)


def with_mean_slope(
    latents: Tensor, rounding: Tensor | float, measure: Callable[[Tensor], Tensor]
) -> Tensor:
    """Measure symbols; the gradient is that of the mean over latents half a step to either side.

    That mean, E[f(round(y + u))] with u even in ±½, has the derivative f(round(y + ½)) −
    f(round(y − ½)) exactly. It sees what a latent's two candidate symbols cost, so descending it is
    rate–distortion optimization. The straight-through estimator sees only the rounding error of
    the present one: noise a hundred times what there is to learn here.

    Args:
        latents: Before rounding.
        rounding: Rounding offset, broadcast.
        measure: Symbols to values of the same shape, elementwise.
    """
    slope = measure(rounded(latents + 0.5, rounding)) - measure(rounded(latents - 0.5, rounding))
    return measure(rounded(latents, rounding)) + slope * (latents - latents.detach())


class Coded(NamedTuple):
    """A batch on its way through both networks.

    Attributes:
        latents: Before rounding, shape (n, 64·k, r/8, c/8).
        linear: What of them is the shortcut's, same shape.
        rounding: Rounding offset, shape (n, 64·k, 1, 1).
        restored: Components, shape (n, k, r, c); they pass no gradient to the latents.
    """

    latents: Tensor
    linear: Tensor
    rounding: Tensor
    restored: Tensor


class RateDistortion(nn.Module):
    """Squared error plus bits, per component and pixel, in squared steps.

    The rate is what the codec's range coder pays: per patch and group (subband of a component) the
    entropy of a two-sided geometric law of the group's mean magnitude, which the encoder sends.

    Args:
        groups: Subbands of each component.
        bits_weight: Squared steps a bit may cost.
    """

    def __init__(self, groups: Groups, bits_weight: float) -> None:
        super().__init__()
        self.groups = groups
        self.bits_weight = bits_weight

    def forward(self, coded: Coded, components: Tensor, present: Tensor) -> Tensor:
        """Return the mean cost.

        Args:
            coded: What `RoundTrip` returns.
            components: What was to be restored, shape (n, k, r, c).
            present: 1 for components the tile has, shape (n, k).
        """
        errors = (coded.restored - components).square().sum(dim=(2, 3))
        costs = errors + self.bits_weight * self.bits(coded)
        total = (costs * present).sum() + self._encoder_slope(coded)
        return total / components.numel()

    def bits(self, coded: Coded) -> Tensor:
        """Bits of each component, shape (n, k)."""
        magnitudes = with_mean_slope(coded.latents, coded.rounding, torch.abs)
        per_symbol = geometric_bits(self.groups.means(magnitudes))
        positions = coded.latents.shape[2] * coded.latents.shape[3]
        return (per_symbol * self.groups.sizes).sum(dim=2) * positions

    @staticmethod
    def _encoder_slope(coded: Coded) -> Tensor:
        """Zero, with the gradient of the linear decoder's squared error on the latents.

        The shortcut is orthonormal, so errors can be taken before its inverse.
        """
        errors = with_mean_slope(
            coded.latents, coded.rounding, lambda symbols: (symbols - coded.linear).square()
        ).sum()
        return errors - errors.detach()


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
