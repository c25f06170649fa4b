"""What docs/operations.md says of a bad night: how it shows, what helps, how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from codec.tile import Tile
from daemon.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OUTPUT, EXIT_UNAVAILABLE
from daemon.link.segment import Segmenter
from daemon.link.sockets import PacketSender, TileSender
from daemon.radio import LossyLink, Radio
from daemon.tile_message import TileMessage
from fakes import clock_off
from fakes.cubes import tile as fake_tile
from fakes.ground import frames
from fakes.instrument import PATCHES, message
from fakes.monitoring import Look, fires
from fakes.namespaces import NotAllowedError
from fakes.processes import DEPLOY, PATIENCE_S, ROOT, Desk, Process, towards
from fakes.small_disks import TOOLS, SmallDisks

Alarm = Callable[[str, Look, Look], bool]


@pytest.fixture
def alarm(requires_tool: Callable[[str], str], tmp_path: Path) -> Alarm:
    """Whether an alert of deploy/alerts.yml fires if all goes on as between two looks."""
    return partial(fires, requires_tool("promtool"), tmp_path)


def fault(**environment: object) -> dict[str, Any]:
    """What a process gets that runs a module of these tests."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    given = {name: str(value) for name, value in environment.items()}
    return {"env": {**os.environ, "PYTHONPATH": path, **given}}


def show(desk: Desk, *sequences: int) -> None:
    """Be an instrument: send tiles with these numbers."""
    with TileSender(towards(desk.tiles)) as sender:
        for sequence in sequences:
            assert sender.send(message(sequence), PATIENCE_S)


def until_spooled(flight: Process, tiles: int) -> None:
    """Wait until all patches of so many tiles are spooled, and none was dropped."""
    spooled = flight.until_metrics(
        lambda n: n.total("frames_total", channel="patch") == tiles * PATCHES, f"{tiles} tiles"
    )
    assert spooled.total("dropped_patches_total") == 0


def until_whole(desk: Desk, ground: Process, tiles: int) -> None:
    """Wait until the ground wrote so many tiles, the first ones, all of them whole."""
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") >= tiles, f"{tiles} cubes"
    )
    whole = [m["sequence"] for m in desk.manifests() if not m["patches_missing"]]
    assert whole == list(range(tiles))


def play(desk: Desk, tile: Tile) -> None:
    """Be a board: send all packets of a tile, each tile's with a boot id of its own."""
    segmenter = Segmenter(boot_id=1 + tile.info.sequence, apid=1, mtu_bytes=256, repair={})
    with PacketSender(towards(desk.link)) as air:
        for frame in frames(tile):
            for raw in segmenter.packets(frame.raw, frame.channel, 0.0):
                assert air.send(raw, PATIENCE_S)


# ---------------------------------------------------------------- the link


@contextmanager
def radio(board: str, ground: str) -> Iterator[None]:
    """Carries packets while it is open."""
    carries = Radio(board=board, ground=ground, link=LossyLink(seed=1))
    carries.start()
    try:
        yield
    finally:
        carries.stop()


def test_a_lost_link_costs_nothing(
    desk: Desk, small_bundle: Path, tmp_path: Path, alarm: Alarm
) -> None:
    """What comes meanwhile waits, and two alerts fire; with the link back all comes down."""
    air, up = f"{desk.link}-air", f"{desk.link}-up"
    ground = desk.ground(
        small_bundle, f"archive.directory={tmp_path / 'archive'}", "output.format=npy",
        f"link.uplink={{address: '{up}', report_s: 0.2, reorder_s: 0.1, retry_s: 1.0}}",
    )  # fmt: skip
    flight = desk.flight(
        small_bundle, f"link.address={air}", f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
        "spool.kind=disk", f"spool.directory={tmp_path / 'spool'}",
    )  # fmt: skip
    both = {"flight": flight.until_ready(), "ground": ground.until_ready()}
    with radio(air, desk.link):
        show(desk, 0, 1)
        until_whole(desk, ground, 2)
    show(desk, *range(2, 6))
    until_spooled(flight, 6)
    before = Look.at(**both)
    flight.until_metrics(
        lambda n: n.total("spool_oldest_age_seconds") > 2, "packets that get older"
    )
    after = Look.at(**both)
    for alert in ("PrismlinkBacklogAges", "PrismlinkNothingHeard"):
        assert alarm(alert, before, after)
    with radio(air, desk.link):
        until_whole(desk, ground, 6)
        flight.until_metrics(
            lambda n: not n.total("spool_packets") + n.total("spool_kept_frames"), "all confirmed"
        )
        later = Look.at(**both)
    for alert in ("PrismlinkBacklogAges", "PrismlinkNothingHeard"):
        assert not alarm(alert, after, later)
    assert flight.stop().total("spool_dropped_packets_total") == 0


# ---------------------------------------------------------------- full disks


