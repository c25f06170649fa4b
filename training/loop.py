"""The loop: fastai's Learner trains both networks through the quantizer, end to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from codec.bundle import Bundle
from codec.network import SHORTCUTS, Analysis, SscnetSpec, Synthesis
from training.bundles import changed
from training.checkpoint import (
    Arrays,
    Checkpoint,
    Keep,
    Progress,
    optimizer_arrays,
    restore_optimizer,
)
from training.config import FitSettings
from training.distributed import Share, Team, team, unwrapped
from training.errors import TrainingError
from training.fast import (
    Adam,
    Callback,
    CancelBatchException,
    CancelFitException,
    DataLoaders,
    GradientClip,
    Learner,
)
from training.losses import Coded, Groups, RateDistortion, best_rounding, rounded
from training.scenes import Crops, Split, condition

ADAM_EPSILON: Final = 1e-10
"""fastai's 1e-5 is as large as our gradients (a cost per sample, a zero start): nothing moved."""


_PRELU_SLOPE: Final = 0.25
_REFLECTANCE: Final = 0.15
"""What a network that answers in reflectance starts from: about what land and plants have."""


def in_bfloat16(precision: str) -> bool:
    """Whether to compute in bfloat16: cores without AVX-512 emulate it, sixty times as slowly."""
    has_it = torch.cuda.is_available() or "AVX512" in torch.backends.cpu.get_cpu_capability()
    return precision == "bfloat16" and has_it


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
        self.is_bfloat16 = in_bfloat16(precision)

    def load(self, weights: Arrays) -> None:
        """Take weights that `tensors` returned."""
        for part, module in (("analysis.", self.analysis), ("synthesis.", self.synthesis)):
            module.load_state_dict(
                {
                    name.removeprefix(part): torch.from_numpy(array.copy())
                    for name, array in weights.items()
                    if name.startswith(part)
                }
            )

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
    last = model.synthesis.branch[-2]
    if bundle.network.output == "sigmoid" and isinstance(last, nn.ConvTranspose2d):
        # From its middle a sigmoid falls to 0, the dark of most bands, and cannot get out again.
        level = math.log(_REFLECTANCE / (1 - _REFLECTANCE))
        nn.init.constant_(last.get_parameter("bias"), level)
    return changed(bundle, tensors=model.tensors())


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
    keep: Keep,
    resume: Checkpoint | None = None,
) -> None:
    """Train both networks of a bundle.

    Args:
        bundle: Where to start.
        linear: The codec without branches, what costs are compared with.
        split: Scenes to train on and scenes held back.
        settings: How.
        seed: Seed of the crops.
        save: Called with the start, as epoch 0, and after each epoch.
        keep: Called with what a training that is cut off goes on from.
        resume: Where one was cut off.

    Raises:
        TrainingError: If costs are no numbers any more, or there is not enough memory.
    """
    model = RoundTrip(bundle, settings.precision)
    cost = RateDistortion(model.groups, settings.bits_weight)
    training, held_back = _crops(bundle, split, settings, seed)
    start = RoundTrip(linear)
    run(
        model, cost, training, held_back, settings, save=save, keep=keep, resume=resume, start=start
    )


def run(
    model: Networks,
    cost: nn.Module,
    training: Crops,
    held_back: Crops,
    settings: FitSettings,
    *,
    save: Save,
    keep: Keep,
    resume: Checkpoint | None,
    start: Networks | None = None,
) -> None:
    """Run fastai's Learner over crops.

    Args:
        model: Takes components and which of them are present.
        cost: Takes what the model returns, and the same two again.
        training: Crops drawn at random.
        held_back: Crops the cost of an epoch is measured on.
        settings: How.
        save: As of `train`.
        keep: As of `train`.
        resume: As of `train`.
        start: What costs are compared with; the model as it is if None.
    """
    if resume is not None:
        model.load(resume.weights)
    us = team()
    device = us.device
    model.to(memory_format=torch.channels_last).to(device)
    cost.to(device)
    learner = Learner(
        DataLoaders(
            DataLoader(
                Repeated(training),
                batch_size=us.share_of(settings.batch_crops),
                sampler=Share(len(training), us),
            ),
            DataLoader(Repeated(held_back), batch_size=settings.batch_crops),
        ),
        us.joined(model),
        loss_func=cost,
        opt_func=partial(Adam, eps=ADAM_EPSILON),
        lr=settings.learning_rate,
        wd=0.0,
        cbs=[GradientClip(settings.gradient_norm)],
        train_bn=False,
    )
    learner.dls.n_inp = 2
    learner.create_opt()
    with told_in_one_line():
        if resume is None:
            first_cost = cost_of(model, cost, learner.dls.valid, device)
            start_cost = cost_of(start, cost, learner.dls.valid, device) if start else first_cost
            progress = Progress(
                epoch=0,
                training_cost=None,
                cost=first_cost,
                start_cost=start_cost,
                best_epoch=0,
                best_cost=first_cost,
            )
            if us.is_first:
                save(model.tensors(), progress)
            resume = Checkpoint(progress=progress, weights={}, optimizer={})
        elif _is_over(resume.progress, settings):
            return
        restore_optimizer(learner.opt, resume.optimizer)
        with learner.no_bar(), learner.no_logging():
            skip = _Skip(training, resume)
            learner.fit_one_cycle(
                settings.epochs,
                settings.learning_rate,
                cbs=[skip, _Keeper(us, skip, settings, save=save, keep=keep, resume=resume)],
                start_epoch=resume.progress.epoch,
            )
        us.wait()


