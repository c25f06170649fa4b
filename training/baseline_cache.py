"""Scores of the baselines, kept in a file: they take minutes a scene and know nothing of a bundle.

The file is JSON: under a digest of everything a scene's scores depend on, the scores.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from codec import quality
from codec.tables import laplace_tables
from training import baselines, klt_j2k
from training.baselines import baseline_curves, every_baseline
from training.config import BaselineSettings
from training.errors import TrainingError
from training.evaluate import Curves, Score
from training.files import write_whole
from training.klt_j2k import KltJ2k
from training.scenes import Scene

_CODE: Final = (baselines, klt_j2k, quality)
"""Modules whose text is part of the digest; what they call shows in `_PROBE`'s bytes."""

_PROBE: Final = KltJ2k(components=8, step=128.0, side_step=128.0, resolutions=3)
"""One encoding whose bytes are part of the digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Scores of every baseline.

    Attributes:
        scores: By the name of the scene.
        read: Names of scenes whose scores were read from the file, timings included.
    """

    scores: dict[str, list[Score]]
    read: tuple[str, ...]

    def curves(self) -> dict[str, Curves]:
        """Rate and PSNR by baseline and scene."""
        found: dict[str, Curves] = {}
        for scene, scores in self.scores.items():
            for name, points in baseline_curves(scores).items():
                found.setdefault(name, {})[scene] = points
        return found

    def shown(self) -> list[Score]:
        """The scores that make the curves, and the lossless ones."""
        points = {
            point for found in self.curves().values() for line in found.values() for point in line
        }
        return [
            score
            for scores in self.scores.values()
            for score in scores
            if (score.bpppc, score.psnr_db) in points or score.max_abs_error == 0
        ]


def baselines_of(
    scenes: Sequence[Scene],
    settings: BaselineSettings,
    file: Path,
    *,
    workers: int = 0,
    on_scene: Callable[[str], None] = lambda _: None,
) -> Baselines:
    """Read what the file has, score the rest, and add each scene to the file as it is done.

    Args:
        scenes: What is scored.
        settings: How far is searched.
        file: Where scores are kept; made if absent.
        workers: Processes, of one thread each; 0 takes one per core.
        on_scene: Called with the name of each scene as it is had.

    Raises:
        TrainingError: If the file cannot be read, holds something else, or cannot be written.
    """
    kept = _read(file)
    keys = {scene.name: _key(scene, settings) for scene in scenes}
    read = tuple(name for name, key in keys.items() if key in kept)
    for name in read:
        on_scene(name)
    missing = {scene.name: scene for scene in scenes if scene.name not in read}
    # The longest first: nobody waits for one that was begun last.
    todo = sorted(missing.values(), key=lambda scene: -scene.tile.samples.size)
    if todo:
        size = min(workers or len(os.sched_getaffinity(0)), len(todo))
        # Spawned: a forked child would inherit torch's threads, or rather their locks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(size, context, torch.set_num_threads, (1,)) as pool:
            futures = {pool.submit(every_baseline, s, settings): s.name for s in todo}
            try:
                for future in as_completed(futures):
                    name = futures[future]
                    kept[keys[name]] = [score.to_dict() for score in future.result()]
                    write_whole(file, (json.dumps(kept, allow_nan=False) + "\n").encode())
                    on_scene(name)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return Baselines(
        scores={
            scene.name: [
                # The file may have the scene under another name.
                replace(Score.from_dict(values), scene=scene.name, group=scene.group)
                for values in kept[keys[scene.name]]
            ]
            for scene in scenes
        },
        read=read,
    )


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    if not file.exists():
        return {}
    try:
        kept: dict[str, list[dict[str, Any]]] = json.loads(file.read_text(encoding="utf-8"))
        for values in (values for scores in kept.values() for values in scores):
            Score.from_dict(values)
    except OSError as error:
        raise TrainingError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise TrainingError(
            f"{file}: no scores of baselines; remedy: remove it or name another --baselines"
        ) from None
    return kept


def _key(scene: Scene, settings: BaselineSettings) -> str:
    """Digest of the samples, the settings, the code and the library."""
    digest = hashlib.sha256()
    probe, _ = _PROBE.encode(scene.tile, laplace_tables())
    for part in (
        np.ascontiguousarray(scene.tile.samples).tobytes(),
        np.packbits(scene.tile.valid()).tobytes(),
        repr((scene.tile.samples.shape, scene.tile.info.reflectance_scale)).encode(),
        settings.model_dump_json().encode(),
        version("imagecodecs").encode(),
        probe,
        *(Path(str(module.__file__)).read_bytes() for module in _CODE),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
