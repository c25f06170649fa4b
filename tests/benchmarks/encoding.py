"""How fast the flight side encodes beside KLT + JPEG 2000, on the same patches and as many cores.

    python tests/benchmarks/encoding.py --scenes data --rounds 5 --json encoding.json

First, untimed: our bytes and PSNR at the step, and the step, components and wavelet levels at which
KLT + JPEG 2000 (`training.klt_j2k`, a whole tile in one codestream) comes to the same PSNR with the
fewest bytes. Then rounds, in which both take their turn: ours from tile message to spool, as
`prismlink bench` has it, theirs from samples to bytes, one tile on each core. The KLT of theirs
is made for scores, in float64 and not for speed: the second ratio is to JPEG 2000 after a KLT that
takes as long as our conditioning. The search takes minutes a scene, most of them for that KLT.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from codec.bundle import load_bundle
from codec.conditioning import UNITS_PER_REFLECTANCE
from codec.decoder import Decoder
from codec.tables import laplace_tables
from codec.targets import StepRange, mean_psnr_db, search
from codec.tile import Tile
from daemon.bench import Bench
from daemon.bench_settings import BenchSettings
from daemon.clock import SystemClock
from training.klt_j2k import KltJ2k, Planes, decode, encode_planes, fit_plain_klt, measured

ROOT = Path(__file__).parents[2]
TABLES = laplace_tables()
CLOSE_OCTAVES = 0.03 / (20 * math.log10(2))  # 0.03 dB
RESOLUTIONS = (4, 3, 5)  # the first with every count of components, the others with the best


@dataclass(frozen=True, kw_only=True)
class Match:
    """KLT + JPEG 2000 at our PSNR."""

    setting: KltJ2k
    size: int
    psnr_db: float


def main() -> None:
    """Print a row for each scene."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=ROOT / "tests" / "data")
    parser.add_argument("--bundle", type=Path, default=ROOT / "deploy/models/default.safetensors")
    parser.add_argument("--step", type=float)
    parser.add_argument("--speed", type=int, default=1)
    parser.add_argument("--tile", default="128x1024")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--components", default="4,8,16,32,64")
    parser.add_argument("--source", choices=("socket", "memory"), default="socket")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    bench = Bench(
        BenchSettings(
            scenes=(chosen.scenes,),
            flight_yaml=ROOT / "deploy" / "flight.yaml",
            bundle=chosen.bundle,
            step=chosen.step,
            speed=chosen.speed,
            tile_shape=tuple(map(int, chosen.tile.split("x"))),
            repeat=chosen.repeat,
            rounds=chosen.rounds,
            rate=0.0,
            source=chosen.source,
        ),
        clock=SystemClock(),
        tell=print,
    )
    decoder = Decoder(load_bundle(chosen.bundle))
    counts = [int(word) for word in chosen.components.split(",")]
    sizes, matches = [], []
    for scene in bench.scenes:
        frames = bench.encoder.encode(scene.tile, speed=chosen.speed)
        sizes.append(sum(map(len, frames)))
        matches.append(match(scene.tile, mean_psnr_db(scene.tile, decoder.decode(frames)), counts))
    whole: list[list[float]] = [[] for _ in bench.scenes]
    alone: list[list[float]] = [[] for _ in bench.scenes]
    for _ in range(chosen.rounds):
        bench.round()
        for i, scene in enumerate(bench.scenes):
            setting, tiles = matches[i].setting, bench.settings.tiles
            encode = partial(setting.encode, scene.tile, TABLES)
            whole[i].append(patches_per_s(encode, tiles, scene.patches))
            encode_alone = partial(
                encode_planes,
                planes_of(scene.tile, setting),
                setting.step,
                resolutions=setting.resolutions,
                reversible=False,
            )
            alone[i].append(patches_per_s(encode_alone, tiles, scene.patches))
    summary = bench.summary()
    rows = []
    for i, row in enumerate(summary["scenes"]):
        ours, theirs, alone_per_s = row["patches_per_s"], median(whole[i]), median(alone[i])
        condition_s = row["stage_seconds_per_patch"]["condition"] / summary["cores"]
        with_our_klt = 1 / (1 / alone_per_s + condition_s)
        rows.append(
            {
                "scene": row["scene"],
                "psnr_db": matches[i].psnr_db,
                "bytes": sizes[i],
                "klt_j2k_bytes": matches[i].size,
                "bytes_saved": 1 - sizes[i] / matches[i].size,
                "klt_j2k": asdict(matches[i].setting),
                "patches_per_s": ours,
                "klt_j2k_patches_per_s": theirs,
                "j2k_alone_patches_per_s": alone_per_s,
                "our_klt_j2k_patches_per_s": with_our_klt,
                "ratio": ours / theirs,
                "ratio_our_klt": ours / with_our_klt,
            }
        )
    show(rows)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"bench": summary, "scenes": rows}, indent=1) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """Print what was found."""
    head = f"{'scene':28} {'PSNR':>6} {'bytes':>8} {'KLT+J2K':>8} {'saved':>6}  {'setting':8}"
    print(head + f"{'patch/s':>8} {'KLT+J2K':>8} {'ratio':>6} {'our KLT':>8} {'ratio':>6}")
    for row in rows:
        setting = row["klt_j2k"]
        print(
            f"{row['scene'][-28:]:28} {row['psnr_db']:6.2f} {row['bytes']:8} "
            f"{row['klt_j2k_bytes']:8} {row['bytes_saved']:6.1%}  "
            f"k{setting['components']:<3} r{setting['resolutions']} "
            f"{row['patches_per_s']:8.1f} {row['klt_j2k_patches_per_s']:8.1f} {row['ratio']:6.1f} "
            f"{row['our_klt_j2k_patches_per_s']:8.1f} {row['ratio_our_klt']:6.1f}"
        )


