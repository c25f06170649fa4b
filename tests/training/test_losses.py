"""Rate and distortion are the codec's own, and their gradients point the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from codec import quantize as quantization
from codec.quantize import ROUNDING, quantize
from codec.shortcut import Wavelet
from codec.tables import laplace_tables, scale_of
from fakes.bundles import klt_bundle
from training.config import BITS_WEIGHT
from training.losses import (
    Coded,
    Groups,
    RateDistortion,
    best_rounding,
    geometric_bits,
    rounded,
    with_mean_slope,
)

GROUPS = Groups(torch.tensor(Wavelet.GROUPS))


def test_training_rounds_as_the_codec_does() -> None:
    """A symbol in training is the symbol that is sent."""
    latents = torch.linspace(-3, 3, 1001)

    np.testing.assert_array_equal(rounded(latents).numpy(), quantize(latents.numpy(), 1.0))


def test_training_chooses_the_encoder_s_rounding() -> None:
    """Each subband's offset is the one the encoder computes for it."""
    torch.manual_seed(0)
    latents = torch.randn(1, 128, 4, 4) * torch.logspace(-2, 2, 128)[None, :, None, None]
    model = klt_bundle().scales
    means = model.channel_means(quantize(latents[0].numpy(), 1.0))

    ours = best_rounding(latents, GROUPS)[0, :, 0, 0]

    np.testing.assert_allclose(ours.numpy(), quantization.best_rounding(means), atol=1e-6)


@pytest.mark.parametrize("index", [1, 9, 17, 25, 33, 37])
def test_bits_are_the_cost_under_the_codec_tables(index: int) -> None:
    """At a table's scale, the formula gives what the table's probabilities give."""
    mean = scale_of(index)
    probabilities = laplace_tables().probabilities(index)
    magnitude = torch.arange(-127, 128).abs().numpy()
    entropy = -(probabilities[:-1] * np.log2(probabilities[:-1])).sum()
    expected = (probabilities[:-1] * magnitude).sum()

    assert expected == pytest.approx(mean, rel=0.1)
    assert float(geometric_bits(torch.tensor(mean))) == pytest.approx(entropy, rel=0.03)


def test_a_silent_group_costs_nothing_and_resists_the_first_symbol() -> None:
    """All zero is free, yet the gradient knows that a symbol would not be."""
    mean = torch.zeros(1, requires_grad=True)
    bits = geometric_bits(mean)
    torch.autograd.backward(bits.sum())

    assert float(bits.detach()) == 0
    assert mean.grad is not None
    assert float(mean.grad) > 5


def test_large_scales_stay_finite() -> None:
    """The low band of a strong component has magnitudes of thousands."""
    bits = geometric_bits(torch.tensor([1e3, 1e5, 1e7]))

    assert torch.isfinite(bits).all()
    assert torch.allclose(bits.diff(), torch.log2(torch.tensor(100.0)), atol=1e-3)


@pytest.mark.parametrize(
    ("latent", "slope"),
    [
        pytest.param(0.05, 0.0, id="zero on both sides"),
        pytest.param(0.3, 1.0, id="zero or one"),
        pytest.param(-0.3, -1.0, id="zero or minus one"),
        pytest.param(2.0, 1.0, id="two or one"),
    ],
)
def test_the_slope_is_that_of_the_mean_over_a_step(latent: float, slope: float) -> None:
    """The gradient is the difference between the two symbols half a step away."""
    latents = torch.tensor([latent], requires_grad=True)
    value = with_mean_slope(latents, ROUNDING, torch.abs)
    torch.autograd.backward(value.sum())

    assert float(value.detach()) == abs(float(rounded(latents)))
    assert latents.grad is not None
    assert float(latents.grad) == slope


def coded(latents: Tensor) -> Coded:
    """What the networks return where both branches are silent."""
    rounding = best_rounding(latents, GROUPS)
    restored = Wavelet.inverse(rounded(latents, rounding))
    return Coded(latents, latents.detach(), rounding, restored)


def test_absent_components_cost_nothing() -> None:
    """A tile with few components is not charged for those it does not have."""
    torch.manual_seed(0)
    cost = RateDistortion(GROUPS, BITS_WEIGHT)
    components = torch.randn(1, 2, 16, 16) * 3
    components[:, 1] = 0
    both = cost(coded(Wavelet.forward(components)), components, torch.tensor([[1.0, 1.0]]))
    whole = coded(Wavelet.forward(components))
    whole.restored[:, 1] = 9  # whatever a branch puts there
    one = cost(whole, components, torch.tensor([[1.0, 0.0]]))

    assert float(one) == pytest.approx(float(both))


@pytest.mark.parametrize(("latent", "sign"), [(0.6, 1), (0.95, -1), (-0.6, -1), (-0.95, 1)])
def test_a_lone_latent_is_pushed_to_what_costs_less(latent: float, sign: int) -> None:
    """Among zeros a symbol must save much: small latents are pushed to 0, large ones to ±1."""
    cost = RateDistortion(GROUPS, BITS_WEIGHT)
    latents = torch.zeros(1, 64, 4, 4)
    latents[0, 40, 1, 1] = latent
    latents.requires_grad_()
    components = Wavelet.inverse(latents.detach())
    cost(coded(latents), components, torch.ones(1, 1)).backward()

    assert latents.grad is not None
    assert float(latents.grad[0, 40, 1, 1]) * sign > 0
