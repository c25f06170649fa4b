"""`bench`: how fast the flight side is, whole and by stage, beside what it could be at most.

A run streams tiles of one scene through the flight line (`daemon.bench_stream`). A row is an
encoder with a batch size; the last one is the baseline, the same model's network in float32 on
eager PyTorch, its branch run even where it adds nothing. In every round each row takes each scene
in turn, so that what disturbs the machine disturbs all of them; the median of the rounds is told.

Throughput and the times of stages come from runs fed as fast as tiles are taken. There latency says
how long the queues are, so it comes from runs of its own, at the instrument's pace. A stage's time
is that of its thread, which shares the cores with the others.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.encoder import Encoder
from codec.patch_grid import PATCH_PX
from codec.tile_files import find_scenes
from daemon.bench_feed import BenchScene, read_scene
from daemon.bench_floors import Load, floors, load_of, mean_floors, measure_machine
from daemon.bench_gpu import measure_gpu
from daemon.bench_settings import BenchSettings, line_settings
from daemon.bench_stream import STAGES, Lane, Stopwatch, Streamed
from daemon.clock import Clock
from daemon.config import FlightSettings
from daemon.config_models import FlightModelSettings
from daemon.cores import claim
from daemon.errors import BenchError
from daemon.feed import ENMAP_PATCHES_PER_S
from daemon.onboard.models import load_encoder

PERCENTILES: Final = (50, 95, 99)

_NETWORK_STAGES: Final = ("condition", "analyze")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A scene that was not measured, and why."""

    scene: str
    reason: str


class EagerFloat32:
    """The baseline: a bundle's network as PyTorch runs it, in float32, its branch included.

    Args:
        bundle: The model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.name, self.precision, self.device = "torch-cpu-eager", "float32", None
        self.weights: tuple[NDArray[Any], ...] = ()
        self._network = bundle.analysis()
        self._network.runs_branch = True

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Components (k, rows, cols) to latents (channels, ⌈rows/8⌉, ⌈cols/8⌉), patch by patch."""
        with torch.inference_mode():
            return [self._network(torch.from_numpy(patch)[None])[0].numpy() for patch in patches]


