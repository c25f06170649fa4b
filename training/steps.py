"""What each command does, from files to files. The commands themselves are in `training.cli`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console
from rich.progress import Progress as Bar

from codec.backend_names import BackendName
from codec.bundle import Bundle, untrained_bundle
from codec.known_answer import answered
from training.baseline_cache import baselines_of
from training.bundles import (
    as_record,
    changed,
    checksums_of,
    names_of,
    origin,
    read_bundle,
    write_bundle,
)
from training.calibrate import calibrate
from training.config import FitSettings, Settings, load_settings
from training.console_tables import comparison_table, score_table, size_table
from training.distributed import team
from training.errors import SettingsError
from training.evaluate import Score, compare, curves, evaluate
from training.hyspecnet import PatchFiles, find_patches
from training.scenes import Scene, Split, load_scenes, split_scenes
from training.seeds import seed_everything
from training.store import PatchStore, convert
from training.training_steps import Trainer, prune_record, scheduled_pruning, train_step


def fit_step(
    scenes: Path, settings_path: Path | None, out: Path, *, resume: bool, console: Console
) -> None:
    """Train from the linear codec up."""
    from training.loop import initialized  # noqa: PLC0415  # fastai takes seconds to load

    settings, split = _prepare(scenes, settings_path)
    start = changed(
        initialized(linear_codec(settings), settings.seed),
        provenance=origin(settings, names_of(split), checksums_of(split)),
    )
    train_step(
        "fit",
        start,
        _trainer(start, split, settings, settings.fit),
        fit=settings.fit,
        seed=settings.seed,
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
    from training.prune import prune, ratio_of  # noqa: PLC0415  # FasterAI takes seconds to load

    settings, split = _prepare(scenes, settings_path)
    trained = read_bundle(bundle)
    if settings.prune.schedule != "one_shot":
        from training.sscnet import scene_cubes  # noqa: PLC0415  # as above

        if trained.network.shortcut != "none" or resume or team().size > 1:
            raise SettingsError(
                f"prune.schedule {settings.prune.schedule}: only for a network without a shortcut, "
                "on one process, and not to be resumed; remedy: one_shot"
            )
        cubes = scene_cubes(split, trained.network.components)
        write_bundle(scheduled_pruning(trained, cubes, settings, out, console), out)
        return
    if settings.prune.context == "sensitivity" or settings.prune.distill:
        raise SettingsError("prune.context sensitivity, distill: with a schedule; remedy: agp")
    if settings.prune.fewer_ms is not None and resume:
        raise SettingsError("prune.fewer_ms: measured anew each time; remedy: no --resume")
    pruned = prune(trained, settings.prune, ratio_of(trained, settings.prune))
    record = prune_record(trained, pruned, settings)
    console.print(size_table(record["before"], record["after"]))
    start = changed(pruned, stage=record)
    train_step(
        "tune",
        start,
        _trainer(start, split, settings, settings.prune.tune),
        fit=settings.prune.tune,
        seed=settings.seed,
        out=out,
        resume=resume,
        console=console,
    )


def calibrate_step(
    bundle: Path, scenes: Path, settings_path: Path | None, out: Path, *, console: Console
) -> None:
    """Measure tables, scales and ranges."""
    settings, split = _prepare(scenes, settings_path)
    model, scenes_seen = read_bundle(bundle), list(split.training)
    if model.network.shortcut == "none":
        from training.sscnet import resampled  # noqa: PLC0415  # fastai takes seconds to load

        scenes_seen = resampled(scenes_seen, model.network.components)
    with console.status("encoding the training scenes"):
        calibrated = calibrate(model, scenes_seen, settings.calibrate)
    ranges = calibrated.tensors["analysis_ranges"]
    record = {
        "stage": "calibrate",
        "settings": settings.calibrate.model_dump(mode="json"),
        "ranges": ranges.tolist(),
    }
    write_bundle(changed(calibrated, stage=record), out)
    console.print(f"{out}: input ranges {', '.join(f'{r:.3g}' for r in ranges)}")


def restore_step(
    bundle: Path, scenes: Path, settings_path: Path | None, out: Path, *, console: Console
) -> None:
    """Train the network that restores coefficients on the ground."""
    from training.restore import Restoration, train_restorer  # noqa: PLC0415  # fastai, as above

    settings, split = _prepare(scenes, settings_path)
    console.print("coding the scenes, then training on their coefficients")

    def told(now: Restoration) -> None:
        gain_db = 10 * math.log10(now.start_error / now.error)
        console.print(f"epoch {now.epoch}: error of held-back coefficients {-gain_db:+.4f} dB")

    trained, best = train_restorer(
        read_bundle(bundle), split, settings.restore, seed=settings.seed, on_epoch=told
    )
    record = as_record("restore", best)
    record["settings"] = settings.restore.model_dump(mode="json")
    write_bundle(changed(trained, stage=record), out)


def export_step(
    bundle: Path,
    scenes: Path,
    settings_path: Path | None,
    out: Path,
    name: str,
    *,
    sign_with: Path | None,
    console: Console,
) -> None:
    """Score and ship, with a known answer, and signed where there is a key."""
    from training.signing import read_key, sign  # noqa: PLC0415  # for this alone

    key = None if sign_with is None else read_key(sign_with)
    settings, split = _prepare(scenes, settings_path)
    model = read_bundle(bundle)
    steps = [model.default_step * 2.0**octave for octave in settings.calibrate.octaves]
    scored_ones, held_back = {"prismlink": model}, list(split.validation)
    if model.network.shortcut == "none":  # and nothing it could be held against
        from training.sscnet import resampled  # noqa: PLC0415  # fastai takes seconds to load

        held_back = resampled(held_back, model.network.components)
    else:
        scored_ones["linear"] = linear_of(model)
    with Bar(console=console) as bar:
        task = bar.add_task("scoring", total=len(scored_ones) * len(steps) * len(held_back))
        scored = {
            codec: evaluate(
                one, held_back, steps, codec=codec, on_score=lambda _: bar.advance(task)
            )
            for codec, one in scored_ones.items()
        }
    shipped = answered(changed(model, scores=_scores(scored["prismlink"], scored.get("linear"))))
    for suffix, one in (("", shipped), (".flight", shipped.for_flight())):
        path = out / f"{name}{suffix}.safetensors"
        write_bundle(one, path)
        console.print(f"{path}: model {one.name}, {path.stat().st_size / 1e6:.1f} MB")
        if key is not None:
            console.print(f"{sign(path, key)}: signed")
    if "linear" in scored:
        ours, theirs = (curves(scored[codec]) for codec in ("prismlink", "linear"))
        console.print(comparison_table({"prismlink": ours}, theirs, "linear"))
    else:
        console.print(score_table(scored["prismlink"]))


def evaluate_step(
    bundles: Sequence[Path],
    scenes: Path,
    settings_path: Path | None,
    *,
    steps: str,
    linear: bool,
    held_back: bool,
    backend: str,
    baselines: Path | None,
    console: Console,
) -> list[dict[str, Any]]:
    """Score bundles, print tables, return the scores as plain values."""
    runs_on = backend_of(backend)
    values = _steps(steps)
    settings = load_settings(settings_path)
    chosen: Sequence[Scene] = load_scenes(scenes, settings.scenes)
    if held_back:
        chosen = split_scenes(chosen, settings.scenes).validation
    named = {path.stem if len(bundles) > 1 else "prismlink": read_bundle(path) for path in bundles}
    if len(named) < len(bundles):
        named = {str(path): read_bundle(path) for path in bundles}
    if linear:
        named = {"linear": linear_of(next(iter(named.values()))), **named}
    with Bar(console=console) as bar:
        task = bar.add_task("evaluating", total=len(named) * len(values) * len(chosen))
        scored = {
            codec: evaluate(
                bundle,
                chosen,
                values,
                codec=codec,
                backend=runs_on,
                on_score=lambda _: bar.advance(task),
            )
            for codec, bundle in named.items()
        }
    every = [score for scores in scored.values() for score in scores]
    console.print(score_table(every))
    compared = {codec: curves(scores) for codec, scores in scored.items()}
    first, *others = compared
    if others and len(values) > 1:
        console.print(comparison_table({o: compared[o] for o in others}, compared[first], first))
    if baselines is not None:
        with console.status("scoring the baselines, minutes a scene"):
            kept = baselines_of(chosen, settings.report.baselines, baselines)
        console.print(score_table(kept.shown()))
        if len(values) > 1:
            for name, theirs in kept.curves().items():
                console.print(comparison_table(compared, theirs, name))
        every += [score for scores in kept.scores.values() for score in scores]
    return [score.to_dict() for score in every]


def convert_step(
    tree: Path,
    out: Path,
    *,
    usable_only: bool,
    console: Console,
    strict: bool = False,
    verify: bool = False,
    workers: int = 2,
) -> PatchStore:
    """Convert a tree; name what is skipped."""
    total = len(find_patches(tree))
    with Bar(*Bar.get_default_columns(), console=console) as bar:
        task = bar.add_task("converting", total=total)

        def told(_: PatchFiles, error: str) -> None:
            bar.advance(task)
            if error:
                bar.console.print(f"skipped: {error}", style="yellow", markup=False)

        store = convert(
            tree, out, usable_only=usable_only, strict=strict, workers=workers, on_patch=told
        )
    skipped = total - len(store.paths)
    console.print(f"{out}: {len(store.paths)} patches, {skipped} skipped")
    if verify:
        store.verify()
        console.print(f"{out}: every patch is what was read")
    return store


def _prepare(scenes: Path, settings_path: Path | None) -> tuple[Settings, Split]:
    settings = load_settings(settings_path)
    seed_everything(settings.seed)
    return settings, split_scenes(load_scenes(scenes, settings.scenes), settings.scenes)


def backend_of(name: str) -> BackendName:
    """Check the name of a backend.

    Raises:
        SettingsError: If it is none.
    """
    for known in get_args(BackendName):
        if name == known:
            return cast(BackendName, known)
    raise SettingsError(f"--backend {name}: one of {', '.join(get_args(BackendName))}")


def linear_codec(settings: Settings) -> Bundle:
    """The codec of some settings before any training."""
    network = settings.network
    return untrained_bundle(
        network.spec(),
        network.conditioner(),
        default_step=network.default_step,
        seed=settings.seed,
    )


def linear_of(bundle: Bundle) -> Bundle:
    """The linear codec of the same description, with the uncalibrated tables."""
    return untrained_bundle(bundle.network, bundle.conditioner, default_step=bundle.default_step)


def shortcut_of(bundle: Bundle) -> Bundle:
    """The same codec, calibrated as it is, with networks that add nothing."""
    untrained = linear_of(bundle).tensors.items()
    networks = {k: v for k, v in untrained if k.startswith(("analysis.", "synthesis."))}
    return changed(bundle, tensors=networks)


def _trainer(start: Bundle, split: Split, settings: Settings, fit: FitSettings) -> Trainer:
    """What trains a network on scenes: alone by its error, beside a shortcut by rate too."""
    from training.loop import train  # noqa: PLC0415  # fastai takes seconds to load
    from training.sscnet import scene_cubes, train_sscnet  # noqa: PLC0415  # as above

    if start.network.shortcut == "none":
        cubes = scene_cubes(split, start.network.components)
        return partial(train_sscnet, cubes=cubes, settings=fit, seed=settings.seed)
    return partial(train, linear=linear_of(start), split=split, settings=fit, seed=settings.seed)


def shares_of(text: str) -> list[float]:
    """Read shares between 0 and 1, ascending.

    Raises:
        SettingsError: If they are none.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or sorted(set(shares)) != shares or not 0 < shares[0] <= shares[-1] < 1:
        raise SettingsError(f"--fewer {text}: ascending shares between 0 and 1, by commas")
    return shares


def _steps(text: str) -> list[float]:
    try:
        steps = [float(part) for part in text.split(",")]
    except ValueError:
        steps = []
    if not steps or not all(math.isfinite(step) and step > 0 for step in steps):
        raise SettingsError(f"--steps {text}: positive numbers, separated by commas")
    return steps


def _scores(ours: Sequence[Score], linear: Sequence[Score] | None) -> dict[str, Any]:
    """What goes into the bundle: rate and quality, and the gain over the linear codec."""
    keys = ("scene", "step", "bytes", "bpppc", "psnr_db", "spectral_angle_deg", "backend")
    held_back = {"held_back": [{key: score.to_dict()[key] for key in keys} for score in ours]}
    if linear is None:
        return held_back
    compared = compare(curves(ours), curves(linear))
    return {
        **held_back,
        "rate_change_against_linear": {
            scene: d.rate_change for scene, d in compared.items() if math.isfinite(d.rate_change)
        },
        "psnr_change_db_against_linear": {
            scene: d.psnr_change_db
            for scene, d in compared.items()
            if math.isfinite(d.psnr_change_db)
        },
    }
