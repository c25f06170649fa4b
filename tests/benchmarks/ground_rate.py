"""Whether the ground keeps up with twice EnMAP's packets on one core while three browsers look.

    python tests/benchmarks/ground_rate.py --seconds 60 --json ground_rate.json

Tiles of EnMAP's swath (two real scenes in turn) are encoded first. Then their packets are sent at a
multiple of the rate at which EnMAP would make them, to a ground bound to core 0; whoever sends and
looks shares the other cores. A browser here is what the page does: a stream of events, the newest
tile's bands every two seconds, and a pixel's spectrum.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import soak  # it knows the way to what follows

from codec.bundle import load_bundle
from codec.encoder import Encoder
from codec.frame import parse
from daemon.bench_feed import read_scene
from daemon.link.packet import Channel
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketSender
from daemon.tile_message import TileLimits, TileMessage
from fakes.processes import DEPLOY, Desk

MTU_BYTES = 1024
WEB_PORT = 47_189
PATCHES_PER_TILE = 8
BROWSERS = 3


def main() -> None:
    """Print what was sent, what came, and when it was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=2.0, help="multiple of EnMAP's")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    tile_s = soak.TILE_S / chosen.rate
    tiles = packets_of(round(chosen.seconds / tile_s))
    with (
        tempfile.TemporaryDirectory(prefix="rate-") as sockets,
        tempfile.TemporaryDirectory(prefix="rate-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.closing(Desk(Path(sockets), Path(folder))) as desk,
    ):
        row = run(desk, Path(folder), tiles, tile_s)
    for key, value in row.items():
        print(f"{key:>28}: {value:.6g}" if isinstance(value, float) else f"{key:>28}: {value}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(row, indent=1))


def packets_of(count: int) -> list[list[bytes]]:
    """Packets of so many tiles, all different ones."""
    encoder = Encoder(load_bundle(DEPLOY / "models" / "default.safetensors"), coders=2, speed=1)
    segmenter = Segmenter(boot_id=1, apid=100, mtu_bytes=MTU_BYTES, repair={})
    scenes = sorted(p for p in (soak.ROOT / "tests" / "data").rglob("*") if soak_scene(p))
    shown = [read_scene(path, (128, 128 * PATCHES_PER_TILE), tiles=count) for path in scenes]
    tiles = []
    for number in range(count):
        message = shown[number % len(shown)].messages[number]
        frames = encoder.encode(TileMessage.unpack(message, TileLimits(max_bytes=1 << 30)))
        packets = list[bytes]()
        for frame in frames:
            channel = Channel.SIDE if type(parse(frame)).__name__ == "SideFrame" else Channel.PATCH
            packets += [p.pack() for p in segmenter.packets(frame, channel, time.time())]
        tiles.append(packets)
    return tiles


def soak_scene(path: Path) -> bool:
    """Whether a file is one of the two scenes that ship."""
    return path.name.endswith("-SPECTRAL_IMAGE.TIF") or path.suffix == ".npz"


def run(desk: Desk, folder: Path, tiles: list[list[bytes]], tile_s: float) -> dict[str, Any]:
    """Send all, wait until all is written, and tell."""
    ground = desk.ground(
        DEPLOY / "models" / "default.safetensors",
        f"archive.directory={folder / 'archive'}",
        f"web.port={WEB_PORT}",
    )
    os.sched_setaffinity(ground._process.pid, {0})
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 2)))
    ground.until_ready()
    asked = list[float]()
    behind_s = most_waiting = most_rss = 0.0
    with browsers(asked), PacketSender(Endpoint(address=desk.link, bind=False)) as sender:
        start_s = time.monotonic()
        for number, packets in enumerate(tiles):
            each_s = tile_s / len(packets)
            for place, raw in enumerate(packets):
                due_s = start_s + number * tile_s + place * each_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                while not sender.send(raw, 1.0):
                    pass
                behind_s = max(behind_s, time.monotonic() - due_s)
            if number % 8 == 7:
                told = ground.metrics()
                waiting = told.total("queue_items", queue="packets")
                most_waiting = max(most_waiting, waiting)
                most_rss = max(most_rss, told.total("process_resident_memory_bytes"))
        sent_s = time.monotonic() - start_s
        told = ground.metrics()
        deferred = told.total("frames_deferred")
        ground.until_metrics(
            lambda n: n.total("tiles_written_total") >= len(tiles), "all tiles", timeout_s=1200
        )
        done_s = time.monotonic() - start_s
    last = ground.stop(timeout_s=60)
    sent = sum(map(len, tiles))
    return {
        "tiles": len(tiles),
        "packets": sent,
        "seconds": sent_s,
        "x_enmap": PATCHES_PER_TILE * len(tiles) / sent_s / 14.4,
        "sender_behind_s": behind_s,
        "packets_waiting_at_most": most_waiting,
        "frames_deferred_at_the_end": deferred,
        "rss_mib_at_most": most_rss / 2**20,
        "all_written_after_s": done_s,
        "packets_received": last.total("packets_received_total"),
        "packets_missing": last.total("packets_missing"),
        "tiles_complete": last.total("tiles_written_total", state="complete"),
        "tiles_partial": last.total("tiles_written_total", state="partial"),
        "patches_missing": last.total("patches_missing_total"),
        "answers_to_browsers": len(asked),
        "longest_answer_s": max(asked, default=0.0),
    }


@contextmanager
def browsers(asked: list[float]) -> Iterator[None]:
    """Have some of them look, and note how long each answer took [s]."""
    done = threading.Event()

    def get(path: str) -> bytes:
        start_s = time.monotonic()
        with urlopen(f"http://127.0.0.1:{WEB_PORT}{path}", timeout=30) as answer:
            body: bytes = answer.read()
        asked.append(time.monotonic() - start_s)
        return body

    def hear() -> None:
        with (
            suppress(URLError, OSError),
            urlopen(f"http://127.0.0.1:{WEB_PORT}/api/events", timeout=30) as stream,
        ):
            while not done.is_set() and stream.readline():
                pass

    def look() -> None:
        while not done.wait(2.0):
            with suppress(URLError, OSError):
                state = json.loads(get("/api/state"))
                if state["tiles"]:
                    tile = state["tiles"][0]["id"]
                    get(f"/api/tiles/{tile}/bands?r=40&g=25&b=10&stride=1")
                    get(f"/api/tiles/{tile}/spectrum?row=5&col=5")

    threads = [
        threading.Thread(target=work, daemon=True) for work in (hear, look) for _ in range(BROWSERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads[BROWSERS:]:
            thread.join()


if __name__ == "__main__":
    main()