class Bench:
    """Rows and scenes, ready to be run in turn.

    Args:
        settings: What is measured.
        clock: Measures it.
        tell: Told in a line of every scene that is left out.

    Attributes:
        scenes: What is streamed.
        skipped: What is not.
        lanes: A row for each batch size; they share one encoder.
        eager: The baseline's row.
        load_s: Time to load the model: its file, its runtime, its known answer, one patch [s].
        first_tile_s: Time from the first tile's message to its last packet spooled [s].

    Raises:
        ConfigError: If settings or model cannot be used.
        CodecError: If a scene cannot be read.
        BenchError: If no scene fits the model.
    """

    def __init__(
        self, settings: BenchSettings, *, clock: Clock, tell: Callable[[str], object]
    ) -> None:
        self.settings, self._clock = settings, clock
        first = line_settings(settings, settings.batches[0])
        start_s = clock.monotonic_s()
        stopwatch = Stopwatch()
        encoder = load_encoder(first.model, stopwatch)
        self.load_s = clock.monotonic_s() - start_s
        self.scenes, self.skipped = _scenes(settings, encoder.bundle, tell)
        tile_bytes = max(scene.tile.samples.nbytes for scene in self.scenes)

        def lane(batch: int, encoder: Encoder, stopwatch: Stopwatch) -> Lane:
            line = line_settings(settings, batch, tile_bytes)
            return Lane(settings=line, encoder=encoder, stopwatch=stopwatch, clock=clock)

        self.lanes = tuple(lane(batch, encoder, stopwatch) for batch in settings.batches)
        stopwatch = Stopwatch()
        self.eager = lane(settings.batches[0], _eager(first.model, stopwatch), stopwatch)
        self.first_tile_s = self._stream(self.lanes[0], self.scenes[0], tiles=1).seconds
        self._stream(self.eager, self.scenes[0], tiles=1)
        rows = (*self.lanes, self.eager)
        self._saturated: dict[tuple[int, int], list[Streamed]] = {
            (row, scene): [] for row in range(len(rows)) for scene in range(len(self.scenes))
        }
        self._paced: dict[tuple[int, int], list[Streamed]] = {key: [] for key in self._saturated}

    @property
    def encoder(self) -> Encoder:
        """What the rows measure; not the baseline's."""
        return self.lanes[0].encoder

    def round(self) -> None:
        """Run every row on every scene once, and once more at the instrument's pace.

        Raises:
            BenchError: If a patch was lost.
        """
        for column, scene in enumerate(self.scenes):
            for row, lane in enumerate((*self.lanes, self.eager)):
                self._saturated[row, column].append(self._stream(lane, scene))
            for row, lane in enumerate(self.lanes):
                if rate := self.settings.rate:
                    self._paced[row, column].append(self._stream(lane, scene, rate=rate))

    def summary(self) -> dict[str, Any]:
        """What `bench --json` writes; at least one round must have been run."""
        settings, encoder = self.settings, self.encoder
        best = self._row(0)
        eager = _throughput(self._of_row(len(self.lanes)))
        machine = measure_machine(
            int8_threads=_threads(self.lanes[0].settings)
            if (encoder.backend.name, encoder.backend.precision) == ("openvino-cpu", "int8")
            else None,
            clock=self._clock,
        )
        runs = [run for row in range(len(self.lanes)) for run in self._all_of_row(row)]
        _, *px = self.scenes[0].tile.samples.shape
        patch_px = [min(PATCH_PX, edge) for edge in px]
        return {
            "device": _device(encoder.backend.name),
            "backend": encoder.backend.name,
            "precision": encoder.backend.precision,
            "bundle": encoder.bundle.name,
            "patch_shape": [max(s.tile.samples.shape[0] for s in self.scenes), *patch_px],
            "tile_shape": [*settings.tile_shape],
            "threads": _threads(self.lanes[0].settings),
            "cores": len(os.sched_getaffinity(0)),
            "step": encoder.step,
            "speed": self.lanes[0].settings.model.speed,
            "source": settings.source,
            "interleave": settings.interleave,
            "tiles_per_run": settings.tiles,
            "rounds": len(self._saturated[0, 0]),
            **{k: v for k, v in best.items() if k not in ("batch", "patches_per_batch")},
            "patches": sum(run.patches for run in runs),
            "cold_s": self.load_s + self.first_tile_s,
            "load_s": self.load_s,
            "first_tile_s": self.first_tile_s,
            "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
            "fp32_eager_patches_per_s": eager,
            "speedup": best["patches_per_s"] / eager,
            "batches": [self._row(row) for row in range(len(self.lanes))],
            "scenes": [self._scene(i) for i in range(len(self.scenes))],
            "skipped": [asdict(scene) for scene in self.skipped],
            "machine": asdict(machine),
            "gpu": measure_gpu(encoder, self.scenes[0].tile, self._clock),
            "floors": {
                stage: asdict(floor)
                for stage, floor in mean_floors(
                    [
                        floors(self._load(i), machine, encoder.backend.precision)
                        for i in range(len(self.scenes))
                    ]
                ).items()
            },
        }

    def _stream(
        self, lane: Lane, scene: BenchScene, *, tiles: int | None = None, rate: float = 0.0
    ) -> Streamed:
        return lane.stream(scene, tiles=tiles, rate=rate, source=self.settings.source)

    def _of_row(self, row: int) -> list[tuple[Streamed, ...]]:
        """Saturated runs of a row, those of one round together."""
        columns = [self._saturated[row, column] for column in range(len(self.scenes))]
        return list(zip(*columns, strict=True))

    def _all_of_row(self, row: int) -> list[Streamed]:
        return [
            run
            for table in (self._saturated, self._paced)
            for (r, _), runs in table.items()
            if r == row
            for run in runs
        ]

    def _row(self, row: int) -> dict[str, Any]:
        rounds = self._of_row(row)
        runs = [run for one_round in rounds for run in one_round]
        paced = [run for (r, _), each in self._paced.items() if r == row for run in each]
        latencies = [s for run in paced or runs for s in run.latencies_s]
        patches_per_s = _throughput(rounds)
        return {
            "batch": self.settings.batches[row],
            "patches_per_batch": fmean(run.patches / run.batches for run in runs),
            "patches_per_s": patches_per_s,
            "realtime_factor_enmap": patches_per_s / ENMAP_PATCHES_PER_S,
            "stage_seconds_per_patch": _stage_seconds(rounds),
            "share_beside_condition_and_analyze": median(_share(each) for each in rounds),
            "latency_s": {f"p{p}": float(np.percentile(latencies, p)) for p in PERCENTILES},
            "latency_rate_enmap": self.settings.rate if paced else None,
        }

    def _scene(self, column: int) -> dict[str, Any]:
        """The first row's figures of one scene."""
        scene, runs = self.scenes[column], self._saturated[0, column]
        rounds = [(run,) for run in runs]
        last = runs[-1]
        return {
            "scene": scene.name,
            "bands": scene.tile.samples.shape[0],
            "patches_per_s": _throughput(rounds),
            "bpppc": 8 * last.packet_bytes / max(1, last.valid_samples),
            "frames_bpppc": 8 * last.frame_bytes / max(1, last.valid_samples),
            "stage_seconds_per_patch": _stage_seconds(rounds),
            "share_beside_condition_and_analyze": median(_share(each) for each in rounds),
        }

    def _load(self, column: int) -> Load:
        scene, run = self.scenes[column], self._saturated[0, column][-1]
        return load_of(
            self.encoder,
            scene.tile,
            patches=scene.patches,
            frame_bytes=run.patch_frame_bytes / run.patches,
            packet_bytes=run.packet_bytes / run.patches,
            speed=self.lanes[0].settings.model.speed,
        )


