"""The loop: fastai's Learner trains both networks through the quantizer, end to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from codec.bundle import Bundle
from codec.network import SHORTCUTS, Analysis, SscnetSpec, Synthesis
from training.bundles import changed
from training.config import FitSettings
from training.fast import Adam, Callback, DataLoaders, GradientClip, Learner
from training.losses import Coded, Groups, RateDistortion, best_rounding, rounded
from training.scenes import Crops, Split, condition

ADAM_EPSILON: Final = 1e-10
"""fastai's 1e-5 is as large as our gradients (a cost per sample, a zero start): nothing moved."""


_PRELU_SLOPE: Final = 0.25


class Networks(nn.Module):
    """Both networks of a bundle, to be trained.

    Args:
        bundle: Spec and weights to start from.
        precision: What the convolutions compute in.
    """

    def __init__(self, bundle: Bundle, precision: str = "float32") -> None:
        super().__init__()
        self.spec: SscnetSpec = bundle.network
        self.analysis = Analysis(bundle.network)
        self.analysis.load_state_dict(bundle.analysis().state_dict())
        self.synthesis = Synthesis(bundle.network)
        self.synthesis.load_state_dict(bundle.synthesis().state_dict())
        self.is_bfloat16 = precision == "bfloat16"

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the weights under the names a bundle gives them."""
        return {
            f"{part}.{name}": tensor.detach().float().cpu().contiguous().numpy().copy()
            for part, module in (("analysis", self.analysis), ("synthesis", self.synthesis))
            for name, tensor in module.state_dict().items()
        }


class RoundTrip(Networks):
    """Encoder, quantizer and decoder of a bundle with a shortcut, differentiable."""

    def __init__(self, bundle: Bundle, precision: str = "float32") -> None:
        super().__init__(bundle, precision)
        self.groups = Groups(torch.from_numpy(np.array(bundle.scales.groups)))

    def forward(self, components: Tensor, present: Tensor) -> Coded:
        """Code crops and restore them.

        Args:
            components: Shape (n, k, r, c), in steps.
            present: 1 for components the tile has, shape (n, k); the others are not coded.
        """
        linear = SHORTCUTS[self.spec.shortcut].forward(components)
        channels = present.repeat_interleave(linear.shape[1] // present.shape[1], dim=1)
        device = components.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.is_bfloat16):
            latents = self.analysis(components) * channels[:, :, None, None]
        rounding = best_rounding(latents, self.groups)
        with torch.autocast(device, torch.bfloat16, enabled=self.is_bfloat16):
            restored = self.synthesis(rounded(latents, rounding))
        return Coded(latents, linear, rounding, restored)


def initialized(bundle: Bundle, seed: int) -> Bundle:
    """Draw the hidden layers of both branches again, such that signals keep their size.

    torch's own start shrinks them by a factor of three in every layer: after four the features are
    all but constant, and the layer that starts at zero has nothing to work with.

    Source: He et al., ICCV 2015, for PReLU, whose slope starts at 1/4.
    """
    model = Networks(bundle)
    generator = torch.Generator().manual_seed(seed)
    for branch in (model.analysis.branch, model.synthesis.branch):
        hidden = [m for m in branch if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][:-1]
        for layer in hidden:
            # With a stride as large as its kernel, each output sees one tap of a transposed one.
            taps = math.prod(layer.kernel_size) / math.prod(layer.stride)
            gain = nn.init.calculate_gain("leaky_relu", _PRELU_SLOPE)
            deviation = gain / math.sqrt(layer.in_channels * taps)
            nn.init.normal_(layer.weight, 0.0, deviation, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return changed(bundle, tensors=model.tensors())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands after an epoch.

    Attributes:
        epoch: Epochs done.
        training_cost: Mean cost of the epoch's crops, see `losses.RateDistortion`; None at epoch 0.
        cost: Mean cost of the held-back crops.
        start_cost: The same of what costs are compared with: the linear codec, or the start.
        best_epoch: Epochs done when the held-back crops cost least.
        best_cost: What they cost then.
    """

    epoch: int
    training_cost: float | None
    cost: float
    start_cost: float
    best_epoch: int
    best_cost: float

    @property
    def relative(self) -> float:
        """Cost relative to `start_cost` [1]."""
        return self.cost / self.start_cost

    @property
    def is_best(self) -> bool:
        """Whether no earlier epoch was better."""
        return self.best_epoch == self.epoch


Save = Callable[[Mapping[str, NDArray[Any]], Progress], None]
"""Takes the weights and the progress."""


