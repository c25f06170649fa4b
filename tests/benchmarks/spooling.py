"""What the disk spool costs: packets a second made durable, and how long opening it again takes.

    python tests/benchmarks/spooling.py --folder /var/tmp --json spooling.json

Packets of 1 KiB, synced 64 at a time, into the spool and, in turn, plainly appended to a file that
is synced as often: what the disk allows. Then spools of several sizes are opened again, once with
all packets waiting and once with all of them sent, and kept until they are acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.clock import SystemClock
from daemon.link.lanes import Lane
from daemon.link.packet import OVERHEAD_BYTES, Channel
from daemon.link.segment import Segmenter
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.spool import SpooledPacket

FRAME = 16
SEGMENTER = Segmenter(boot_id=1, apid=1, mtu_bytes=1024, repair={})
ROOM_BYTES = (1024 - OVERHEAD_BYTES) // 8 * 8
PACKETS = SEGMENTER.packets(os.urandom(FRAME * ROOM_BYTES), Channel.PATCH, 0.0)
PACKET_BYTES = len(PACKETS[0])
GROUP = 64
FRAME_ID_AT = 26
"""Of a packet, see docs/wire-format.md."""
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
        print(
            f"opened again: {size['gib']:g} GiB, {size['packets']:,} packets: {size['s']:.2f} s "
            f"waiting, {size['sent_s']:.2f} s sent"
        )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run both in turn, then open spools again."""
    spooled, appended = [], []
    for number in range(chosen.rounds):
        place = folder / str(number)
        spooled.append(chosen.packets / spool(place, chosen.packets))
        file = folder / f"{number}.plain"
        appended.append(chosen.packets / timed(lambda file=file: plain(file, chosen.packets)))
        file.unlink()
    recovered = []
    for gib in map(float, chosen.sizes.split(",")):
        place, packets = folder / f"{gib}", int(gib * GIB) // PACKET_BYTES // FRAME * FRAME
        spool(place, packets)
        waiting_s = timed(lambda place=place, packets=packets: reopen(place, waiting=packets))
        send_all(place)
        sent_s = timed(lambda place=place, packets=packets: reopen(place, sent=packets))
        shutil.rmtree(place)
        recovered.append({"gib": gib, "packets": packets, "s": waiting_s, "sent_s": sent_s})
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
    return DiskSpool(place, limits=limits, clock=SystemClock(), on_drop=lost, acknowledged=True)


def frames(count: int) -> Iterator[list[bytes]]:
    """Packets of frames; their ids differ."""
    for frame_id in range(count):
        packed = frame_id.to_bytes(4)
        yield [raw[:FRAME_ID_AT] + packed + raw[FRAME_ID_AT + 4 :] for raw in PACKETS]


def spool(place: Path, packets: int) -> float:
    """Spool frames of sixteen packets; return how long the spool took [s]."""
    made, took_s = opened(place), 0.0
    for each in frames(packets // FRAME):
        took_s += timed(lambda each=each: made.append(each, Lane.PATCH))
    took_s += timed(lambda: made.end("end"))
    if made.degraded is not None:
        raise SystemExit(f"the disk failed: {made.degraded}")
    return took_s


def send_all(place: Path) -> None:
    """Send what waits."""
    made = opened(place)
    while (packet := made.take(0.0)) is not None:
        made.sent(packet)
    made.end("end")


def plain(file: Path, packets: int) -> None:
    """Append the same bytes, synced as often."""
    with file.open("wb", buffering=0) as out:
        for _ in range(packets // GROUP):
            for _ in range(GROUP // FRAME):
                out.write(b"".join(PACKETS))
            os.fdatasync(out.fileno())


def reopen(place: Path, *, waiting: int = 0, sent: int = 0) -> None:
    """Open a spool that another process left."""
    made = opened(place)
    if (made.packets, made.kept_frames) != (waiting, sent // FRAME):
        raise SystemExit(f"{made.packets} packets and {made.kept_frames} frames were found")
    made.end("end")


if __name__ == "__main__":
    main()
