"""`kill -9` of either process, over and over, on a lossy link: nothing durable is lost.

`make chaos` kills a hundred times; CI a few.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from daemon.ground.archive_records import FRAME, HEAD
from daemon.link.packet import Channel, FrameKey, Packet
from daemon.radio import LossyLink, Radio
from daemon.records import HEADER_BYTES, scan
from fakes.instrument import SAME_SPEED, Instrument, undisturbed_run
from fakes.processes import Desk, Numbers, Process, until

KILLS = int(os.environ.get("PRISMLINK_KILLS", "8"))


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


def archived_frames(archive: Path) -> dict[FrameKey, tuple[Channel, bytes]]:
    """What the ground has archived: what each frame is, and of which tile."""
    archived = dict[FrameKey, tuple[Channel, bytes]]()
    for path in archive.glob("*.log"):
        data = path.read_bytes()
        for _, start, _ in scan(data).records:
            kind, channel, boot_id, frame_id, tile_id = HEAD.unpack_from(data, start + HEADER_BYTES)
            if kind == FRAME:
                archived[boot_id, frame_id] = Channel(channel), tile_id
    return archived


@pytest.mark.timeout(300 + 10 * KILLS)
def test_kills_lose_nothing_durable(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """Every frame that was on the board's disk when it was killed is in the ground's archive.

    And in a cube, unless no patch of its tile came: a board can be killed between a tile's side
    information and its first patch. Cubes equal those of an undisturbed run bit for bit.
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
        flown = until_all_is_down(running["flight"])
        archived = archived_frames(tmp_path / "archive")
        shown = {tile for channel, tile in archived.values() if channel is Channel.PATCH}
        to_be_shown = {key for key, (_, tile) in archived.items() if tile in shown}
        # What is archived need not be decoded yet: a ground that ends leaves that to a later one.
        until(lambda: to_be_shown <= frames_in_cubes(desk), "cubes of all that is archived")
        landed = running["ground"].until_ready().stop()
    finally:
        instrument.stop()
        radio.stop()
    assert flown.total("spool_dropped_packets_total") == 0
    assert landed.total("frames_lost_total") == 0
    assert durable
    assert durable <= archived.keys()
    assert to_be_shown <= frames_in_cubes(desk)
    whole = {m["sequence"]: m["file"] for m in desk.manifests() if not m["patches_missing"]}
    assert len(whole) > 0.5 * instrument.sent
    undisturbed = undisturbed_run(desk, small_bundle, tmp_path / "undisturbed", sorted(whole))
    for sequence, file in whole.items():
        assert (desk.cubes / file).read_bytes() == undisturbed[sequence], sequence


def frames_in_cubes(desk: Desk) -> set[FrameKey]:
    """What cubes were made of."""
    return {(boot, frame) for manifest in desk.manifests() for boot, frame in manifest["frames"]}


def until_all_is_down(flight: Process) -> Numbers:
    """Wait until the board has nothing left, and end it."""
    flight.until_ready().until_metrics(
        lambda n: not n.total("spool_packets") + n.total("spool_kept_frames"), "all acknowledged"
    )
    return flight.stop()
