"""What encoding costs against how much there is to encode: time per sample, and peak memory.

    python tests/benchmarks/scaling.py --edges 128,256,512,1024 --plot docs/scaling.png

Square tiles of 224 bands by their edge, then tiles of 256 × 256 px by their bands, at two speeds:
whole tiles by `codec.encoder` on one core, each size in a process of its own. A tile is a scene,
mirrored to the size, its valid bands interpolated to the number; noise of one DN keeps the images
apart. Time is that of the processor, which other work on the machine disturbs less; of the runs,
after one of a small tile, the median counts. Memory is the most that the process had, with the
tile's samples in it. Time is fitted by a power of the samples, and both by straight lines: what a
tile costs whatever its size makes the power less than 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from codec.bundle import load_bundle
from codec.encoder import Encoder
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from daemon.bench_feed import mirrored
from daemon.peak_memory import peak_rss_bytes, reset_peak_rss

ROOT = Path(__file__).parents[2]
BANDS, EDGE_PX = 224, 256
MIB = 1 << 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
COLORS = ("#0072b2", "#d55e00")  # Okabe and Ito's
LINES = ("o-", "s--")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one tile costs.

    Attributes:
        seconds: Of the processor, the median run.
        wall_seconds: The same by the clock on the wall.
        peak_rss_bytes: Most memory while it is encoded.
        bytes_out: Of all frames.
    """

    edge_px: int
    bands: int
    speed: int
    seconds: float
    wall_seconds: float
    peak_rss_bytes: int
    bytes_out: int

    @property
    def samples(self) -> int:
        """Samples of the tile."""
        return self.bands * self.edge_px**2


