"""What the disk spool costs: packets a second made durable, and how long opening it again takes.

    python tests/benchmarks/spooling.py --folder /var/tmp --json spooling.json

Packets of 1 KiB, synced 64 at a time, into the spool and, in turn, plainly appended to a file that
is synced as often: what the disk allows. Then spools of several sizes are opened again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.clock import SystemClock
from daemon.link.lanes import Lane
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.spool import SpooledPacket

PACKET = os.urandom(1024)
GROUP = 64
GIB = 1 << 30


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--packets", type=int, default=64_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="0.25,0.5,1", help="of spools opened again [GiB]")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spooling-", dir=chosen.folder) as folder:
        found = measure(Path(folder), chosen)
    print(
        f"spool {found['spooled_per_s']:,.0f} packets/s durable, plain file "
        f"{found['appended_per_s']:,.0f}: {found['share']:.0%} of it"
    )
    for size in found["recovered"]:
        print(f"opened again: {size['gib']:g} GiB, {size['packets']:,} packets, {size['s']:.2f} s")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run both in turn, then open spools again."""
    spooled, appended = [], []
    for number in range(chosen.rounds):
        place = folder / str(number)
        spooled.append(chosen.packets / timed(lambda place=place: spool(place, chosen.packets)))
        file = folder / f"{number}.plain"
        appended.append(chosen.packets / timed(lambda file=file: plain(file, chosen.packets)))
        file.unlink()
    recovered = []
    for gib in map(float, chosen.sizes.split(",")):
        place, packets = folder / f"{gib}", int(gib * GIB) // len(PACKET)
        spool(place, packets)
        took_s = timed(lambda place=place, packets=packets: reopen(place, packets))
        recovered.append({"gib": gib, "packets": packets, "s": took_s})
    rates = {
        "spooled_per_s": statistics.median(spooled),
        "appended_per_s": statistics.median(appended),
    }
    share = statistics.median(s / a for s, a in zip(spooled, appended, strict=True))
    return {**rates, "share": share, "group": GROUP, "recovered": recovered}


def timed(run: Callable[[], object]) -> float:
    """How long it takes [s]."""
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def opened(place: Path) -> DiskSpool:
    """A spool large enough."""

    def lost(_packet: SpooledPacket, reason: str) -> None:
        raise SystemExit(f"a packet was given up: {reason}")

    limits = DiskSpoolLimits(
        max_bytes=64 * GIB,
        max_memory_bytes=GIB,
        segment_bytes=16 << 20,
        sync_packets=GROUP,
        sync_s=1.0,
        retry_s=10.0,
    )
    return DiskSpool(place, limits=limits, clock=SystemClock(), on_drop=lost)


def spool(place: Path, packets: int) -> None:
    """Spool frames of sixteen packets."""
    made = opened(place)
    for _ in range(packets // 16):
        made.append([PACKET] * 16, Lane.PATCH)
    made.end("end")
    if made.degraded is not None:
        raise SystemExit(f"the disk failed: {made.degraded}")


def plain(file: Path, packets: int) -> None:
    """Append the same bytes, synced as often."""
    with file.open("wb", buffering=0) as out:
        for _ in range(packets // GROUP):
            for _ in range(GROUP // 16):
                out.write(PACKET * 16)
            os.fdatasync(out.fileno())


def reopen(place: Path, packets: int) -> None:
    """Open a spool that another process left."""
    made = opened(place)
    if made.recovery.records != packets // 16 * 16:
        raise SystemExit(f"{made.recovery.records} of {packets} packets were found")
    made.end("end")


if __name__ == "__main__":
    main()
