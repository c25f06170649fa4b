"""What waits for the link: on a disk it outlives its process, and it leaves during passes alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.link.sockets import TileSender
from daemon.tile_message import TileMessage
from fakes import clock_off
from fakes.cubes import tile as fake_tile
from fakes.processes import PATIENCE_S, Desk, towards

TILES, PATCHES = 12, 4


def test_what_was_spooled_comes_down_after_a_kill(
    desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """With no ground in sight all waits on the disk; killed and started again, the board sends it.

    Sent is exactly what was found; each tile is whole on the ground, and nothing came twice.
    """
    spool = ("spool.kind=disk", f"spool.directory={tmp_path / 'spool'}", "spool.segment_mib=1")
    flight = desk.flight(small_bundle, *spool).until_ready()
    with TileSender(towards(desk.tiles)) as sender:
        for sequence in range(TILES):
            tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s", sequence=sequence)
            assert sender.send(TileMessage.pack(tile), PATIENCE_S)
    spooled = flight.until_metrics(
        lambda n: n.total("frames_total", channel="patch") == TILES * PATCHES, "all tiles spooled"
    )
    waiting = spooled.total("spool_packets")
    assert waiting > TILES * PATCHES
    flight.kill()

    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(small_bundle, *spool).until_ready()
    assert flight.metrics().total("spool_recovered_packets") == waiting
    ground.until_metrics(lambda n: n.total("tiles_written_total") == TILES, "all tiles")

    flown, landed = flight.stop(), ground.stop()
    assert flown.total("packets_total") == waiting
    assert flown.total("spool_skipped_bytes") == flown.total("spool_dropped_packets_total") == 0
    assert landed.total("packets_received_total") == waiting
    assert landed.total("packets_duplicate_total") == 0
    assert landed.total("tiles_written_total", state="complete") == TILES
    assert [one["sequence"] for one in desk.manifests()] == list(range(TILES))


def test_a_board_that_ends_leaves_its_spool(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """SIGTERM without a ground: nothing is given up, and it does not wait for one."""
    spool = ("spool.kind=disk", f"spool.directory={tmp_path / 'spool'}")
    for_ever = f"shutdown_deadline_s={10 * PATIENCE_S}"
    flight = desk.flight(small_bundle, *spool, for_ever).until_ready()
    with TileSender(towards(desk.tiles)) as sender:
        tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s")
        assert sender.send(TileMessage.pack(tile), PATIENCE_S)
    flight.until_metrics(lambda n: n.total("frames_total", channel="patch") == PATCHES, "a tile")
    flown = flight.stop()
    assert flown.total("spool_dropped_packets_total") == 0

    flight = desk.flight(small_bundle, *spool).until_ready()
    assert flight.metrics().total("spool_recovered_packets") > PATCHES


def test_packets_wait_for_a_pass(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """Before it opens none is on the air, with a ground that listens; then all of them are.

    The board's clock is put two seconds before the pass once all else is done.
    """
    offset, opens = tmp_path / "offset", datetime.now(UTC) + timedelta(hours=2)
    clock_off.put(offset, 0)
    plan = f"[{{opens: {opens.isoformat()}, closes: {(opens + timedelta(hours=1)).isoformat()}}}]"
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(
        small_bundle, f"link.passes={plan}", "link.kbit_per_s=400", **clock_off.given(offset)
    ).until_ready()
    with TileSender(towards(desk.tiles)) as sender:
        tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s")
        assert sender.send(TileMessage.pack(tile), PATIENCE_S)
    before = flight.until_metrics(
        lambda n: n.total("frames_total", channel="patch") == PATCHES, "a tile spooled"
    )
    assert before.total("link_open") == before.total("packets_total") == 0

    clock_off.put(offset, (opens - datetime.now(UTC)).total_seconds() - 2)
    ground.until_metrics(lambda n: n.total("tiles_written_total") == 1, "the tile")
    assert flight.metrics().total("link_open") == 1
    assert flight.stop().total("spool_packets") == 0
    assert ground.stop().total("tiles_written_total", state="complete") == 1
