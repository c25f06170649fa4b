"""The loop starts at the linear codec, teaches both branches, and goes on where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle, untrained_bundle
from codec.quantize import best_rounding, dequantize, quantize
from codec.shortcut import Wavelet
from training.checkpoint import Checkpoint, Progress
from training.config import BITS_WEIGHT, Settings
from training.errors import TrainingError
from training.loop import RoundTrip, initialized, train
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


class StoppedError(Exception):
    """The training was cut off."""


def trained(
    linear: Bundle,
    split: Split,
    settings: Settings,
    *,
    resume: Checkpoint | None = None,
    cut_after: int | None = None,
) -> tuple[History, list[Checkpoint]]:
    """Train and keep all that was handed out; a checkpoint after every batch, cut after some."""
    history: History = []
    kept: list[Checkpoint] = []

    def keep(checkpoint: Checkpoint) -> None:
        kept.append(checkpoint)
        if len(kept) == cut_after:
            raise StoppedError("fastai wants an argument")

    with contextlib.suppress(StoppedError):
        train(
            initialized(linear, 0),
            linear,
            split,
            settings.fit.model_copy(update={"checkpoint_minutes": 0.0}),
            seed=0,
            save=lambda tensors, progress: history.append((tensors, progress)),
            keep=keep,
            resume=resume,
        )
    return history, kept


def test_each_epoch_is_handed_out(linear: Bundle, split: Split, settings: Settings) -> None:
    """The start is epoch 0, at the linear codec's cost; the best epoch is the cheapest."""
    history, kept = trained(linear, split, settings)
    progress = [p for _, p in history]

    assert [p.epoch for p in progress] == [0, 1, 2]
    assert progress[0].relative == pytest.approx(1)
    assert progress[-1].best_cost == min(p.cost for p in progress)
    assert any(
        not np.array_equal(array, history[0][0][name]) for name, array in history[1][0].items()
    )
    # Two batches an epoch; after the second the epoch is told of as well.
    assert [(c.progress.epoch, c.batches) for c in kept] == [
        *((0, 1), (0, 2), (1, 0)),
        *((1, 1), (1, 2), (2, 0)),
    ]


@pytest.mark.parametrize("cut_after", [1, 2, 3, 4])
def test_cut_off_anywhere_it_ends_the_same(
    linear: Bundle, split: Split, settings: Settings, cut_after: int
) -> None:
    """From a checkpoint on, weights, costs and what is best are those of the whole training."""
    whole, _ = trained(linear, split, settings)
    before, kept = trained(linear, split, settings, cut_after=cut_after)
    after, _ = trained(linear, split, settings, resume=kept[-1])
    assert [p for _, p in before + after] == [p for _, p in whole]
    for (weights, _), (expected, _) in zip(before + after, whole, strict=True):
        assert all(np.array_equal(weights[name], expected[name]) for name in expected)


def test_a_cost_that_is_no_number_ends_the_training(
    linear: Bundle, split: Split, settings: Settings
) -> None:
    """One line says where and what to do, before such weights are kept."""
    wild = settings.fit.model_copy(update={"learning_rate": 1e30, "gradient_norm": 1e30})
    settings, kept = settings.model_copy(update={"fit": wild}), []
    with pytest.raises(TrainingError, match="remedy: a smaller learning_rate"):
        train(
            initialized(linear, 0),
            linear,
            split,
            wild,
            seed=0,
            save=lambda *_: None,
            keep=kept.append,
        )
    assert all(np.isfinite(array).all() for c in kept for array in c.weights.values())


def test_patience_ends(linear: Bundle, split: Split, settings: Settings) -> None:
    """Epochs that are no better than an earlier one are not gone through for ever."""
    still = {"epochs": 9, "learning_rate": 1e-30, "patience": 2}
    settings = settings.model_copy(update={"fit": settings.fit.model_copy(update=still)})
    history, _ = trained(linear, split, settings)
    assert [p.epoch for _, p in history] == [0, 1, 2]
