"""Training of the paper's network alone: no KLT, no shortcut, the mean squared error of its output.

Sensors differ in their bands and the network takes a fixed number of them, so every scene is
resampled to it along its bands (`training.bands`). Quantization has no part in training, as in the
paper.

Source: La Grassa et al., Remote Sensing 14(10):2472, 2022.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from codec.bundle import Bundle
from codec.tile import Tile, TileInfo
from training.bands import spread, wavelengths_of
from training.checkpoint import Checkpoint, Keep
from training.config import FitSettings, PruneSettings
from training.errors import CheckpointError, TrainingError
from training.fast import (
    Adam,
    Callback,
    DataLoaders,
    FastDataLoader,
    GradientClip,
    KnowledgeDistillationCallback,
    Learner,
    PruneCallback,
    Schedule,
    criterion_of,
    sched_agp,
    sched_iterative,
)
from training.loop import (
    ADAM_EPSILON,
    Networks,
    Repeated,
    Save,
    cost_of,
    in_bfloat16,
    run,
    told_in_one_line,
)
from training.prune import PRUNED_TYPES, TRACE_PX, Chain, Ratio, as_pruned, prune
from training.scenes import Crops, Scene, Split


def reflectance(samples: Tensor) -> Tensor:
    """Bring int16 samples of a store to reflectance in [0, 1]; floats are that already."""
    return samples if samples.is_floating_point() else samples.float().mul(1e-4).clamp(0, 1)


class Autoencoder(Networks):
    """Both networks, one after the other; reflectance in, reflectance out."""

    def forward(self, samples: Tensor, _present: Tensor) -> Tensor:
        """Restore crops of shape (n, bands, r, c); all bands are present."""
        device = samples.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.is_bfloat16):
            restored: Tensor = self.synthesis(self.analysis(reflectance(samples)))
        return restored.float()


class SquaredError(nn.Module):
    """Mean squared error."""

    def forward(self, restored: Tensor, samples: Tensor, *_present: Tensor) -> Tensor:
        """Return it; all bands are present."""
        return (restored - reflectance(samples)).square().mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubes:
    """What the network learns from, all of as many bands as it takes.

    Attributes:
        training: Shape (bands, rows, cols) each: float32, reflectance in [0, 1], or int16 as in a
            store, which becomes that where the network is: half as much has to be moved.
        held_back: Likewise.
    """

    training: Sequence[NDArray[Any]]
    held_back: Sequence[NDArray[Any]]

    def crops(self, settings: FitSettings, seed: int) -> tuple[Crops, Crops]:
        """Crops at random to train on, and those held back, always the same."""
        training, held_back = (
            Crops(
                cubes,
                components=len(cubes[0]),
                crop_px=settings.crop_px,
                count=count,
                seed=seed,
                signed=False,
            )
            for cubes, count in ((self.training, settings.crops_per_epoch), (self.held_back, None))
        )
        return training, held_back


def scene_cubes(split: Split, bands: int) -> Cubes:
    """Resample scenes to as many bands."""
    training, held_back = (
        [scene.tile.samples for scene in resampled(scenes, bands)]
        for scenes in (split.training, split.validation)
    )
    return Cubes(training=training, held_back=held_back)


def train_sscnet(
    bundle: Bundle,
    cubes: Cubes,
    settings: FitSettings,
    *,
    seed: int,
    save: Save,
    keep: Keep,
    resume: Checkpoint | None = None,
) -> None:
    """Train both networks of a bundle without a shortcut; arguments as of `training.loop.train`.

    Costs are mean squared errors, compared with the start's.
    """
    model = Autoencoder(bundle, settings.precision)
    training, held_back = cubes.crops(settings, seed)
    run(model, SquaredError(), training, held_back, settings, save=save, keep=keep, resume=resume)


Told = Callable[[int, float, float], None]
"""Takes how many epochs are done, and what crops trained on and held back cost."""


def sensitivity(
    bundle: Bundle, cubes: Cubes, settings: PruneSettings, *, seed: int
) -> dict[str, float]:
    """By how much dearer held-back crops become when one layer alone loses channels.

    Args:
        bundle: Trained, without a shortcut.
        cubes: What it was trained on.
        settings: How much a layer loses, and how crops are cut.
        seed: Of the crops.

    Returns:
        By the name of the layer, relative to the cost of the whole network; layers too narrow to
        lose anything are left out.
    """
    _, held_back = cubes.crops(settings.tune, seed)
    whole = _cost(bundle, held_back, settings.tune)
    found = {}
    for name in Chain(bundle.analysis().branch, bundle.synthesis().branch).names():
        try:
            pruned = prune(bundle, settings, {name: settings.ratio})
        except CheckpointError:
            continue  # too narrow to lose anything
        found[name] = _cost(pruned, held_back, settings.tune) / whole - 1
    return found


def _cost(bundle: Bundle, crops: Crops, settings: FitSettings) -> float:
    model = Autoencoder(bundle, settings.precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = DataLoader(Repeated(crops), batch_size=settings.batch_crops)
    return cost_of(model, SquaredError(), batches, device)


def prune_sscnet(
    bundle: Bundle,
    cubes: Cubes,
    settings: PruneSettings,
    ratio: Ratio,
    *,
    seed: int,
    on_epoch: Told,
) -> Bundle:
    """Let FasterAI take channels, little by little, while what is left is trained.

    Args:
        bundle: Trained, without a shortcut.
        cubes: What it was trained on.
        settings: How channels are chosen, when they go, and how what is left is trained.
        ratio: How much goes.
        seed: Seed of the crops.
        on_epoch: Called after each epoch.

    Returns:
        The model after the last epoch, of another spec; latents and bands are as many as before.

    Raises:
        CheckpointError: If nothing was pruned.
    """
    tune, model = settings.tune, Autoencoder(bundle)
    training, held_back = cubes.crops(tune, seed + 1)  # not the crops of the first training
    # FasterAI asks for a batch to trace with, as only fastai's own loaders give it.
    loaders = (
        FastDataLoader(_Pairs(crops), bs=tune.batch_crops, num_workers=0)
        for crops in (training, held_back)
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    is_bfloat16 = in_bfloat16(tune.precision)
    chain = _TrainedChain(model.analysis.branch, model.synthesis.branch, is_bfloat16).to(device)
    taught = []
    if settings.distill:
        whole = Autoencoder(bundle)
        teacher = _TrainedChain(whole.analysis.branch, whole.synthesis.branch, is_bfloat16)
        lesson = KnowledgeDistillationCallback(
            teacher.to(device).requires_grad_(False),
            loss=lambda pred, teacher_pred, **_: (pred - teacher_pred).square().mean(),
            weight=settings.distill,
        )
        lesson.run_valid = False  # held-back crops are held against the truth alone
        taught.append(lesson)
    pruning = PruneCallback(
        ratio,
        Schedule(_until(settings.schedule, settings.done_at)),
        "global" if settings.context == "global" else "local",
        criterion_of(settings.criterion),
        ignored_layers=chain.kept,
        example_inputs=torch.zeros(1, bundle.network.components, TRACE_PX, TRACE_PX),
        root_module_types=PRUNED_TYPES,
        round_to=settings.round_to,
    )
    learner = Learner(
        DataLoaders(*loaders),
        chain,
        loss_func=SquaredError(),
        opt_func=partial(Adam, eps=ADAM_EPSILON),
        wd=0.0,
        cbs=[GradientClip(tune.gradient_norm), pruning, *taught, _Epochs(training, on_epoch)],
        train_bn=False,
    )
    quiet = contextlib.redirect_stdout(io.StringIO())  # FasterAI prints how far it is
    with told_in_one_line(), learner.no_bar(), learner.no_logging(), quiet:
        learner.fit_one_cycle(tune.epochs, tune.learning_rate)
    return as_pruned(bundle, model, settings)


class _TrainedChain(Chain):
    """The chain as it is trained."""

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential, is_bfloat16: bool) -> None:
        super().__init__(encoder, decoder)
        self._is_bfloat16 = is_bfloat16

    def forward(self, samples: Tensor) -> Tensor:
        """Restore; while FasterAI traces nothing is rounded."""
        rounds = self._is_bfloat16 and self.training
        with torch.autocast(samples.device.type, torch.bfloat16, enabled=rounds):
            return super().forward(reflectance(samples)).float()


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Crops as an autoencoder learns them: what goes in is what should come out."""

    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        samples, _ = self._crops[index]
        return samples, samples


