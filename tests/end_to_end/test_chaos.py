"""`kill -9` of either process, over and over, on a lossy link: nothing durable is lost.

`make chaos` kills a hundred times; CI a few.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from pathlib import Path

from daemon.link.packet import FrameKey, Packet
from daemon.link.sockets import Endpoint, TileSender
from daemon.radio import LossyLink, Radio
from daemon.records import HEADER_BYTES, scan
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import PATIENCE_S, Desk, Numbers, Process

KILLS = int(os.environ.get("PRISMLINK_KILLS", "8"))
PATCHES = 2
"""Of every tile."""
SAME_SPEED = "model.overload_speed=0"
"""Encoded faster while others wait, a tile comes back otherwise."""


def message(sequence: int) -> list[bytes | memoryview]:
    """A tile."""
    tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s", sequence=sequence)
    return list(TileMessage.pack(tile))


class Instrument:
    """Sends tiles while it is told to, each once; those a killed board had not spooled are lost.

    Attributes:
        sent: How many.
    """

    def __init__(self, address: str) -> None:
        self._address, self.sent = address, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="instrument")
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with TileSender(Endpoint(address=self._address, bind=False)) as sender:
            while not self._stopping.is_set():
                if sender.send(message(self.sent), 0.2):
                    self.sent += 1
                time.sleep(0.1)


def durable_frames(spool: Path) -> set[FrameKey]:
    """Frames whose packets are all on the board's disk."""
    held: defaultdict[FrameKey, set[int]] = defaultdict(set)
    needed: dict[FrameKey, int] = {}
    for path in spool.glob("*/*.log"):
        data = path.read_bytes()
        for _, start, size in scan(data).records:
            packet = Packet.unpack(data[start + HEADER_BYTES : start + HEADER_BYTES + size])
            key = packet.boot_id, packet.frame_id
            held[key].add(packet.segment_index)
            needed[key] = packet.segment_count
    return {key for key, indexes in held.items() if indexes >= set(range(needed[key]))}


def test_kills_lose_nothing_durable(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """Every frame that was on the board's disk when it was killed is in a cube in the end.

    The ground has each frame of it, and its cubes equal those of an undisturbed run bit for bit.
    """
    rng, spool, air = random.Random(KILLS), tmp_path / "spool", f"{desk.link}-air"
    up = f"{desk.link}-up"
    flight_settings = (
        "spool.kind=disk", f"spool.directory={spool}", "spool.sync_ms=10", "spool.segment_mib=1",
        f"link.address={air}", "link.mtu_bytes=512", SAME_SPEED,
        f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
    )  # fmt: skip
    ground_settings = (
        f"archive.directory={tmp_path / 'archive'}", "archive.sync_ms=20", "output.format=npy",
        f"link.uplink={{address: '{up}', report_s: 0.2, reorder_s: 0.1, retry_s: 1.0}}",
        "tile_deadline_s=10",
    )  # fmt: skip

    def start(name: str) -> Process:
        if name == "flight":
            return desk.flight(small_bundle, *flight_settings)
        return desk.ground(small_bundle, *ground_settings)

    radio = Radio(board=air, ground=desk.link, link=LossyLink(seed=1, loss=0.05, reorder=0.1))
    radio.start()
    running = {name: start(name) for name in ("ground", "flight")}
    instrument, durable = Instrument(desk.tiles), set[FrameKey]()
    try:
        for _ in range(KILLS):
            name = rng.choice(("ground", "flight"))
            running[name].until_ready()
            time.sleep(rng.expovariate(1.0))
            running[name].kill()
            if name == "flight":
                durable |= durable_frames(spool)
            running[name] = start(name)
        instrument.stop()
        flown, landed = until_all_is_down(running["flight"], running["ground"])
    finally:
        instrument.stop()
        radio.stop()
    assert flown.total("spool_dropped_packets_total") == 0
    assert landed.total("frames_lost_total") == 0

    archived = {tuple(frame) for manifest in desk.manifests() for frame in manifest["frames"]}
    assert durable
    assert durable <= archived
    whole = {m["sequence"]: m["file"] for m in desk.manifests() if not m["patches_missing"]}
    assert len(whole) > 0.5 * instrument.sent
    undisturbed = undisturbed_run(desk, small_bundle, tmp_path / "undisturbed", sorted(whole))
    for sequence, file in whole.items():
        assert (desk.cubes / file).read_bytes() == undisturbed[sequence], sequence


def until_all_is_down(flight: Process, ground: Process) -> tuple[Numbers, Numbers]:
    """Wait until the board has nothing left, and end both."""
    flight.until_ready().until_metrics(
        lambda n: not n.total("spool_packets") + n.total("spool_kept_frames"), "all acknowledged"
    )
    flown = flight.stop()
    return flown, ground.until_ready().stop()


def undisturbed_run(
    desk: Desk, bundle: Path, cubes: Path, sequences: list[int]
) -> dict[int, bytes]:
    """The same tiles through processes that nobody kills."""
    ground = desk.ground(bundle, f"output.directory={cubes}", "output.format=npy").until_ready()
    flight = desk.flight(bundle, SAME_SPEED).until_ready()
    with TileSender(Endpoint(address=desk.tiles, bind=False)) as sender:
        for sequence in sequences:
            assert sender.send(message(sequence), PATIENCE_S)
            time.sleep(0.05)
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == len(sequences), "all tiles"
    )
    flight.stop()
    ground.stop()
    return {
        sequence: path.read_bytes()
        for sequence, path in zip(sequences, sorted(cubes.glob("*.npy")), strict=True)
    }
