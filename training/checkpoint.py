"""Where a training stands, on the disk: with it a killed training ends as if it had not been.

A checkpoint is one `.safetensors` file, written whole or not at all: weights, what the optimizer
remembers, and in its head how far the training is. Crops are drawn by seed, epoch and number, so
nothing else is needed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from training.errors import CheckpointError
from training.files import write_whole

VERSION: Final = 1
_WEIGHTS: Final = "weights."
_OPTIMIZER: Final = "optimizer."

Arrays = Mapping[str, NDArray[Any]]


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A training on its way.

    Attributes:
        progress: Where it stood after the last whole epoch.
        batches: Batches done of the epoch that follows.
        cost_sum: What their crops cost, together.
        crops: How many they were.
        weights: Of both networks, by their names in a bundle.
        optimizer: What it remembers, by the number of the parameter and a name.
    """

    progress: Progress
    batches: int = 0
    cost_sum: float = 0.0
    crops: int = 0
    weights: Arrays
    optimizer: Arrays


Keep = Callable[[Checkpoint], None]
"""Takes a checkpoint."""


def write_checkpoint(path: Path, checkpoint: Checkpoint, told: Mapping[str, Any]) -> None:
    """Write one, with what its training is told by.

    Raises:
        TrainingError: If it cannot be written; the one before is as it was.
    """
    head = {
        "version": VERSION,
        "told": told,
        "progress": asdict(checkpoint.progress),
        "batches": checkpoint.batches,
        "cost_sum": checkpoint.cost_sum,
        "crops": checkpoint.crops,
    }
    parts = ((_WEIGHTS, checkpoint.weights), (_OPTIMIZER, checkpoint.optimizer))
    arrays = {prefix + name: array for prefix, part in parts for name, array in part.items()}
    write_whole(path, save(arrays, {"checkpoint": json.dumps(head)}))


def read_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Read one, and what its training is told by.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        raw = path.read_bytes()
        arrays = load(raw)
        (length,) = struct.unpack_from("<Q", raw)
        head = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["checkpoint"])
        if head["version"] != VERSION:
            raise CheckpointError(f"{path}: a checkpoint of version {head['version']}")
        parts = (
            {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            for prefix in (_WEIGHTS, _OPTIMIZER)
        )
        checkpoint = Checkpoint(
            progress=Progress(**head["progress"]),
            batches=head["batches"],
            cost_sum=head["cost_sum"],
            crops=head["crops"],
            weights=next(parts),
            optimizer=next(parts),
        )
        told = dict(head["told"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{path}: no checkpoint: {reason}; remedy: no --resume") from None
    return checkpoint, told


def optimizer_arrays(optimizer: Any) -> dict[str, NDArray[Any]]:
    """What a fastai optimizer remembers of each parameter: averages, and counts of steps."""
    return {
        f"{number}.{name}": np.array(
            value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value, order="C"
        )
        for number, (_, _, state, _) in enumerate(optimizer.all_params())
        for name, value in state.items()
    }


def restore_optimizer(optimizer: Any, arrays: Arrays) -> None:
    """Inverse of `optimizer_arrays`, into an optimizer of the same parameters."""
    parameters = [p for p, _, _, _ in optimizer.all_params()]
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        if array.shape == ():
            optimizer.state[parameter][name] = array.item()
            continue
        optimizer.state[parameter][name] = torch.empty_like(parameter).copy_(
            torch.from_numpy(array.copy())
        )