class _Epochs(Callback):  # type: ignore[misc]  # fastai is untyped
    """Draw each epoch's own crops, and tell what they cost."""

    order = 90  # after fastai's recorder, which computes the costs

    def __init__(self, crops: Crops, on_epoch: Told) -> None:
        self._crops, self._on_epoch = crops, on_epoch

    def before_epoch(self) -> None:
        """Say which epoch crops are drawn for."""
        self._crops.epoch = self.learn.epoch

    def after_epoch(self) -> None:
        """Tell."""
        training_cost, cost = map(float, self.learn.recorder.values[-1][:2])
        if not math.isfinite(training_cost + cost):
            raise TrainingError(
                f"costs of epoch {self.learn.epoch + 1} are no numbers; remedy: a smaller "
                "prune.tune.learning_rate"
            )
        self._on_epoch(self.learn.epoch + 1, training_cost, cost)


def _until(schedule: str, end: float) -> Callable[[float, float, float], float]:
    """A schedule of FasterAI's that is done at a share of the training."""
    shape = {"iterative": sched_iterative, "agp": sched_agp}[schedule]
    return lambda first, last, place: float(shape(first, last, min(1.0, place / end)))


def resampled(scenes: Sequence[Scene], bands: int) -> list[Scene]:
    """Bring scenes to as many bands: EnMAP's where wavelengths are known, else evenly spread.

    Args:
        scenes: Any; what is not valid becomes 0.
        bands: How many.

    Returns:
        Scenes in reflectance, limited to [0, 1], float32.
    """
    return [replace(scene, tile=_resampled(scene.tile, bands)) for scene in scenes]


def _resampled(tile: Tile, bands: int) -> Tile:
    valid, wanted = tile.valid(), wavelengths_of(bands)
    scale = np.float32(1 / tile.info.reflectance_scale)
    samples = np.where(valid, tile.samples, 0).astype(np.float32) * scale
    # A sensor's own bands stay as they are, those that are fill included.
    known, own = tile.info.wavelengths_nm, len(samples) == bands
    if own and known and wanted is not None:
        own = np.allclose(known, wanted)
    if not own:
        samples = spread(samples[valid.any(axis=(1, 2))], tile, bands)
    info = TileInfo(sensor=tile.info.sensor, reflectance_scale=1.0)
    return Tile(samples=np.clip(samples, 0, 1), info=info)