def train(
    bundle: Bundle,
    linear: Bundle,
    split: Split,
    settings: FitSettings,
    *,
    seed: int,
    save: Save,
    done: Progress | None = None,
) -> None:
    """Train both networks of a bundle.

    Args:
        bundle: Where to start.
        linear: The codec without branches, what costs are compared with.
        split: Scenes to train on and scenes held back.
        settings: How.
        seed: Seed of the crops.
        save: Called with the start, as epoch 0, and after each epoch.
        done: Where an interrupted training stood; its epochs are skipped.
    """
    model = RoundTrip(bundle, settings.precision)
    cost = RateDistortion(model.groups, settings.bits_weight)
    training, held_back = _crops(bundle, split, settings, seed + (done.epoch if done else 0))
    start = RoundTrip(linear)
    run(model, cost, training, held_back, settings, save=save, done=done, start=start)


def run(
    model: Networks,
    cost: nn.Module,
    training: Crops,
    held_back: Crops,
    settings: FitSettings,
    *,
    save: Save,
    done: Progress | None,
    start: Networks | None = None,
) -> None:
    """Run fastai's Learner over crops, with a checkpoint each epoch.

    Args:
        model: Takes components and which of them are present.
        cost: Takes what the model returns, and the same two again.
        training: Crops drawn at random.
        held_back: Crops the cost of an epoch is measured on.
        settings: How.
        save: Called with the start, as epoch 0, and after each epoch.
        done: Where an interrupted training stood; its epochs are skipped.
        start: What costs are compared with; the model as it is if None.
    """
    model.to(memory_format=torch.channels_last)
    learner = Learner(
        DataLoaders(
            *(
                DataLoader(_Repeated(crops), batch_size=settings.batch_crops)
                for crops in (training, held_back)
            )
        ),
        model,
        loss_func=cost,
        opt_func=partial(Adam, eps=ADAM_EPSILON),
        lr=settings.learning_rate,
        wd=0.0,
        cbs=[GradientClip(settings.gradient_norm)],
        train_bn=False,
    )
    learner.dls.n_inp = 2
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    cost.to(device)
    if done is None:
        first_cost = _cost_of(model, cost, learner.dls.valid, device)
        start_cost = _cost_of(start, cost, learner.dls.valid, device) if start else first_cost
        done = Progress(
            epoch=0,
            training_cost=None,
            cost=first_cost,
            start_cost=start_cost,
            best_epoch=0,
            best_cost=first_cost,
        )
        save(model.tensors(), done)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(
            settings.epochs,
            settings.learning_rate,
            cbs=[_Checkpoint(save, done)],
            start_epoch=done.epoch,
        )


class _Checkpoint(Callback):  # type: ignore[misc]  # fastai is untyped
    """Hand out the weights after each epoch."""

    order = 90  # after fastai's recorder, which computes the epoch's costs

    def __init__(self, save: Save, done: Progress) -> None:
        self._save, self._last = save, done

    def after_epoch(self) -> None:
        """Read the epoch's costs and save."""
        if self.learn.epoch < self._last.epoch:
            return  # skipped: done before the interruption
        training_cost, cost = map(float, self.learn.recorder.values[-1][:2])
        epoch, last = self.learn.epoch + 1, self._last
        best = (epoch, cost) if cost < last.best_cost else (last.best_epoch, last.best_cost)
        self._last = Progress(
            epoch=epoch,
            training_cost=training_cost,
            cost=cost,
            start_cost=last.start_cost,
            best_epoch=best[0],
            best_cost=best[1],
        )
        self._save(self.learn.model.tensors(), self._last)


def _crops(bundle: Bundle, split: Split, settings: FitSettings, seed: int) -> tuple[Crops, Crops]:
    images = [
        condition(scene.tile, bundle, bundle.default_step * 2.0**octave)
        for scene in split.training
        for octave in settings.octaves
    ]
    training = Crops(
        images,
        components=bundle.network.components,
        crop_px=settings.crop_px,
        count=settings.crops_per_epoch,
        seed=seed,
    )
    return training, _held_back_crops(bundle, split, settings)


def _held_back_crops(bundle: Bundle, split: Split, settings: FitSettings) -> Crops:
    octaves = sorted({min(settings.octaves), 0.0, max(settings.octaves)})
    return Crops(
        [
            condition(scene.tile, bundle, bundle.default_step * 2.0**octave)
            for scene in split.validation
            for octave in octaves
        ],
        components=bundle.network.components,
        crop_px=settings.crop_px,
    )


class _Repeated(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Crops as fastai wants them: what goes into the model, then what goes into the loss."""

    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        components, present = self._crops[index]
        return components, present, components, present


@torch.inference_mode()
def _cost_of(model: Networks, cost: nn.Module, batches: Any, device: str) -> float:
    model.to(device).eval()
    total, count = 0.0, 0
    for components, present, *_ in batches:
        total += float(cost(model(components, present), components, present)) * len(components)
        count += len(components)
    model.train()
    return total / count