class _Skip(Callback):  # type: ignore[misc]  # fastai is untyped
    """Leave out batches that were done before an interruption, and draw each epoch's own crops."""

    order = -90  # before all that would do something with a batch

    def __init__(self, crops: Crops, resume: Checkpoint) -> None:
        self._crops, self._epoch, self._batches = crops, resume.progress.epoch, resume.batches

    def before_epoch(self) -> None:
        """Say which epoch crops are drawn for."""
        self._crops.epoch = self.learn.epoch

    def before_batch(self) -> None:
        """Leave it out if it is done."""
        if self.skips:
            raise CancelBatchException

    @property
    def skips(self) -> bool:
        """Whether the batch at hand was done before."""
        return bool(
            self.training and self.learn.epoch == self._epoch and self.learn.iter < self._batches
        )


class _Keeper(Callback):  # type: ignore[misc]  # fastai is untyped
    """Sum costs, keep checkpoints, and hand out the weights of each epoch."""

    order = 90  # after fastai's recorder, which computes the cost of held-back crops

    def __init__(
        self,
        us: Team,
        skip: _Skip,
        settings: FitSettings,
        *,
        save: Save,
        keep: Keep,
        resume: Checkpoint,
    ) -> None:
        self._us, self._skip, self._settings = us, skip, settings
        self._save, self._keep = save, keep
        self._last, self._sum, self._count = resume.progress, 0.0, 0
        if us.is_first:  # its own share is what a checkpoint holds
            self._sum, self._count = resume.cost_sum, resume.crops
        self._kept_s = time.monotonic()

    def after_batch(self) -> None:
        """Sum up, and keep a checkpoint when it is time."""
        if not self.training or self._skip.skips:
            return
        cost = float(self.learn.loss.detach())
        if not math.isfinite(cost):
            raise TrainingError(
                f"the cost of batch {self.learn.iter + 1} of epoch {self.learn.epoch + 1} is "
                f"{cost}; remedy: a smaller learning_rate; what was kept before stays"
            )
        crops = len(self.learn.xb[0])
        self._sum, self._count = self._sum + cost * crops, self._count + crops
        if time.monotonic() - self._kept_s >= 60 * self._settings.checkpoint_minutes:
            self._keep_now(self.learn.iter + 1)

    def after_epoch(self) -> None:
        """Save, and stop where patience ends."""
        if self.learn.epoch < self._last.epoch:
            return  # skipped: done before the interruption
        epoch, last = self.learn.epoch + 1, self._last
        total, count, cost = self._us.summed(
            self._sum, self._count, float(self.learn.recorder.values[-1][1])
        )
        cost /= self._us.size  # one cost for all, or some would stop before the others
        best = (epoch, cost) if cost < last.best_cost else (last.best_epoch, last.best_cost)
        self._last = Progress(
            epoch=epoch,
            training_cost=total / count if count else None,
            cost=cost,
            start_cost=last.start_cost,
            best_epoch=best[0],
            best_cost=best[1],
        )
        if self._us.is_first:
            self._save(self._tensors(), self._last)
        self._sum, self._count = 0.0, 0
        self._keep_now(0)
        if _is_over(self._last, self._settings):
            raise CancelFitException

    def _tensors(self) -> dict[str, NDArray[Any]]:
        model = unwrapped(self.learn.model)
        return model.tensors() if isinstance(model, Networks) else {}

    def _keep_now(self, batches: int) -> None:
        self._kept_s = time.monotonic()
        if not self._us.is_first:
            return
        self._keep(
            Checkpoint(
                progress=self._last,
                batches=batches,
                cost_sum=self._sum,
                crops=self._count,
                weights=self._tensors(),
                optimizer=optimizer_arrays(self.learn.opt),
            )
        )


def _is_over(progress: Progress, settings: FitSettings) -> bool:
    """Whether patience has ended."""
    waited = progress.epoch - progress.best_epoch
    return settings.patience is not None and waited >= settings.patience


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Undo what fastai puts before an error of ours, and say in one line that memory ran out."""
    try:
        yield
    except TrainingError as error:
        raise type(error)(str(error).rpartition(":\n\t")[2]) from None
    except (MemoryError, RuntimeError) as error:
        # torch has one type for a GPU's memory, and none for its own.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise TrainingError(
            "there is not enough memory; remedy: a smaller batch_crops or crop_px; "
            "what was kept before stays"
        ) from None


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


class Repeated(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Crops as fastai wants them: what goes into the model, then what goes into the cost."""

    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        components, present = self._crops[index]
        return components, present, components, present


@torch.inference_mode()
def cost_of(model: Networks, cost: nn.Module, batches: Any, device: str) -> float:
    """Mean cost of some batches, each of crops, which are present, and what the cost takes."""
    model.to(device).eval()
    total, count = 0.0, 0
    for components, present, *_ in batches:
        total += float(cost(model(components, present), components, present)) * len(components)
        count += len(components)
    model.train()
    return total / count