def main() -> None:
    """Measure, print a table and what it comes to, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=Path, default=ROOT / "tests" / "data" / "hyspecnet-11k")
    parser.add_argument("--bundle", type=Path, default=ROOT / "deploy/models/default.safetensors")
    parser.add_argument("--edges", default="128,256,512,1024,2048")
    parser.add_argument("--bands", default="64,128,224,320,450")
    parser.add_argument("--speeds", default="0,1")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--one", help=argparse.SUPPRESS
    )  # edge, bands and speed, in its own process
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(asdict(measure(chosen, *numbers(chosen.one)))))
        return
    sweeps = {
        f"{BANDS} bands": [(edge, BANDS) for edge in numbers(chosen.edges)],
        f"{EDGE_PX} × {EDGE_PX} px": [(EDGE_PX, bands) for bands in numbers(chosen.bands)],
    }
    print(
        f"{'px':>11} {'bands':>5} {'speed':>5} {'Msamples':>8} {'s':>7} {'on the wall':>11} ",
        end="",
    )
    print(f"{'ns/sample':>9} {'peak MiB':>8} {'bit/sample':>10}")
    curves: dict[str, list[Cost]] = {}
    for speed in numbers(chosen.speeds):
        known: dict[tuple[int, int], Cost] = {}
        for name, sizes in sweeps.items():
            for edge, bands in sizes:
                if (edge, bands) not in known:
                    known[edge, bands] = cost = in_a_process(edge, bands, speed)
                    print(row(cost), flush=True)
            curves[f"{name}, speed {speed}"] = [known[size] for size in sizes]
    for name, costs in curves.items():
        print(f"{name}: {verdict(costs)}")
    if chosen.json is not None:
        rows = {name: [asdict(cost) for cost in costs] for name, costs in curves.items()}
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    if chosen.plot is not None:
        draw(curves).savefig(chosen.plot, dpi=110)


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(word) for word in text.split(",")]


def in_a_process(edge_px: int, bands: int, speed: int) -> Cost:
    """Measure with the same options in a new process, so that no peak is that of another size."""
    done = subprocess.run(
        [sys.executable, *sys.argv, "--one", f"{edge_px},{bands},{speed}"],
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{edge_px} px, {bands} bands: ended with status {done.returncode}")
    return Cost(**json.loads(done.stdout))


def measure(chosen: argparse.Namespace, edge_px: int, bands: int, speed: int) -> Cost:
    """Measure one tile in this process."""
    torch.set_num_threads(1)
    encoder = Encoder(load_bundle(chosen.bundle), backend="torch-cpu", threads=1, speed=speed)
    scene = with_bands(read_tile(find_scenes(chosen.scene)[0]), bands)
    encoder.encode(mirrored(scene, EDGE_PX // 4, EDGE_PX // 4))
    tile = mirrored(scene, edge_px, edge_px)
    rng = np.random.default_rng(1)
    for band in range(bands):
        tile.samples[band] += rng.integers(-1, 2, (edge_px, edge_px), dtype=np.int16)
    reset_peak_rss()
    took_s, wall_s = [], []
    for _ in range(chosen.runs):
        start_s, wall_start_s = time.process_time(), time.perf_counter()
        frames = encoder.encode(tile)
        took_s.append(time.process_time() - start_s)
        wall_s.append(time.perf_counter() - wall_start_s)
    return Cost(
        edge_px=edge_px,
        bands=bands,
        speed=speed,
        seconds=median(took_s),
        wall_seconds=median(wall_s),
        peak_rss_bytes=peak_rss_bytes(),
        bytes_out=sum(map(len, frames)),
    )


def with_bands(scene: Tile, bands: int) -> Tile:
    """Interpolate the bands that hold no fill to a number of them."""
    good = scene.samples[scene.valid().all(axis=(1, 2))].astype(np.float32)
    place = np.linspace(0, len(good) - 1, bands, dtype=np.float32)
    below = np.minimum(place.astype(int), len(good) - 2)
    share = (place - below)[:, None, None]
    samples = good[below] * (1 - share) + good[below + 1] * share
    info = TileInfo(sensor=scene.info.sensor, reflectance_scale=scene.info.reflectance_scale)
    return Tile(samples=np.rint(samples).astype(np.int16), info=info)


def row(cost: Cost) -> str:
    """A line of the table."""
    size = f"{cost.edge_px} × {cost.edge_px}"
    return (
        f"{size:>11} {cost.bands:5} {cost.speed:5} {cost.samples / 1e6:8.1f} {cost.seconds:7.2f} "
        f"{cost.wall_seconds:11.2f} {1e9 * cost.seconds / cost.samples:9.1f} "
        f"{cost.peak_rss_bytes / MIB:8.0f} "
        f"{8 * cost.bytes_out / cost.samples:10.4f}"
    )


def verdict(costs: Sequence[Cost]) -> str:
    """What time and memory are proportional to."""
    samples = np.array([cost.samples for cost in costs], dtype=float)
    took, peaks = (
        np.array([getattr(cost, name) for cost in costs], dtype=float)
        for name in ("seconds", "peak_rss_bytes")
    )
    power, _ = np.polyfit(np.log(samples), np.log(took), 1)
    per_sample, fixed, off = line(samples, took)
    bytes_per_sample, base, peaks_off = line(samples, peaks)
    return (
        f"time ∝ samples^{power:.3f}, or {1e3 * fixed:.0f} ms + {1e9 * per_sample:.1f} ns a sample "
        f"(off by {off:.0%} at most); memory {base / MIB:.0f} MiB + {bytes_per_sample:.2f} bytes "
        f"a sample (off by {peaks_off:.1%})"
    )


def line(samples: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Fit a straight line by relative errors: its slope, its start, and the largest error [1]."""
    slope, start = np.polyfit(samples, values, 1, w=1 / values)
    return slope, start, float(np.abs((start + slope * samples) / values - 1).max())


def draw(curves: Mapping[str, Sequence[Cost]]) -> Figure:
    """Draw both over samples."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, costs) in enumerate(curves.items()):
        style = {"color": COLORS[number // 2 % 2], "label": name, "markersize": 4}
        samples = [cost.samples for cost in costs]
        line = LINES[number % 2]
        left.plot(samples, [1e9 * cost.seconds / cost.samples for cost in costs], line, **style)
        right.plot(samples, [cost.peak_rss_bytes / MIB for cost in costs], line, **style)
    ends = [f(c.samples for costs in curves.values() for c in costs) for f in (min, max)]
    right.plot(
        ends, [2 * end / MIB for end in ends], ":", color="#000000", label="the samples alone"
    )
    left.set_ylabel("processor time [ns per sample]")
    right.set_ylabel("peak resident memory [MiB]")
    left.set_ylim(bottom=1, top=10 * max(line.get_ydata().max() for line in left.lines))
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="samples of the tile")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
