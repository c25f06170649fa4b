"""Latency of patches while a model is exchanged, against what it is otherwise.

    python tests/benchmarks/swapping.py --swaps 10 --json swapping.json

The flight line in this process, fed through a socket with tiles of EnMAP's swath: at a share of
what it can take, and as fast as it takes them. Now and then the model is exchanged, to and fro;
each time the other one is read, checked and warmed up beside the one at work. A patch is of an
exchange if it was spooled between the order and a second after the new model came to work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soak  # it knows the way to what follows

from codec.bundle import load_bundle, make_bundle
from codec.known_answer import answered
from daemon.bench_feed import BenchScene, Replay, opened, read_scene
from daemon.clock import SystemClock
from daemon.config import load_flight
from daemon.lifecycle import shut_down
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.service import FlightLine, _models
from fakes.models import put, write_key
from fakes.processes import DEPLOY

EVERY_S = 4.0
AFTER_S = 1.0


class Latencies:
    """A histogram that keeps every value, and when it came."""

    def __init__(self) -> None:
        self.found = list[tuple[float, float]]()

    def observe(self, value: float) -> None:
        """Keep it."""
        self.found.append((time.monotonic(), value))


def main() -> None:
    """Print a row for each load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.7, help="of what the line can take")
    parser.add_argument("--speed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="swapping-") as folder:
        words = settings_of(Path(folder), chosen.speed)
        (path,) = (soak.ROOT / "tests" / "data").rglob("*-SPECTRAL_IMAGE.TIF")
        scene = read_scene(path, (128, 1024), tiles=1)
        full = run(words, scene, swaps=chosen.swaps, tile_s=0.0)
        rows["as fast as it takes them"] = full
        tile_s = scene.patches / (chosen.share * full["patches_per_s"])
        rows[f"{chosen.share:.0%} of that"] = run(words, scene, swaps=chosen.swaps, tile_s=tile_s)
    for load, row in rows.items():
        p99 = ", ".join(f"{key} {row[key]:.3f} s" for key in ("p99_s", "p99_swapping_s"))
        print(
            f"{load}: {row['patches_per_s']:.1f} patches/s, {p99}: ratio {row['ratio']:.2f}; "
            f"{row['patches']} patches, {row['dropped']:.0f} dropped, "
            f"exchanged in {row['seconds_per_swap']:.2f} s"
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1))


def settings_of(folder: Path, speed: int) -> list[str]:
    """Overrides for a store with another model; its signature, and the key that is trusted."""
    own = load_bundle(DEPLOY / "models" / "default.safetensors")
    other = make_bundle(
        own.network, own.conditioner, default_step=own.default_step * 1.1, tensors=own.tensors
    )
    store = folder / "store"
    store.mkdir(mode=0o750)
    put(store / "other.safetensors", answered(other).for_flight().to_bytes())
    return [
        f"model.store.directory={store}",
        f"model.store.trusted_keys=[{write_key(folder / 'key.pem')}]",
        f"model.speed={speed}",
        f"model.overload_speed={speed}",
        "mailboxes.tiles.policy=block",
        "mailboxes.tiles.max_items=2",
        "model.self_test_s=null",
    ]


def run(words: list[str], scene: BenchScene, *, swaps: int, tile_s: float) -> dict[str, Any]:
    """Exchange models so often under one load."""
    settings = load_flight(DEPLOY / "flight.yaml", words)
    clock, metrics, latencies = SystemClock(), FlightMetrics(new_registry()), Latencies()
    metrics.tile_to_spool_seconds = latencies  # type: ignore[assignment]  # of its methods one
    models = _models(settings.model, clock, metrics)
    replay = Replay(Endless(scene), tile_s, clock)  # type: ignore[arg-type]  # it has no end
    windows = list[tuple[float, float]]()
    seconds = list[float]()
    with opened(replay, "socket", max_part_bytes=1 << 30) as listener:
        line = FlightLine(
            settings, models, listener=listener, sender=None, clock=clock, metrics=metrics
        )
        line.start()
        with emptied(line):
            time.sleep(EVERY_S)
            start_s, count = time.monotonic(), len(latencies.found)
            for number in range(swaps):
                before, ordered_s = models.current, time.monotonic()
                models.look() if number == 0 else models.roll_back()
                while models.current is before:
                    time.sleep(0.005)
                seconds.append(time.monotonic() - ordered_s)
                time.sleep(AFTER_S)
                windows.append((ordered_s, time.monotonic()))
                time.sleep(EVERY_S)
            taken_s, patches = time.monotonic() - start_s, len(latencies.found) - count
        late = shut_down(line.stages, deadline_s=120.0, clock=clock)
    if late:
        raise SystemExit(f"late: {late}")
    at, values = np.array(latencies.found[count:]).T
    swapping = np.any([(at >= a) & (at <= b) for a, b in windows], axis=0)
    totals = metrics.totals()
    dropped = sum(value for key, value in totals.items() if "dropped_patches" in key)
    p99, p99_swapping = (float(np.quantile(values[w], 0.99)) for w in (~swapping, swapping))
    return {
        "patches": patches,
        "patches_per_s": patches / taken_s,
        "p99_s": p99,
        "p99_swapping_s": p99_swapping,
        "ratio": p99_swapping / p99,
        "p50_s": float(np.median(values[~swapping])),
        "seconds_per_swap": float(np.median(seconds)),
        "dropped": dropped,
        "lost": totals["prismlink_patches_received_total"]
        - totals["prismlink_patches_encoded_total"],
    }


class Endless:
    """A tile again and again."""

    def __init__(self, scene: BenchScene) -> None:
        self._scene = scene

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> Any:
        return self._scene.messages[0]


@contextmanager
def emptied(line: FlightLine) -> Iterator[None]:
    """Have the spool be taken from: there is no link."""
    done = threading.Event()

    def take() -> None:
        for _ in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            if (packet := line.spool.take(0.1)) is not None:
                line.spool.sent(packet)

    taker = threading.Thread(target=take)
    taker.start()
    try:
        yield
    finally:
        done.set()
        taker.join()


if __name__ == "__main__":
    main()
