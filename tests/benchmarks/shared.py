"""Patches a second of one process and of two that share an instrument, on the same cores.

    python tests/benchmarks/shared.py --processes 1 2 --rounds 3 --json shared.json

Processes are started as deploy/flight-shared.yaml says, and fed with tiles of EnMAP's swath as fast
as they take them. Counted is what was spooled between two looks: after the first tiles, while all
are at work, and before the last.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import soak  # it knows the way to what follows

from fakes.processes import DEPLOY, Desk, Process

BUNDLE = DEPLOY / "models" / "default.flight.safetensors"
PATCHES_PER_TILE = 8
ENMAP_PATCHES_PER_S = PATCHES_PER_TILE / soak.TILE_S


def main() -> None:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=soak.ROOT / "tests" / "data")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tiles", type=int, default=100, help="in a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found: dict[int, list[float]] = {count: [] for count in chosen.processes}
    with tempfile.TemporaryDirectory(prefix="shared-") as folder:
        scenes = soak.swaths(chosen.scenes, Path(folder) / "scenes")
        for _ in range(chosen.rounds):
            for count in chosen.processes:
                found[count].append(patches_per_s(count, scenes, chosen.tiles))
    rows = {
        count: {"patches_per_s": rate, "realtime_factor_enmap": rate / ENMAP_PATCHES_PER_S}
        for count, rates in found.items()
        for rate in [median(rates)]
    }
    for count, row in rows.items():
        print(f"{count} processes: {row['patches_per_s']:.1f} patches/s")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"rounds": chosen.rounds, "rows": rows}, indent=1))


def patches_per_s(count: int, scenes: list[Path], tiles: int) -> float:
    """Run so many processes; return what they spool together [1/s]."""
    with (
        tempfile.TemporaryDirectory(prefix="shared-") as sockets,
        tempfile.TemporaryDirectory(prefix="shared-") as folder,
        contextlib.redirect_stdout(io.StringIO()),  # what they said, when they are ended
        contextlib.closing(Desk(Path(sockets), Path(folder))) as desk,
    ):
        flights = [
            desk.flight(BUNDLE, f"link.apid={apid}", file="flight-shared.yaml").until_ready()
            for apid in range(100, 100 + 10 * count, 10)
        ]
        shown = -(-tiles // len(scenes))
        words = (*scenes, "--bind", "--pattern", "pull", "--rate", 0, "--repeat", shown)
        desk.feed(*words)
        whole = shown * len(scenes) * PATCHES_PER_TILE
        first, last = (wait_for(flights, share * whole) for share in (0.2, 0.9))
        return (last[0] - first[0]) / (last[1] - first[1])


def wait_for(flights: list[Process], patches: float) -> tuple[float, float]:
    """Wait until so many patches are spooled; return how many there are, and when [s]."""
    while True:
        done = sum(f.metrics().total("frames_total", channel="patch") for f in flights)
        if done >= patches:
            return done, time.monotonic()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
