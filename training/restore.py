"""Training of the network that restores coefficients, on what the codec really codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from codec.bundle import Bundle
from codec.restoration import seen_rows
from codec.subbands import to_images
from codec.symbol_coder import SymbolCoder
from training.bundles import changed
from training.coded import coded_patches
from training.config import RestoreSettings
from training.errors import CheckpointError
from training.fast import Adam, Callback, CancelValidException, DataLoaders, Learner
from training.scenes import Scene, Split

_PREFIX = "synthesis.branch."
_LARGEST_ERROR = 4.0
"""Errors beyond count as this [steps]; only a saturated symbol has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """Where a training stands after an epoch.

    Attributes:
        epoch: Epochs done.
        error: Mean squared error of the held-back coefficients [step²].
        start_error: The same before anything was restored.
    """

    epoch: int
    error: float
    start_error: float


def train_restorer(
    bundle: Bundle,
    split: Split,
    settings: RestoreSettings,
    *,
    seed: int,
    on_epoch: Callable[[Restoration], None] = lambda _: None,
) -> tuple[Bundle, Restoration]:
    """Train from the bundle's weights; the best epoch on held-back scenes is kept.

    Args:
        bundle: Calibrated: what is restored depends on what its contexts made the coder round to.
        split: Scenes to train on and scenes held back.
        settings: How.
        seed: Seed of the choice of coefficients and their order.
        on_epoch: Called after each epoch.

    Raises:
        CheckpointError: If the bundle has no network that restores coefficients.
    """
    if bundle.contexts is None:
        raise CheckpointError(f"model {bundle.name} restores no coefficients: it has no wavelet")
    rng = np.random.default_rng(seed)
    rows = [_rows(bundle, scenes, settings, rng) for scenes in (split.training, split.validation)]
    network = bundle.synthesis().branch.requires_grad_(True)
    start_error = float(rows[1][1].square().mean())
    best = Restoration(epoch=0, error=_error(network, *rows[1]), start_error=start_error)
    weights = _weights(network)

    def after_epoch(epoch: int) -> None:
        nonlocal best, weights
        now = Restoration(epoch=epoch, error=_error(network, *rows[1]), start_error=start_error)
        on_epoch(now)
        if now.error < best.error:
            best, weights = now, _weights(network)

    batches = _Batches(*rows[0], settings, rng)
    loader = DataLoader(batches, batch_size=None)
    learner = Learner(
        DataLoaders(loader, loader),
        network,
        loss_func=lambda answers, wanted: nn.functional.mse_loss(answers[:, 0], wanted),
        opt_func=partial(Adam, eps=1e-8),
        wd=0.0,
        cbs=[_EachEpoch(after_epoch)],
        train_bn=False,
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(settings.epochs, settings.learning_rate)
    return changed(bundle, tensors=weights), best


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """An epoch of batches drawn at random."""

    def __init__(
        self,
        features: Tensor,
        errors: Tensor,
        settings: RestoreSettings,
        rng: np.random.Generator,
    ) -> None:
        self._features, self._errors, self._rng = features, errors, rng
        self._count, self._size = settings.batches_per_epoch, settings.batch_rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        chosen = torch.from_numpy(self._rng.integers(len(self._errors), size=self._size))
        return self._features[chosen], self._errors[chosen]


class _EachEpoch(Callback):  # type: ignore[misc]  # fastai is untyped
    """Say that an epoch is done, and skip fastai's own validation."""

    def __init__(self, after: Callable[[int], None]) -> None:
        self._after = after

    def before_validate(self) -> None:
        """Held-back rows are measured at once, below."""
        raise CancelValidException

    def after_epoch(self) -> None:
        """Call."""
        self._after(self.learn.epoch + 1)


def _rows(
    bundle: Bundle, scenes: Sequence[Scene], settings: RestoreSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """What the network sees of coded patches, and what it should answer [step]."""
    coder = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
    features, errors = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    for patch in coded_patches(bundle, scenes, settings.octaves):
        size = patch.rows, patch.cols
        payload = coder.encode(patch.symbols, *size, patch.errors)
        symbols = coder.decode(payload, len(patch.symbols), *size)
        left = patch.symbols - symbols + np.asarray(patch.errors) / np.float32(256)
        seen = list(seen_rows(symbols, *size))
        images = zip(to_images(left.astype(np.float32), *size), seen, strict=True)
        wanted = np.concatenate([image.ravel()[rows.places] * rows.signs for image, rows in images])
        chosen = rng.permutation(wanted.size)[: settings.rows_per_patch]
        features.append(np.concatenate([rows.features for rows in seen])[chosen])
        errors.append(np.clip(wanted[chosen], -_LARGEST_ERROR, _LARGEST_ERROR))
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(errors))


def _weights(network: nn.Module) -> dict[str, NDArray[Any]]:
    return {
        _PREFIX + name: tensor.detach().numpy().copy()
        for name, tensor in network.state_dict().items()
    }


@torch.inference_mode()
def _error(network: nn.Module, features: Tensor, errors: Tensor) -> float:
    return float((network(features)[:, 0] - errors).square().mean())