def match(tile: Tile, psnr_db: float, counts: list[int]) -> Match:
    """Find the setting of KLT + JPEG 2000 with the fewest bytes at a PSNR."""
    found: list[Match] = []
    for components in counts:
        one = matched(tile, psnr_db, components, RESOLUTIONS[0])
        if one is not None:
            found.append(one)
        if len(found) > 1 and found[-1].size > found[-2].size:
            break  # more components only cost more
    if not found:
        raise SystemExit(f"{psnr_db:.2f} dB is out of reach; remedy: more --components")
    count = min(found, key=lambda one: one.size).setting.components
    more = [matched(tile, psnr_db, count, resolutions) for resolutions in RESOLUTIONS[1:]]
    return min((one for one in found + more if one is not None), key=lambda one: one.size)


def matched(tile: Tile, psnr_db: float, components: int, resolutions: int) -> Match | None:
    """Bisect the step until the PSNR is met; None if it cannot be."""
    tried: dict[float, Match] = {}
    setting = KltJ2k(components=components, step=1, side_step=1, resolutions=resolutions)

    def excess(step: float) -> float:
        at = replace(setting, step=step, side_step=step)
        raw, _ = at.encode(tile, TABLES)
        reached = mean_psnr_db(tile, decode(raw, tile, TABLES))
        tried[step] = Match(setting=at, size=len(raw), psnr_db=reached)
        return (reached - psnr_db) / (20 * math.log10(2))

    # A uniform quantizer's error, step²/12, is where to begin.
    begin = UNITS_PER_REFLECTANCE * 10 ** (-psnr_db / 20) * math.sqrt(12)
    octaves = StepRange(finest=math.log2(begin) - 4, coarsest=math.log2(begin) + 4)
    search(excess, begin, octaves, close=CLOSE_OCTAVES, most_trials=10)
    nearest = min(tried.values(), key=lambda one: abs(one.psnr_db - psnr_db))
    return nearest if abs(nearest.psnr_db - psnr_db) < 0.1 else None


def planes_of(tile: Tile, setting: KltJ2k) -> Planes:
    """What JPEG 2000 is given of a tile."""
    valid_bands, valid = measured(tile)
    bands = np.flatnonzero(valid_bands)
    step, unit = setting.side_step, UNITS_PER_REFLECTANCE / tile.info.reflectance_scale
    side = fit_plain_klt(tile, bands, valid, step=step, components=setting.components)
    pixels = tile.samples.shape[1] * tile.samples.shape[2]
    conditioning = side.conditioning(bands, pixels, step, unit)
    return conditioning.condition(tile.samples, valid) * np.float32(step)


def patches_per_s(work: Callable[[], object], tiles: int, patches: int) -> float:
    """Do a piece of work for each tile, one on each core."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        start_s = time.perf_counter()
        for done in [pool.submit(work) for _ in range(tiles)]:
            done.result()
        return tiles * patches / (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
