"""What steps have in common that train: checkpoints, progress, the record of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar

from codec.bundle import Bundle
from training.bundles import as_record, changed, read_bundle, size_of, write_bundle
from training.checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from training.config import FitSettings, Settings
from training.console_tables import size_table
from training.curves import HELD_BACK, TRAINING, curve_writer, curves_folder
from training.distributed import team
from training.errors import CheckpointError

if TYPE_CHECKING:
    from training.sscnet import Cubes

Trainer = Callable[..., None]


def train_step(
    stage: str,
    start: Bundle,
    trainer: Trainer,
    *,
    fit: FitSettings,
    seed: int,
    out: Path,
    resume: bool,
    console: Console,
) -> Bundle:
    """Train, with a checkpoint each epoch; `out`, and what is returned, is the best epoch.

    Args:
        stage: What the record calls it.
        start: Where to start.
        trainer: Takes a bundle, and by name `save`, `keep` and `resume`, see `training.loop.train`.
        fit: How; a training goes on only as it began.
        seed: Likewise.
        out: The best bundle so far; beside it, with ".checkpoint" in its name, where it stands,
            and in the folder "tensorboard" the curves.
        resume: Whether to go on from there.
        console: Where progress is shown.

    Raises:
        CheckpointError: If what is there is of another stage, network, settings or scenes.
        TrainingError: If nothing can be written.
    """
    place = out.with_suffix(f".checkpoint{out.suffix}")
    same = {
        "stage": stage,
        "network": asdict(start.network),
        "fit": fit.model_dump(mode="json", exclude={"checkpoint_minutes"}),
        "seed": seed,
        "checksums": start.provenance.get("checksums"),
    }
    told: dict[str, Any] = {**same, "provenance": start.provenance}
    checkpoint: Checkpoint | None = None
    if resume and place.exists():
        checkpoint, before = read_checkpoint(place)
        # Lists of JSON are tuples here.
        other = [k for k, v in json.loads(json.dumps(same)).items() if before.get(k) != v]
        if other:
            raise CheckpointError(
                f"{place}: no checkpoint of this {stage}: other {', '.join(other)}; remedy: "
                "no --resume"
            )
        told = before
        start = changed(start, provenance=told["provenance"])
        console.print(
            f"{place}: going on after epoch {checkpoint.progress.epoch}, "
            f"batch {checkpoint.batches} of the next"
        )
    # Only the first of several processes saves, and so has anything to write.
    curves: Any = (
        curve_writer(curves_folder(out, stage), resume=checkpoint is not None)
        if team().is_first
        else nullcontext()
    )
    with Bar(console=console) as bar, curves:
        epoch = checkpoint.progress.epoch if checkpoint else 0
        task = bar.add_task(stage, total=fit.epochs, completed=epoch)

        def save(tensors: Mapping[str, NDArray[Any]], progress: Progress) -> None:
            if progress.is_best:
                write_bundle(changed(start, tensors=tensors, stage=as_record(stage, progress)), out)
            curves.add_scalar(HELD_BACK, progress.cost, progress.epoch)
            if progress.training_cost is not None:
                curves.add_scalar(TRAINING, progress.training_cost, progress.epoch)
            bar.update(task, completed=progress.epoch)
            bar.console.print(
                f"epoch {progress.epoch}: cost {progress.cost:.5f}, "
                f"{100 * (progress.relative - 1):+.2f} % of the start's"
                f"{', the best so far' if progress.is_best else ''}"
            )

        def keep(now: Checkpoint) -> None:
            write_checkpoint(place, now, told)

        trainer(start, save=save, keep=keep, resume=checkpoint)
    return read_bundle(out)


def scheduled_pruning(
    trained: Bundle, cubes: Cubes, settings: Settings, out: Path, console: Console
) -> Bundle:
    """Prune while tuning; say how it goes, and leave the curves beside `out`."""
    from training.prune import ratio_of  # noqa: PLC0415  # fastai takes seconds to load
    from training.sscnet import prune_sscnet, sensitivity  # noqa: PLC0415  # as above

    costs = None
    if settings.prune.context == "sensitivity":
        with console.status("pruning one layer after the other"):
            costs = sensitivity(trained, cubes, settings.prune, seed=settings.seed)
        for name, cost in costs.items():
            console.print(f"{name} alone: crops cost {100 * cost:+.1f} %")
    ratio = ratio_of(trained, settings.prune, costs)

    with curve_writer(curves_folder(out, "prune"), resume=False) as curves:

        def told(epoch: int, training_cost: float, cost: float) -> None:
            console.print(
                f"epoch {epoch}: cost {cost:.5f}, of crops trained on {training_cost:.5f}"
            )
            curves.add_scalar(HELD_BACK, cost, epoch)
            curves.add_scalar(TRAINING, training_cost, epoch)

        pruned = prune_sscnet(
            trained, cubes, settings.prune, ratio, seed=settings.seed, on_epoch=told
        )
    record = prune_record(trained, pruned, settings)
    console.print(size_table(record["before"], record["after"]))
    return changed(pruned, stage=record)


def prune_record(trained: Bundle, pruned: Bundle, settings: Settings) -> dict[str, Any]:
    """What a bundle remembers of its pruning."""
    return {
        "stage": "prune",
        "of": trained.name,
        "settings": settings.prune.model_dump(mode="json", exclude={"tune"}),
        "before": size_of(trained.network),
        "after": size_of(pruned.network),
    }
