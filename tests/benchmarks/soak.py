"""An hour at EnMAP's line rate: instrument, board and ground as processes on the same two cores.

    python tests/benchmarks/soak.py --minutes 60 --json soak.json

Nothing may be lost, a patch must be spooled within a second of its tile (p99), the rate must hold,
and neither daemon may grow. Scenes are mirrored to tiles of EnMAP's swath, 128 × 1024 px, eight
patches, one every 557 ms. The board's link goes straight to the ground, which loses nothing. The
ground writes `.npy`, since 29 Msamples of GeoTIFF a tile take more of a core than decoding them;
cubes are deleted as they come, or an hour would fill 380 GB. Math libraries get one thread each.

The first third of a run, at most a minute, is for warming up: memory is held against what it was
just after. Latency is of the whole run. It is a histogram, so its p99 is known as the upper bound
of a bucket; the bar is one of these bounds, so it is exact that 99 % are below the bar or not.

What a board cannot do in time it does faster, from `model.speed` to `overload_speed`, before it
drops a tile; the table shows the fastest speed it came to. What a ground cannot decode in time
waits in its mailboxes and then in the board's spool, minutes of it before a packet is dropped, so
all has to be on the ground's disk soon after the last tile. Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from codec.patch_grid import PATCH_PX
from codec.tile_files import find_scenes, read_tile, write_tile
from daemon.bench_feed import mirrored
from daemon.feed import ENMAP_PX_PER_S
from daemon.ground.products import STAC

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # as pytest has it
from fakes.processes import DEPLOY, Desk, Numbers, Process  # noqa: E402

MIB = 1 << 20
CPU = "process_cpu_seconds_total"
RSS = "process_resident_memory_bytes"
SWATH = (PATCH_PX, 8 * PATCH_PX)
TILE_S = SWATH[0] * SWATH[1] / ENMAP_PX_PER_S
WARM_UP_S = 60.0
GRACE_S = 15.0
"""How soon after the last tile all must be on the ground's disk."""
LEAST_RATE = 0.95
LOSSES = {
    "flight": (
        "tile_sequence_gaps_total", "tile_messages_refused_total", "dropped_tiles_total",
        "dropped_patches_total", "spool_dropped_packets_total", "stage_errors_total",
    ),
    "ground": (
        "packets_missing", "packets_refused_total", "dropped_packets_total",
        "dropped_frames_total", "frames_incomplete_total", "patches_failed_total",
        "dropped_patches_total", "dropped_tiles_total", "patches_missing_total",
        "tile_write_errors_total", "stage_errors_total",
    ),
}  # fmt: skip
"""What counts something lost, by process."""
STAGES = {
    "flight": ("patches", "batches", "encode", "packets", "spool"),
    "ground": ("collect", "decode", "mosaic", "write"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What both daemons told at a moment."""

    at_s: float
    flight: Numbers
    ground: Numbers

    def of(self, name: str, metric: str, **labels: str) -> float:
        """A metric of a daemon, summed over labels that are not given."""
        return (self.flight if name == "flight" else self.ground).total(metric, **labels)

    @property
    def under_way(self) -> float:
        """Patches received that are neither on the ground's disk nor dropped on board."""
        lost = self.flight.total("dropped_patches_total")
        written = self.ground.total("patches_written_total")
        return self.flight.total("patches_received_total") - lost - written


def main() -> None:
    """Run, show what was found, and fail by name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=ROOT / "tests" / "data")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--latency", type=float, default=1.0, help="highest p99 [s]")
    parser.add_argument("--rate", type=float, default=1.0, help="multiple of EnMAP's line rate")
    parser.add_argument("--speed", type=int, help="model.speed of the board; its settings' if none")
    parser.add_argument("--growth", type=float, default=0.05, help="of memory that is let pass")
    parser.add_argument("--cores", type=int, default=2, help="that all processes share")
    parser.add_argument(
        "--every", type=float, help="seconds between two looks; at most 5, and 60 looks, if none"
    )
    parser.add_argument("--format", default="npy", help="what the ground writes")
    parser.add_argument("--scratch", type=Path, help="where cubes go until they are deleted")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    chosen.every = min(5.0, chosen.minutes) if chosen.every is None else chosen.every
    if min(chosen.minutes, chosen.rate, chosen.every) <= 0 or chosen.cores < 1:
        parser.error("--minutes, --rate, --every and --cores must be positive")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.cores])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # what the processes said, when they are ended
            fed, looks = soak(chosen)
    except (RuntimeError, TimeoutError, OSError) as error:
        raise SystemExit(f"{said.getvalue()}\nsoak: {error}") from None
    found = summary(chosen, fed, looks)
    show(found)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if found["failed"]:
        raise SystemExit("\n".join(f"failed: {line}" for line in found["failed"]))


def soak(chosen: argparse.Namespace) -> tuple[dict[str, Any], list[Look]]:
    """Run the three processes; return what the instrument reported, and every look."""
    settings = [] if chosen.speed is None else [f"model.speed={chosen.speed}"]
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as sockets,
        tempfile.TemporaryDirectory(prefix="soak-", dir=chosen.scratch) as folder,
    ):
        scenes = swaths(chosen.scenes, Path(folder) / "scenes")
        shown = math.ceil(60 * chosen.minutes * chosen.rate / TILE_S / len(scenes))
        with contextlib.closing(Desk(Path(sockets), Path(folder))) as desk:
            ground = desk.ground(
                DEPLOY / "models" / "default.safetensors", f"output.format={chosen.format}"
            ).until_ready()
            flight = desk.flight(
                DEPLOY / "models" / "default.flight.safetensors", *settings
            ).until_ready()
            feed = desk.feed(*scenes, "--rate", chosen.rate, "--repeat", shown)
            watch = Watch(desk, flight, ground)
            while feed.runs:
                watch.look()
                wait(chosen.every, lambda: feed.runs)
            fed, give_up_s = feed.report(), time.monotonic() + GRACE_S
            while watch.look().under_way and time.monotonic() < give_up_s:
                wait(0.5)
            return fed, watch.looks


class Watch:
    """Looks at both daemons, and deletes what the ground has written.

    Attributes:
        looks: All of them.
    """

    def __init__(self, desk: Desk, flight: Process, ground: Process) -> None:
        self.looks: list[Look] = []
        self._desk, self._flight, self._ground = desk, flight, ground
        self._start_s = time.monotonic()

    def look(self) -> Look:
        """Look once.

        Raises:
            RuntimeError: If a daemon has ended.
        """
        at_s = time.monotonic() - self._start_s
        for process in (self._flight, self._ground):
            if not process.runs:
                raise RuntimeError(f"{process.name} has ended by itself after {at_s:.0f} s")
        found = Look(at_s=at_s, flight=self._flight.metrics(), ground=self._ground.metrics())
        self.looks.append(found)
        cubes = self._desk.cubes
        for item in cubes.glob(f"*{STAC}"):  # the last that is written of a tile
            for path in cubes.glob(f"{item.name.removesuffix(STAC)}.*"):
                path.unlink()
        return found


def wait(seconds: float, goes_on: Callable[[], bool] = lambda: True) -> None:
    """Wait while it goes on."""
    until_s = time.monotonic() + seconds
    while goes_on() and time.monotonic() < until_s:
        time.sleep(0.1)


def swaths(scenes: Path, folder: Path) -> list[Path]:
    """Mirror scenes to tiles of EnMAP's swath, as files: one instrument, which counts its tiles."""
    folder.mkdir()
    return [
        write_tile(
            replace(tile, info=replace(tile.info, sensor="EnMAP")),
            folder / f"swath_{number}",
            "npy",
        )
        for number, path in enumerate(find_scenes(scenes))
        for tile in [mirrored(read_tile(path), *SWATH)]
    ]


def summary(
    chosen: argparse.Namespace, fed: dict[str, Any], looks: Sequence[Look]
) -> dict[str, Any]:
    """What was found, and what of it fails."""
    last = looks[-1]
    flight, ground = last.flight, last.ground
    received, encoded = (flight.total(f"patches_{what}_total") for what in ("received", "encoded"))
    written, rate = ground.total("patches_written_total"), fed["realtime_factor_enmap"]
    latency_s = {share: quantile(flight, share) for share in (0.5, 0.9, 0.99)}
    losses = {
        f"{name}: {metric}": count
        for name, metrics in LOSSES.items()
        for metric in metrics
        if (count := last.of(name, metric))
    }
    memory = {name: resident(looks, name, fed["seconds"]) for name in LOSSES}
    failed = [f"{what} is {count:.0f}, not 0" for what, count in losses.items()]
    if fed["refused"] or fed["patches"] != received:
        failed.append(
            f"{fed['patches']} patches sent and {fed['refused']} tiles refused, "
            f"{received:.0f} patches received"
        )
    if received != encoded:
        failed.append(f"{received:.0f} patches received, {encoded:.0f} encoded")
    if encoded != written:
        failed.append(
            f"{encoded:.0f} patches encoded, {written:.0f} on the ground's disk "
            f"{GRACE_S:.0f} s after the last tile"
        )
    if latency_s[0.99] > chosen.latency:
        failed.append(
            f"1 % of patches took more than {chosen.latency:g} s from tile to spool; "
            f"p99 is at most {latency_s[0.99]} s"
        )
    for name, (before, after) in memory.items():
        if math.isnan(after):
            failed.append(f"too few looks to tell whether {name}'s memory grew: a longer run can")
        elif after > before * (1 + chosen.growth):
            failed.append(
                f"{name}'s memory grew from {before / MIB:.0f} to {after / MIB:.0f} MiB, "
                f"by more than {chosen.growth:.0%}"
            )
    if rate < LEAST_RATE * chosen.rate:
        failed.append(f"the instrument sent at {rate:.2f} × EnMAP's rate, not {chosen.rate}")
    return {
        "minutes": fed["seconds"] / 60,
        "rate_wanted": chosen.rate,
        "realtime_factor_enmap": rate,
        "behind_s": fed["behind_s"],
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "tiles": fed["tiles"],
        "patches_sent": fed["patches"],
        "patches_received": received,
        "patches_encoded": encoded,
        "patches_decoded": ground.total("patches_decoded_total"),
        "patches_written": written,
        "losses": losses,
        "bytes_raw": fed["bytes_raw"],
        "bytes_down": flight.total("bytes_out_total"),
        "latency_mean_s": flight.total("tile_to_spool_seconds_sum")
        / max(1, flight.total("tile_to_spool_seconds_count")),
        "latency_at_most_s": latency_s,
        "fastest_speed": max(look.flight.total("encoding_speed") for look in looks),
        "most_waiting": {
            "patches between instrument and disk": max(look.under_way for look in looks),
            "tiles before the board's first stage": max(
                look.flight.total("queue_items", queue="tiles") for look in looks
            ),
            "MiB in the spool": max(look.of("flight", "spool_bytes") for look in looks) / MIB,
        },
        "stages_busy": {
            name: {
                stage: last.of(name, "stage_seconds_sum", stage=stage) / last.at_s
                for stage in STAGES[name]
            }
            for name in LOSSES
        },
        "cores_used": {
            name: (last.of(name, CPU) - looks[0].of(name, CPU)) / (last.at_s - looks[0].at_s)
            for name in LOSSES
        },
        "resident_bytes": {name: {"before": b, "after": a} for name, (b, a) in memory.items()},
        "looks": [
            {
                "at_s": look.at_s,
                "patches_under_way": look.under_way,
                **{f"{name}_rss_bytes": look.of(name, RSS) for name in LOSSES},
            }
            for look in looks
        ],
        "failed": failed,
    }


def quantile(flight: Numbers, share: float) -> float:
    """Upper bound of the bucket that holds a quantile of tile to spool [s]."""
    name = "tile_to_spool_seconds_bucket"
    bounds = sorted(
        float(key.partition('le="')[2].partition('"')[0])
        for key in flight.samples
        if key.startswith(f"prismlink_{name}")
    )
    counts = {float(b): flight.total(name, le=str(b) if b < math.inf else "+Inf") for b in bounds}
    return next(bound for bound in bounds if counts[bound] >= share * counts[bounds[-1]])


def resident(looks: Sequence[Look], name: str, seconds: float) -> tuple[float, float]:
    """Memory between warming up and half time, and after: the median of looks, each [bytes]."""
    warm_s, half_s = min(WARM_UP_S, seconds / 3), seconds / 2
    before = [look.of(name, RSS) for look in looks if warm_s <= look.at_s < half_s]
    after = [look.of(name, RSS) for look in looks if half_s <= look.at_s <= seconds]
    return (median(before), median(after)) if before and after else (math.nan, math.nan)


def show(found: dict[str, Any]) -> None:
    """Print a small table."""
    latency, waiting = found["latency_at_most_s"], found["most_waiting"]
    rows = {
        "ran": f"{found['minutes']:.1f} min on {found['cores']} cores, load {found['load']:.1f}",
        "rate": f"{found['realtime_factor_enmap']:.3f} × EnMAP of {found['rate_wanted']} wanted; "
        f"at most {found['behind_s']:.2f} s behind",
        "patches": f"{found['patches_sent']} sent, {found['patches_received']:.0f} received, "
        f"{found['patches_encoded']:.0f} encoded, {found['patches_decoded']:.0f} decoded, "
        f"{found['patches_written']:.0f} written",
        "lost": ", ".join(f"{k} {v:.0f}" for k, v in found["losses"].items()) or "nothing",
        "bytes": f"{found['bytes_raw'] / 1e6:.0f} MB → {found['bytes_down'] / 1e6:.2f} MB",
        "tile to spool": f"mean {found['latency_mean_s']:.2f} s, "
        + ", ".join(f"p{100 * q:.0f} ≤ {s} s" for q, s in latency.items()),
        "fastest speed": f"{found['fastest_speed']:.0f}",
        "most waiting": ", ".join(f"{count:.0f} {what}" for what, count in waiting.items()),
        "cores used": ", ".join(f"{name} {used:.2f}" for name, used in found["cores_used"].items()),
    }
    for name, stages in found["stages_busy"].items():
        rows[f"{name} busy"] = ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items())
    for name, at in found["resident_bytes"].items():
        before, after = at["before"], at["after"]
        rows[f"{name} resident"] = (
            f"{before / MIB:.0f} MiB after warming up, {after / MIB:.0f} MiB in the second half "
            f"({after / before - 1:+.1%})"
        )
    for name, text in rows.items():
        print(f"{name:16} {text}")


if __name__ == "__main__":
    main()