@pytest.fixture
def small_disks(
    tmp_path: Path, requires_tool: Callable[[str], str], absent: Callable[[str], NoReturn]
) -> Iterator[SmallDisks]:
    """Three, in folders of their names."""
    for tool in TOOLS:
        requires_tool(tool)
    try:
        with SmallDisks(*(tmp_path / name for name in ("spool", "archive", "cubes"))) as made:
            yield made
    except NotAllowedError as error:
        absent(f"this test needs root, to mount a small disk: {error}")


def test_a_full_disk_on_board_costs_nothing(
    desk: Desk, small_bundle: Path, tmp_path: Path, alarm: Alarm, small_disks: SmallDisks
) -> None:
    """Packets wait in memory meanwhile, and an alert fires.

    With room again all of them are on the disk, so that a board killed then loses none.
    """
    spool = tmp_path / "spool"
    words = (
        small_bundle, "spool.kind=disk", f"spool.directory={spool}", "spool.segment_mib=1",
        "spool.retry_s=0.5",
    )  # fmt: skip
    flight = desk.flight(*words, inside=small_disks).until_ready()
    show(desk, 0)
    until_spooled(flight, 1)
    before = Look.at(flight=flight)
    small_disks.fill(spool)
    show(desk, 1, 2)
    until_spooled(flight, 3)
    flight.until_metrics(lambda n: n.total("spool_degraded") == 1, "a spool in memory")
    after = Look.at(flight=flight)
    assert alarm("PrismlinkSpoolDegraded", before, after)
    (said,) = flight.events("spool degraded to memory")
    assert "No space left on device" in said["error"]

    small_disks.free(spool)
    flight.until_metrics(lambda n: n.total("spool_degraded") == 0, "a spool on its disk")
    assert flight.events("spool uses the disk again")
    assert not alarm("PrismlinkSpoolDegraded", after, Look.at(flight=flight))
    waiting = flight.metrics().total("spool_packets")
    flight.kill()
    flight = desk.flight(*words, inside=small_disks).until_ready()
    assert flight.metrics().total("spool_recovered_packets") == waiting
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    until_whole(desk, ground, 3)
    assert flight.stop().total("spool_dropped_packets_total") == 0


def test_full_disks_on_the_ground_cost_nothing(
    desk: Desk, small_bundle: Path, tmp_path: Path, alarm: Alarm, small_disks: SmallDisks
) -> None:
    """Without its archive it writes cubes; without room for cubes it archives, for its next start.

    An alert fires for either.
    """
    archive, cubes = tmp_path / "archive", tmp_path / "cubes"
    settings = (
        f"archive.directory={archive}", "archive.segment_mib=1", "archive.max_mib=2",
        "archive.sync_ms=10", "archive.retry_s=3", f"output.directory={cubes}", "output.format=npy",
    )  # fmt: skip
    tiles = count()

    def fly(edge_px: int) -> None:
        tile = fake_tile(bands=6, rows=edge_px, cols=edge_px, noise_dn=400.0, sequence=next(tiles))
        play(desk, tile)

    ground = desk.ground(small_bundle, *settings, inside=small_disks).until_ready()
    desk.cubes = small_disks.seen(cubes)
    fly(128)
    until_whole(desk, ground, 1)
    before = Look.at(ground=ground)
    small_disks.fill(archive)
    fly(128)
    ground.until_metrics(lambda n: n.total("archive_degraded") == 1, "an archive that is full")
    after = Look.at(ground=ground)
    assert alarm("PrismlinkArchiveDegraded", before, after)
    until_whole(desk, ground, 2)
    assert "No space left on device" in ground.events("archive degraded")[0]["error"]

    small_disks.free(archive)
    while not ground.events("archive uses the disk again"):  # tried with a frame, when it is time
        cubes_before = ground.metrics().total("tiles_written_total")
        fly(16)
        ground.until_metrics(
            lambda n, b=cubes_before: n.total("tiles_written_total") > b,  # type: ignore[misc]
            "another cube",
        )
    healed = Look.at(ground=ground)
    assert not alarm("PrismlinkArchiveDegraded", after, healed)

    small_disks.fill(cubes)
    fly(128)
    ground.until_metrics(lambda n: n.total("tile_write_errors_total") == 1, "a tile not written")
    assert alarm("PrismlinkTileWriteErrors", healed, Look.at(ground=ground))
    (said,) = ground.events("refused by stage")
    assert said["stage"] == "write"
    small_disks.free(cubes)
    ground.stop()
    again = desk.ground(small_bundle, *settings, inside=small_disks).until_ready()
    again.until_metrics(lambda n: n.total("tiles_written_total") == 1, "the tile")
    assert [manifest["sequence"] for manifest in desk.manifests()] == list(range(next(tiles)))


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize("device", ["openvino-cpu", "torch-cuda"])
def test_a_lost_gpu_costs_nothing(
    desk: Desk, branch_bundle_file: Path, tmp_path: Path, alarm: Alarm, device: str
) -> None:
    """The CPU takes over in the middle of a tile, and an alert fires until the next start."""
    lost = tmp_path / "lost"
    given = {"module": "fakes.loses_device", **fault(LOST=lost, DEVICE=device)}
    words = (branch_bundle_file, f"model.backend={device.removesuffix('-cpu')}")
    ground = desk.ground(branch_bundle_file, "output.format=npy").until_ready()
    flight = desk.flight(*words, **given).until_ready()
    show(desk, 0)
    until_spooled(flight, 1)
    before = Look.at(flight=flight)
    lost.touch()
    show(desk, 1)
    until_spooled(flight, 2)
    until_whole(desk, ground, 2)
    after = Look.at(flight=flight)
    assert alarm("PrismlinkBackendFailed", before, after)
    (said,) = [e for e in flight.events() if e["event"].startswith("backend failed")]
    assert (said["backend"], said["now"]) == (device, "torch-cpu")
    assert "CUDA error: unspecified launch failure" in said["why"]
    flight.stop()

    lost.unlink()
    flight = desk.flight(*words, **given).until_ready()
    assert flight.events("ready")[0]["backend"] == device
    now = Look.at(flight=flight)
    assert not alarm("PrismlinkBackendFailed", now, Look.at(flight=flight))


