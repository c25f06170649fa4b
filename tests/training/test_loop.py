"""The loop starts at the linear codec, teaches both branches, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle, make_bundle, untrained_bundle
from codec.quantize import best_rounding, dequantize, quantize
from codec.shortcut import Wavelet
from training.config import BITS_WEIGHT, Settings
from training.loop import Progress, RoundTrip, initialized, train
from training.losses import RateDistortion
from training.scenes import Split

History = list[tuple[Mapping[str, NDArray[Any]], Progress]]


@pytest.fixture
def linear(settings: Settings) -> Bundle:
    """Return the codec without branches."""
    network = settings.network
    return untrained_bundle(network.spec(), network.conditioner(), default_step=64.0)


def crop() -> torch.Tensor:
    """Return one crop of two components."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 2, 16, 16, generator=generator) * 5


def test_the_start_is_the_linear_codec(linear: Bundle) -> None:
    """Whatever the hidden layers hold, symbols and samples are the shortcut's."""
    components, present = crop(), torch.ones(1, 2)
    bundle = initialized(linear, seed=1)
    latents, shortcut, _, restored = RoundTrip(bundle)(components, present)

    direct = TorchBackend(linear).analyze([components[0].numpy()])[0]
    means = linear.scales.channel_means(quantize(direct, 1.0))
    symbols = quantize(direct, 1.0, best_rounding(means)[:, None, None])
    expected = Wavelet.inverse(torch.from_numpy(dequantize(symbols, 1.0))[None])

    assert torch.equal(latents, shortcut)
    assert torch.allclose(restored, expected, atol=1e-5)


def test_initialized_signals_keep_their_size(linear: Bundle) -> None:
    """What reaches the layer that starts at zero is neither gone nor grown."""
    branch = initialized(linear, seed=0).analysis().branch
    with torch.inference_mode():
        features = branch[:-2](crop())

    assert 0.3 < float(features.std()) / 5 < 3


def test_the_branch_on_board_learns(linear: Bundle) -> None:
    """The cost reaches the layer that starts at zero."""
    model = RoundTrip(initialized(linear, seed=0))
    cost = RateDistortion(model.groups, BITS_WEIGHT)
    components, present = crop(), torch.ones(1, 2)
    cost(model(components, present), components, present).backward()

    gradient = model.analysis.branch[-2].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert float(gradient.abs().sum()) > 0


def trained(
    start: Bundle, linear: Bundle, split: Split, settings: Settings, done: Progress | None = None
) -> History:
    """Train and keep everything that was handed out."""
    history: History = []
    train(
        start,
        linear,
        split,
        settings.fit,
        seed=0,
        save=lambda tensors, progress: history.append((tensors, progress)),
        done=done,
    )
    return history


def test_each_epoch_is_handed_out(linear: Bundle, split: Split, settings: Settings) -> None:
    """The start is epoch 0, at the linear codec's cost; the best epoch is the cheapest."""
    history = trained(initialized(linear, 0), linear, split, settings)
    progress = [p for _, p in history]

    assert [p.epoch for p in progress] == [0, 1, 2]
    assert progress[0].relative == pytest.approx(1)
    assert progress[-1].best_cost == min(p.cost for p in progress)
    assert any(
        not np.array_equal(array, history[0][0][name]) for name, array in history[1][0].items()
    )


def test_training_goes_on_where_it_stopped(
    linear: Bundle, split: Split, settings: Settings
) -> None:
    """After a checkpoint only the missing epochs run, and the best so far is not forgotten."""
    bundle = initialized(linear, 0)
    tensors, progress = trained(bundle, linear, split, settings)[1]
    best = replace(progress, best_epoch=1, best_cost=0.0)
    resumed = trained(
        make_bundle(bundle.network, bundle.conditioner, default_step=64.0, tensors=dict(tensors)),
        linear,
        split,
        settings,
        best,
    )

    assert [p.epoch for _, p in resumed] == [2]
    assert (resumed[0][1].best_epoch, resumed[0][1].best_cost) == (1, 0.0)
