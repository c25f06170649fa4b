"""`prismlink-train report`: bundles and baselines scored on real scenes, written up under docs/.

Everything shown is computed into one JSON value first; the pages are written from that alone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from rich.console import Console
from rich.progress import Progress as Bar

from codec.backend_names import BackendName
from codec.bundle import Bundle
from codec.encoder import Encoder
from codec.errors import TileError
from training.baseline_cache import baselines_of
from training.baselines import MAX_BPPPC
from training.bjontegaard import Delta, Interval
from training.bundles import commit, read_bundle, size_of, stage_of, versions
from training.config import load_settings
from training.errors import ScenesError, SettingsError, TrainingError
from training.evaluate import Curves, Score, compare, curves, evaluate
from training.files import write_whole
from training.plots import rate_changes, rate_distortion
from training.report_page import (
    BASELINES,
    CURVES_PICTURE,
    GAIN_PICTURE,
    OURS,
    Page,
    label_of,
    page_of,
)
from training.scenes import Scene, load_scenes, split_scenes
from training.steps import backend_of, linear_of, shortcut_of

SHORTCUT: Final = "shortcut alone"
LINEAR: Final = "shortcut alone, uncalibrated"

_VERSIONS_OF: Final = (
    *("prismlink", "torch", "openvino", "numpy", "scipy", "imagecodecs", "matplotlib"),
)
_SHOWN_RATES: Final = (0.015, 2.5)
"""What the plots show [bits per sample]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A bundle and its scores.

    Attributes:
        bundle: The model.
        scores: On every scene it can code, at every step.
        refused: What it said of the others, by the name of the scene.
    """

    bundle: Bundle
    scores: list[Score] = field(repr=False)
    refused: dict[str, str]


def report_step(
    bundle: Path,
    scenes: Path,
    settings_path: Path | None,
    out: Path,
    *,
    ablation: Sequence[str],
    every_scene: bool,
    baselines: Path,
    workers: int,
    backend: str,
    console: Console,
) -> None:
    """Score, compare, write results.md, .json, .html and the pictures."""
    runs_on = backend_of(backend)
    settings = load_settings(settings_path)
    bundles = _bundles(bundle, ablation)
    chosen: Sequence[Scene] = load_scenes(scenes, settings.scenes)
    if not every_scene:
        chosen = split_scenes(chosen, settings.scenes).validation
    if len({scene.name for scene in chosen}) < len(chosen):
        raise ScenesError(f"{scenes}: two scenes of one name; remedy: scenes.exclude one of them")
    _make_folder(out)

    with Bar(console=console) as bar:
        task = bar.add_task("scoring", total=len(bundles) + len(chosen))
        variants = {}
        for name, model in bundles.items():
            bar.update(task, description=name)
            steps = _steps(model, bundles[OURS], settings.report.steps)
            variants[name] = _scored(name, model, chosen, steps, runs_on)
            bar.advance(task)
        for scene, reason in variants[OURS].refused.items():
            raise ScenesError(f"{scene}: {reason}; remedy: scenes.exclude")
        bar.update(task, description="baselines, minutes a scene")
        kept = baselines_of(
            chosen,
            settings.report.baselines,
            baselines,
            workers=workers,
            on_scene=lambda _: bar.advance(task),
        )
    main = variants[OURS]
    theirs = kept.curves()
    ours = {name: curves(variant.scores) for name, variant in variants.items()}
    every = [score for variant in variants.values() for score in variant.scores]
    every += [score for scores in kept.scores.values() for score in scores]
    result = {
        **_origin(),
        "default_step": main.bundle.default_step,
        "settings": settings.report.model_dump(mode="json"),
        "scenes": [_scene(scene, read=scene.name in kept.read) for scene in chosen],
        "models": [_model(name, variant) for name, variant in variants.items()],
        "pruning": stage_of(main.bundle, "prune"),
        "deltas": [
            line
            for codec, found in ours.items()
            for against, other in (theirs | {OURS: ours[OURS]}).items()
            if codec != against
            for over in settings.report.ranges
            for line in _deltas(found, other, over, codec=codec, against=against)
        ],
        "scores": [score.to_dict() for score in every],
    }
    pictures = {
        CURVES_PICTURE: rate_distortion(_labeled(ours | theirs), over=_SHOWN_RATES),
        GAIN_PICTURE: rate_changes(
            _labeled(ours)[OURS],
            _labeled(theirs)["klt-j2k"],
            name="KLT + JPEG 2000",
            over=_SHOWN_RATES,
        ),
    }
    _write(out, result, page_of(result), pictures)
    console.print(f"{out}: results.md, results.html, results.json, {', '.join(pictures)}")


def _bundles(main: Path, ablation: Sequence[str]) -> dict[str, Bundle]:
    """Read the bundle, it without its networks, without all training, and those of LABEL=FILE."""
    bundles = {OURS: read_bundle(main)}
    for text in ablation:
        label, _, file = text.partition("=")
        if not label or not file or label in {*bundles, SHORTCUT, LINEAR, *BASELINES}:
            raise SettingsError(f"--ablation {text}: LABEL=FILE, each with a label of its own")
        bundles[label] = read_bundle(Path(file))
    main_bundle = bundles[OURS]
    if main_bundle.network.shortcut == "none":
        return bundles
    return bundles | {SHORTCUT: shortcut_of(main_bundle), LINEAR: linear_of(main_bundle)}


def _steps(bundle: Bundle, main: Bundle, steps: Sequence[float]) -> list[float]:
    """The settings' steps and the main bundle's own.

    Steps of another conditioner than the main one's mean something else: they keep their ratio to
    the default step.
    """
    every = sorted({*steps, main.default_step}, reverse=True)
    if bundle.conditioner.kind == main.conditioner.kind:
        return every
    return [step * bundle.default_step / main.default_step for step in every]


def _scored(
    name: str,
    bundle: Bundle,
    scenes: Sequence[Scene],
    steps: Sequence[float],
    backend: BackendName,
) -> Variant:
    """Score a bundle on the scenes it can code."""
    encoder, refused = Encoder(bundle, backend=backend), {}
    for scene in scenes:
        try:
            encoder.open(scene.tile, steps[0])
        except TileError as error:
            refused[scene.name] = str(error)
    codable = [scene for scene in scenes if scene.name not in refused]
    # Once for nothing: what runtimes do at the first call is no one's encoding time.
    evaluate(bundle, codable, [bundle.default_step], codec=name, backend=backend)
    scores = evaluate(bundle, codable, steps, codec=name, backend=backend, max_bpppc=MAX_BPPPC)
    return Variant(bundle=bundle, scores=scores, refused=refused)


def _deltas(
    ours: Curves, theirs: Curves, over: Interval, *, codec: str, against: str
) -> list[dict[str, Any]]:
    """A line per scene, and the mean over the scenes that have a value."""
    found = compare(ours, theirs, over)
    lines: dict[str, dict[str, Any]] = {scene: asdict(d) for scene, d in found.items()}
    of_rate = [d for d in found.values() if math.isfinite(d.rate_change)]
    of_psnr = [d for d in found.values() if math.isfinite(d.psnr_change_db)]
    lines["mean"] = {
        **asdict(
            Delta(
                rate_change=_mean([d.rate_change for d in of_rate]),
                rate_coverage=_mean([d.rate_coverage for d in of_rate]),
                psnr_change_db=_mean([d.psnr_change_db for d in of_psnr]),
                psnr_coverage=_mean([d.psnr_coverage for d in of_psnr]),
            )
        ),
        "scenes": len(of_rate),
    }
    head = {"codec": codec, "against": against, "low": over[0], "high": over[1]}
    return [{**head, "scene": scene, **_plain(values)} for scene, values in lines.items()]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def _model(name: str, variant: Variant) -> dict[str, Any]:
    bundle = variant.bundle
    return {
        "codec": name,
        "model": bundle.name,
        "conditioner": bundle.conditioner.kind,
        "runs_on": sorted({f"{score.backend} {score.precision}" for score in variant.scores}),
        **size_of(bundle.network),
        "refused": variant.refused,
    }


def _scene(scene: Scene, *, read: bool) -> dict[str, Any]:
    return {
        "scene": scene.name,
        "group": scene.group,
        "shape": list(scene.tile.samples.shape),
        "valid_samples": int(scene.tile.valid().sum()),
        "baselines_read": read,
    }


def _origin() -> dict[str, Any]:
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "made_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "versions": {
            **versions(_VERSIONS_OF),
            "openjpeg": imagecodecs.jpeg2k_version().rpartition(" ")[2],
            "libjxl": imagecodecs.jpegxl_version().rpartition(" ")[2],
        },
    }


def _processor() -> str:
    """Name of the processor; Linux tells it here, Python does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _labeled(found: Mapping[str, Curves]) -> dict[str, Curves]:
    return {
        codec: {label_of(scene): points for scene, points in of_scene.items()}
        for codec, of_scene in found.items()
    }


def _make_folder(out: Path) -> None:
    """Fail before minutes of work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made: {error.strerror}") from None


def _write(out: Path, result: Mapping[str, Any], page: Page, pictures: Mapping[str, bytes]) -> None:
    for name, content in pictures.items():
        write_whole(out / name, content)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_whole(out / "results.json", text.encode())
    write_whole(out / "results.md", page.to_markdown().encode())
    write_whole(out / "results.html", page.to_html(pictures).encode())
