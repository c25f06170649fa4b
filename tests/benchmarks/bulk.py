"""Decoding in bulk: one process and two, dask with one worker and with two, on the same frames.

    python tests/benchmarks/bulk.py --frames 500

Tiles of a scene, mirrored to eight patches of 128 × 128, are encoded once; then every row decodes
all of them into a folder of its own, products are compared byte for byte, and removed: gigabytes
that wait for the disk would slow the next row. Each process computes on one thread. A row is a
command as an operator types it, so its time includes the start of its processes; dask's workers run
before the clock does, and only then. Every row decodes a few tiles before, so that nothing is
compiled under it. Rows are taken in turn, and medians are told.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from codec import prism_file
from codec.bundle import load_bundle
from codec.encoder import Encoder
from codec.tile import Tile
from codec.tile_files import read_tile

ROOT = Path(__file__).parents[2]
PATCHES = 8
FRAMES_OF_A_TILE = PATCHES + 1
FEW = 4
WANTED = "wanted"
SCHEDULER = "--scheduler"
WAYS = {
    "one process": ("--workers", 1),
    "two processes": ("--workers", 2),
    "dask, one worker": (SCHEDULER, 1),
    "dask, two workers": (SCHEDULER, 2),
}
MODEL = ROOT / "deploy" / "models" / "default.safetensors"


def main() -> None:
    """Print a row for each way, and its time beside that of one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=500, help="patches and side information")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speed", type=int, default=1)
    parser.add_argument(
        "--scene", type=Path, default=ROOT / "tests" / "data" / "aviris_salton_sea.npz"
    )
    chosen = parser.parse_args()
    tiles = math.ceil(chosen.frames / FRAMES_OF_A_TILE)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scene = read_tile(chosen.scene)
        write_frames(work / "frames.prism", scene, tiles, chosen.speed)
        write_frames(work / "few.prism", scene, FEW, chosen.speed)
        took_s: dict[str, list[float]] = {way: [] for way in WAYS}
        stolen_s = dict.fromkeys(WAYS, 0.0)
        for _ in range(chosen.rounds):
            for way, (option, workers) in WAYS.items():
                # A cluster that only waits takes a tenth of a core.
                with Workers(workers) if option == SCHEDULER else nullcontext() as cluster:
                    words = option, cluster.address if cluster else str(workers)
                    decode(work / "few.prism", work / "few", words)
                    shutil.rmtree(work / "few")
                    before_s = stolen_so_far_s()
                    took_s[way].append(decode(work / "frames.prism", work / way, words))
                    stolen_s[way] += (stolen_so_far_s() - before_s) / chosen.rounds
                check_same(work / WANTED, work / way)
    print(f"{tiles} tiles, {tiles * FRAMES_OF_A_TILE} frames, {tiles * PATCHES} patches")
    median_s = {way: statistics.median(seconds) for way, seconds in took_s.items()}
    for single, double in zip([*WAYS][::2], [*WAYS][1::2], strict=True):
        for way in (single, double):
            print(
                f"{way:18} {median_s[way]:7.1f} s  {tiles * PATCHES / median_s[way]:6.1f} patches/s"
                f"  {median_s[single] / median_s[way]:5.2f} × {single:16}"
                f"  {stolen_s[way]:4.1f} s of its cores were elsewhere"
            )


def write_frames(path: Path, scene: Tile, tiles: int, speed: int) -> None:
    """Encode a tile once, and give its frames to as many tiles as are wanted."""
    rows, cols = scene.samples.shape[1:]
    samples = np.pad(
        scene.samples, ((0, 0), (0, max(0, 128 - rows)), (0, max(0, 128 * PATCHES - cols))),
        mode="symmetric",
    )[:, :128, : 128 * PATCHES]  # fmt: skip
    encoder = Encoder(load_bundle(MODEL), speed=speed)
    frames = list[bytes]()
    for sequence in range(tiles):
        info = replace(scene.info, sequence=sequence, georeference=None)
        frames += encoder.encode(Tile(samples=np.roll(samples, sequence, axis=2), info=info))
    path.write_bytes(prism_file.pack(frames))


def decode(source: Path, output: Path, words: tuple[str, ...]) -> float:
    """Run the command; return how long it took [s]."""
    start_s = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "daemon.cli", "decode", str(source), "-o", str(output)),
            *("--format", "npy", *words),
        ],
        check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment(),
    )  # fmt: skip
    return time.perf_counter() - start_s


def check_same(wanted: Path, output: Path) -> None:
    """Stop if a cube differs from that of the first run; remove them."""
    if not wanted.exists():
        output.rename(wanted)
        return
    names = sorted(path.name for path in wanted.glob("*.npy"))
    if names != sorted(path.name for path in output.glob("*.npy")):
        sys.exit(f"{output.name}: other tiles than {wanted.name}")
    for name in names:
        if (wanted / name).read_bytes() != (output / name).read_bytes():
            sys.exit(f"{output.name}: {name} differs from {wanted.name}")
    shutil.rmtree(output)


def stolen_so_far_s() -> float:
    """Time that a virtual machine's cores were ready and its host ran others, all together [s]."""
    ticks = int(Path("/proc/stat").read_text(encoding="ascii").split()[8])
    return ticks / os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """Our own tree first."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


class Workers:
    """A cluster of so many workers of a thread each, in processes of their own."""

    def __init__(self, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fakes.dask_cluster", str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


if __name__ == "__main__":
    main()
