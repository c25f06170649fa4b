"""Curves of a training: costs by epoch, in TensorBoard's files, so they outlive interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from training.errors import TrainingError

HELD_BACK: Final = "cost/held back"
TRAINING: Final = "cost/training"

Curve = Mapping[str, list[tuple[int, float]]]
"""Epochs and costs, by `HELD_BACK` and `TRAINING`."""


def curves_folder(out: Path, stage: str) -> Path:
    """Where the curves of a stage are whose bundle is `out`."""
    return out.parent / "tensorboard" / f"{out.stem}-{stage}"


def curve_writer(folder: Path, *, resume: bool) -> Any:
    """Open TensorBoard's writer; what an earlier training left there goes, unless it goes on.

    Raises:
        TrainingError: If it cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # takes seconds to load

    try:
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        return SummaryWriter(folder)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from None


def read_curve(folder: Path) -> Curve:
    """Read what was written; where a resumed training went over an epoch again, its last costs."""
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415  # as above
        EventAccumulator,
    )

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        for tag in events.Tags()["scalars"]
    }
