"""What each command does, from files to files. The commands themselves are in `training.cli`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from codec.backend_names import BackendName
from codec.bundle import Bundle, untrained_bundle
from training.bundles import (
    as_record,
    changed,
    origin,
    read_bundle,
    size_of,
    stage_of,
    write_bundle,
)
from training.calibrate import calibrate
from training.config import FitSettings, Settings, load_settings
from training.errors import CheckpointError, SettingsError
from training.evaluate import Score, compare, evaluate
from training.scenes import Scene, Split, load_scenes, split_scenes
from training.seeds import seed_everything

_NAME_LENGTH: Final = 18
"""Characters a table has for the name of a scene, in a terminal of 80."""


def fit_step(
    scenes: Path, settings_path: Path | None, out: Path, *, resume: bool, console: Console
) -> None:
    """Train from the linear codec up."""
    from training.loop import initialized  # noqa: PLC0415  # fastai takes seconds to load

    settings, split = _prepare(scenes, settings_path)
    start = replace(
        initialized(_linear(settings), settings.seed), provenance=origin(settings, split)
    )
    _train_step(
        "fit",
        start,
        settings=settings,
        fit=settings.fit,
        split=split,
        out=out,
        resume=resume,
        console=console,
    )


def prune_step(
    bundle: Path,
    scenes: Path,
    settings_path: Path | None,
    out: Path,
    *,
    resume: bool,
    console: Console,
) -> None:
    """Prune, then fine-tune."""
    from training.prune import prune  # noqa: PLC0415  # FasterAI takes seconds to load

    settings, split = _prepare(scenes, settings_path)
    trained = read_bundle(bundle)
    pruned = prune(trained, settings.prune)
    record: dict[str, Any] = {
        "stage": "prune",
        "of": trained.name,
        "ratio": settings.prune.ratio,
        "before": size_of(trained.network),
        "after": size_of(pruned.network),
    }
    console.print(_size_table(record["before"], record["after"]))
    start = changed(pruned, stage=record)
    _train_step(
        "tune",
        start,
        settings=settings,
        fit=settings.prune.tune,
        split=split,
        out=out,
        resume=resume,
        console=console,
    )


def calibrate_step(
    bundle: Path, scenes: Path, settings_path: Path | None, out: Path, *, console: Console
) -> None:
    """Measure tables, scales and ranges."""
    settings, split = _prepare(scenes, settings_path)
    with console.status("encoding the training scenes"):
        calibrated = calibrate(read_bundle(bundle), split.training, settings.calibrate)
    ranges = calibrated.tensors["analysis_ranges"]
    record = {
        "stage": "calibrate",
        "settings": settings.calibrate.model_dump(mode="json"),
        "ranges": ranges.tolist(),
    }
    write_bundle(changed(calibrated, stage=record), out)
    console.print(f"{out}: input ranges {', '.join(f'{r:.3g}' for r in ranges)}")


def export_step(
    bundle: Path,
    scenes: Path,
    settings_path: Path | None,
    out: Path,
    name: str,
    *,
    console: Console,
) -> None:
    """Score and ship."""
    settings, split = _prepare(scenes, settings_path)
    model = read_bundle(bundle)
    linear = _linear_of(model)
    steps = [model.default_step * 2.0**octave for octave in settings.calibrate.octaves]
    held_back = split.validation
    with Bar(console=console) as bar:
        task = bar.add_task("scoring", total=2 * len(steps) * len(held_back))
        scored = {
            codec: evaluate(
                one, held_back, steps, codec=codec, on_score=lambda _: bar.advance(task)
            )
            for codec, one in (("prismlink", model), ("linear", linear))
        }
    shipped = changed(model, scores=_scores(scored["prismlink"], scored["linear"]))
    for suffix, one in (("", shipped), (".flight", shipped.for_flight())):
        path = out / f"{name}{suffix}.safetensors"
        write_bundle(one, path)
        console.print(f"{path}: model {one.name}, {path.stat().st_size / 1e6:.1f} MB")
    console.print(_comparison_table({"prismlink": scored["prismlink"]}, scored["linear"], "linear"))


def evaluate_step(
    bundles: Sequence[Path],
    scenes: Path,
    settings_path: Path | None,
    *,
    steps: str,
    linear: bool,
    held_back: bool,
    backend: str,
    console: Console,
) -> list[dict[str, Any]]:
    """Score bundles, print tables, return the scores as plain values."""
    if backend not in get_args(BackendName):
        raise SettingsError(f"--backend {backend}: one of {', '.join(get_args(BackendName))}")
    values = _steps(steps)
    settings = load_settings(settings_path)
    chosen: Sequence[Scene] = load_scenes(scenes, settings.scenes)
    if held_back:
        chosen = split_scenes(chosen, settings.scenes).validation
    named = {path.stem if len(bundles) > 1 else "prismlink": read_bundle(path) for path in bundles}
    if len(named) < len(bundles):
        named = {str(path): read_bundle(path) for path in bundles}
    if linear:
        named = {"linear": _linear_of(next(iter(named.values()))), **named}
    with Bar(console=console) as bar:
        task = bar.add_task("evaluating", total=len(named) * len(values) * len(chosen))
        scored = {
            codec: evaluate(
                bundle,
                chosen,
                values,
                codec=codec,
                backend=backend,  # type: ignore[arg-type]  # checked above
                on_score=lambda _: bar.advance(task),
            )
            for codec, bundle in named.items()
        }
    every = [score for scores in scored.values() for score in scores]
    console.print(_score_table(every))
    first, *others = scored
    if others and len(values) > 1:
        compared = {name: scored[name] for name in others}
        console.print(_comparison_table(compared, scored[first], first))
    return [score.to_dict() for score in every]


def _prepare(scenes: Path, settings_path: Path | None) -> tuple[Settings, Split]:
    settings = load_settings(settings_path)
    seed_everything(settings.seed)
    return settings, split_scenes(load_scenes(scenes, settings.scenes), settings.scenes)


def _linear(settings: Settings) -> Bundle:
    network = settings.network
    return untrained_bundle(
        network.spec(),
        network.conditioner(),
        default_step=network.default_step,
        seed=settings.seed,
    )


def _linear_of(bundle: Bundle) -> Bundle:
    """The linear codec of the same description, with the uncalibrated tables."""
    return untrained_bundle(bundle.network, bundle.conditioner, default_step=bundle.default_step)


def _train_step(
    stage: str,
    start: Bundle,
    *,
    settings: Settings,
    fit: FitSettings,
    split: Split,
    out: Path,
    resume: bool,
    console: Console,
) -> None:
    """Train, with a checkpoint each epoch; `out` is the best epoch."""
    from training.loop import Progress, train  # noqa: PLC0415  # fastai takes seconds to load

    last = out.with_suffix(f".last{out.suffix}")
    done: Progress | None = None
    if resume and last.exists():
        checkpoint = read_bundle(last)
        record = stage_of(checkpoint, stage)
        if record is None or checkpoint.network != start.network:
            raise CheckpointError(f"{last}: no checkpoint of this {stage}; remedy: no --resume")
        done = Progress(**{f.name: record[f.name] for f in fields(Progress)})
        start = checkpoint
        console.print(f"{last}: going on after epoch {done.epoch}")
    with Bar(console=console) as bar:
        task = bar.add_task(stage, total=fit.epochs, completed=done.epoch if done else 0)

        def save(tensors: Mapping[str, NDArray[Any]], progress: Progress) -> None:
            trained = changed(start, tensors=tensors, stage=as_record(stage, progress))
            if progress.is_best:
                write_bundle(trained, out)
            write_bundle(trained, last)
            bar.update(task, completed=progress.epoch)
            bar.console.print(
                f"epoch {progress.epoch}: cost {progress.cost:.5f}, "
                f"{100 * (progress.relative - 1):+.2f} % of the linear codec's"
                f"{', the best so far' if progress.is_best else ''}"
            )

        train(start, _linear_of(start), split, fit, seed=settings.seed, save=save, done=done)


def _steps(text: str) -> list[float]:
    try:
        steps = [float(part) for part in text.split(",")]
    except ValueError:
        steps = []
    if not steps or not all(math.isfinite(step) and step > 0 for step in steps):
        raise SettingsError(f"--steps {text}: positive numbers, separated by commas")
    return steps


def _scores(ours: Sequence[Score], linear: Sequence[Score]) -> dict[str, Any]:
    """What goes into the bundle: rate and quality, and the gain over the linear codec."""
    keys = ("scene", "step", "bytes", "bpppc", "psnr_db", "spectral_angle_deg", "backend")
    compared = {c.scene: c for c in compare(ours, linear)}
    return {
        "held_back": [{key: score.to_dict()[key] for key in keys} for score in ours],
        "rate_change_against_linear": {
            scene: c.rate_change for scene, c in compared.items() if math.isfinite(c.rate_change)
        },
        "psnr_change_db_against_linear": {
            scene: c.psnr_change_db
            for scene, c in compared.items()
            if math.isfinite(c.psnr_change_db)
        },
    }


def _size_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    table = Table("", "before", "after", "change", title="pruning")
    for key in ("params", "macs_encoder", "macs_decoder"):
        change = after[key] / before[key] - 1
        table.add_row(key, f"{before[key]:,}", f"{after[key]:,}", f"{100 * change:+.1f} %")
    return table


def _score_table(scores: Sequence[Score]) -> Table:
    runs = dict.fromkeys(f"{s.codec}: {s.backend} {s.precision}" for s in scores)
    # No lines between columns: nine of them have to fit a terminal of 80.
    table = Table(title=", ".join(runs), box=None, padding=(0, 1, 0, 0))
    table.add_column("scene", no_wrap=True)
    table.add_column("codec", no_wrap=True)
    numbers = ("step", "bytes", "bpppc", "PSNR dB", "angle °", "SSIM", "max DN")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    for s in scores:
        table.add_row(
            *(_short(s.scene), s.codec, f"{s.step:g}", str(s.bytes), f"{s.bpppc:.4f}"),
            *(f"{s.psnr_db:.2f}", f"{s.spectral_angle_deg:.2f}", f"{s.ssim:.3f}"),
            f"{s.max_abs_error:g}",
        )
    return table


def _short(scene: str) -> str:
    """The end of a long name: that is where HySpecNet's differ."""
    return scene if len(scene) <= _NAME_LENGTH else f"…{scene[1 - _NAME_LENGTH :]}"


def _comparison_table(
    scored: Mapping[str, Sequence[Score]], baseline: Sequence[Score], name: str
) -> Table:
    """Each codec against a baseline, scene by scene and averaged."""
    title = f"against {name}, over the range both reach"
    table = Table("codec", "scene", "bytes at equal PSNR", "PSNR at equal bytes", title=title)
    for codec, scores in scored.items():
        found = compare(scores, baseline)
        for c in found:
            table.add_row(
                codec,
                _short(c.scene),
                f"{100 * c.rate_change:+.2f} %",
                f"{c.psnr_change_db:+.3f} dB",
            )
        changes = np.array([(c.rate_change, c.psnr_change_db) for c in found]).reshape(-1, 2)
        changes = changes[np.isfinite(changes).all(axis=1)]
        if len(changes):
            rate, psnr = changes.mean(axis=0)
            table.add_row(codec, "mean", f"{100 * rate:+.2f} %", f"{psnr:+.3f} dB")
    return table