def run(
    settings: BenchSettings,
    *,
    clock: Clock,
    tell: Callable[[str], object],
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure; return what `bench --json` writes.

    Args:
        settings: What is measured.
        clock: Measures it.
        tell: Told in a line of every scene that is left out.
        on_round: Called after each round.

    Raises:
        ConfigError: If settings or model cannot be used.
        CodecError: If a scene cannot be read.
        BenchError: If no scene fits the model, or a patch was lost.
    """
    bench = Bench(settings, clock=clock, tell=tell)
    for _ in range(settings.rounds):
        bench.round()
        on_round()
    return bench.summary()


def _eager(model: FlightModelSettings, stopwatch: Stopwatch) -> Encoder:
    encoder = load_encoder(model.model_copy(update={"backend": "torch-cpu"}), stopwatch)
    encoder.backend = EagerFloat32(encoder.bundle)
    return encoder


def _scenes(
    settings: BenchSettings, bundle: Bundle, tell: Callable[[str], object]
) -> tuple[tuple[BenchScene, ...], tuple[Skipped, ...]]:
    """Read the scenes that fit the model.

    Raises:
        CodecError: If one cannot be read.
        BenchError: If none fits.
    """
    scenes: list[BenchScene] = []
    skipped: list[Skipped] = []
    takes = bundle.conditioner.components if bundle.conditioner.kind == "minmax" else None
    for path in (path for given in settings.scenes for path in find_scenes(given)):
        scene = read_scene(
            path, settings.rows_cols, tiles=settings.tiles, interleave=settings.interleave
        )
        bands = scene.tile.samples.shape[0]
        if takes is None or bands == takes:
            scenes.append(scene)
            continue
        reason = f"{bands} bands, model {bundle.name} takes {takes}"
        skipped.append(Skipped(scene=scene.name, reason=reason))
        tell(f"{path}: left out: {reason}")
    if not scenes:
        raise BenchError(
            f"no scene fits model {bundle.name}, which takes {takes} bands; remedy: other scenes, "
            "or another --bundle"
        )
    return tuple(scenes), tuple(skipped)


def _throughput(rounds: Iterable[Sequence[Streamed]]) -> float:
    """Patches per second over all scenes, the median of the rounds."""
    return median(
        sum(run.patches for run in runs) / sum(run.seconds for run in runs) for runs in rounds
    )


def _stage_seconds(rounds: Sequence[Sequence[Streamed]]) -> dict[str, float]:
    """Seconds per patch of each stage, over all scenes, the median of the rounds."""
    return {
        stage: median(
            sum(run.stage_seconds[stage] for run in runs) / sum(run.patches for run in runs)
            for runs in rounds
        )
        for stage in STAGES
    }


def _share(runs: Sequence[Streamed]) -> float:
    """Share of the threads' time that is neither conditioning nor the network."""
    busy_s = sum(run.busy_seconds for run in runs)
    network_s = sum(run.stage_seconds[stage] for run in runs for stage in _NETWORK_STAGES)
    return 1 - network_s / busy_s if busy_s > 0 else 0.0


def _threads(settings: FlightSettings) -> int:
    return claim(settings.model.threads)


def _device(backend: str) -> str:
    if "cuda" in backend:
        return torch.cuda.get_device_name()
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M):
            return found[1].strip()
    return platform.processor() or platform.machine()