def test_a_clock_that_jumps_moves_passes_and_nothing_else(
    desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """With a clock an hour late nothing leaves in a pass; set right, and wrong again, none is lost.

    Nothing grows too old meanwhile, and no stage hangs.
    """
    offset, opens = tmp_path / "offset", datetime.now(UTC) - timedelta(minutes=10)
    clock_off.put(offset, -3600)
    plan = f"[{{opens: {opens.isoformat()}, closes: {(opens + timedelta(hours=1)).isoformat()}}}]"
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(
        small_bundle, f"link.passes={plan}", "mailboxes.tiles.max_age_s=600",
        **clock_off.given(offset),
    ).until_ready()  # fmt: skip
    for late, tiles in ((-3600, 1), (7200, 2)):
        clock_off.put(offset, late)
        flight.until_metrics(lambda n: n.total("link_open") == 0, "a closed link")
        sent = flight.metrics().total("packets_total")
        show(desk, tiles - 1)
        until_spooled(flight, tiles)
        waiting = flight.metrics()
        assert waiting.total("spool_packets") > 0
        assert waiting.total("packets_total") == sent
        clock_off.put(offset, 0)
        until_whole(desk, ground, tiles)
    assert not flight.events("stage hangs")
    assert flight.stop().total("spool_dropped_packets_total") == 0


# ---------------------------------------------------------------- the end


BY_ITSELF: Final = {
    EXIT_UNAVAILABLE: "Address already in use",
    EXIT_OUTPUT: "small.safetensors/numbers.json",
    EXIT_CONFIG: "link.adress: unknown key; did you mean address?",
}
"""Statuses of a process that cannot even begin, and what its one line then says."""


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_process_says_why_it_does_not_begin(side: str, small_bundle: Path) -> None:
    """69, 73 and 78, in one line that names the address, the file or the key."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        model = f"bundle={small_bundle}" if side == "flight" else f"bundles=[{small_bundle}]"
        common = ("--set", f"model.{model}", "--set", f"metrics.port={port}")
        words = {
            EXIT_UNAVAILABLE: (),
            EXIT_OUTPUT: ("--json", small_bundle / "numbers.json"),
            EXIT_CONFIG: ("--set", "link.adress=tcp://127.0.0.1:1"),
        }
        ended = {
            status: subprocess.run(
                [
                    *(sys.executable, "-m", "daemon.cli", side, "run", DEPLOY / f"{side}.yaml"),
                    *common,
                    *given,
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            for status, given in words.items()
        }
    assert {status: done.returncode for status, done in ended.items()} == {s: s for s in words}
    for status, done in ended.items():
        (line,) = done.stderr.splitlines()
        assert line.startswith("prismlink: ")
        assert BY_ITSELF[status] in line


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_process_that_cannot_finish_says_so(side: str, desk: Desk, small_bundle: Path) -> None:
    """Status 1, with the name of the stage that had work left when time was up."""
    words = (small_bundle, "shutdown_deadline_s=0.2")
    process = getattr(desk, side)(*words, module="fakes.hangs", **fault()).until_ready()
    tile = fake_tile(bands=6, rows=128, cols=128, scene="hang")
    if side == "flight":
        with TileSender(towards(desk.tiles)) as sender:
            assert sender.send(TileMessage.pack(tile), PATIENCE_S)
        process.until_metrics(lambda n: n.total("tiles_received_total"), "a tile")
    else:
        play(desk, tile)
        process.until_metrics(lambda n: n.total("patches_decoded_total"), "a patch")
    process.terminate()
    with pytest.raises(RuntimeError, match=f"ended with status {EXIT_FAILURE}"):
        process.end_well()
    said, *_ = process.events("stage did not drain within the deadline")
    assert said["stage"] == {"flight": "patches", "ground": "mosaic"}[side]
