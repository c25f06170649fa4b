"""What stages tell becomes what visitors see."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from codec.errors import TileError
from codec.tile import Tile
from daemon.errors import OutputError
from daemon.ground.metrics import GroundMetrics
from daemon.ground.report import HeardBeacon
from daemon.ground.web.kept_samples import KeptSamples
from daemon.ground.web.link_watch import LinkState, LinkWatch, PassRecord
from daemon.ground.web.pass_log import FILE_NAME, PassLog
from daemon.ground.web.tile_board import TileBoard
from daemon.ground.web.tile_view import TileState
from daemon.ground.web.watch import SceneThere, WatchWorker, written
from daemon.ground.write import MANIFEST, file_stem, manifest
from daemon.link.beacon import Beacon, BootState
from daemon.metrics import new_registry
from fakes import cubes
from fakes.clock import FakeClock
from fakes.ground import parts_of
from fakes.web import restored

TILE = cubes.tile(bands=2, rows=130, cols=9, scene="s", sequence=7)
PARTS = parts_of(TILE)
ID = TILE.info.tile_id.hex()


class Rig:
    """A worker with its surroundings."""

    def __init__(self, folder: Path, *, max_tiles: int = 10, has_uplink: bool = False) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.metrics, self.samples = GroundMetrics(new_registry()), KeptSamples(1 << 20)
        self.beacon: HeardBeacon | None = None
        self.worker = WatchWorker(
            folder,
            board=TileBoard(max_tiles),
            samples=self.samples,
            passes=PassLog(folder / FILE_NAME, 10),
            link=LinkWatch(silence_s=5.0),
            totals=self.metrics.totals,
            beacon=lambda: self.beacon,
            has_uplink=has_uplink,
            clock=self.clock,
        )

    def write(self, tile: Tile = TILE) -> None:
        """Write a manifest, as the stage before does."""
        item = restored(tile)
        path = self.folder / f"{file_stem(tile.info)}{MANIFEST}"
        path.write_text(json.dumps(manifest(item, "x.tif")))

    def tick(self, seconds: float = 0.5) -> None:
        """Let time pass, and look."""
        self.clock.advance(seconds)
        self.worker.tick()


def test_a_tile_is_seen_from_its_first_part_to_its_file(tmp_path: Path) -> None:
    """Its samples are at hand all the way."""
    rig = Rig(tmp_path)
    for part in PARTS[:2]:
        assert list(rig.worker.accept(part)) == []
    rig.tick()
    (view,) = rig.worker.bulletin.tiles
    assert (view.state, view.have) == (TileState.OPEN, "10")
    assert rig.samples.get(ID) is not None

    list(rig.worker.accept(restored(TILE, parts=PARTS)))
    rig.write()
    list(rig.worker.accept(written(restored(TILE, parts=PARTS))))
    rig.tick()
    (view,) = rig.worker.bulletin.tiles
    assert (view.state, view.have, view.file) == (TileState.WRITTEN, "11", "x.tif")


def test_a_visitor_is_told_what_is_new(tmp_path: Path) -> None:
    """Tiles that changed, and the ids of all whenever one did; nothing twice."""
    rig = Rig(tmp_path)
    other = cubes.tile(bands=2, rows=8, cols=8, scene="t")
    list(rig.worker.accept(PARTS[0]))
    list(rig.worker.accept(parts_of(other)[0]))
    rig.tick()
    bulletin = rig.worker.bulletin
    assert len(bulletin.to_json()["tiles"]) == 2
    assert {"tiles", "ids", "passes"}.isdisjoint(
        bulletin.to_json(bulletin.version, bulletin.passes_version)
    )
    list(rig.worker.accept(PARTS[1]))
    rig.tick()
    news = rig.worker.bulletin.to_json(bulletin.version, 0)
    assert [tile["id"] for tile in news["tiles"]] == [ID]
    assert set(news["ids"]) == {ID, other.info.tile_id.hex()}
    assert json.loads(json.dumps(rig.worker.bulletin.to_json(), allow_nan=False))


def test_a_scene_has_its_files(tmp_path: Path) -> None:
    """Those that are there, for visitors who have not seen them; others are none of its files."""
    rig = Rig(tmp_path)
    rig.tick()
    seen = rig.worker.bulletin.version
    for name in ("s.tif", "s.stac.json", "other.tif"):
        (tmp_path / name).write_bytes(b"")
    list(rig.worker.accept(SceneThere(sensor="fake", scene="x" * 300, stem="s")))
    rig.tick()
    bulletin = rig.worker.bulletin

    assert bulletin.to_json(seen)["products"] == [
        {"sensor": "fake", "scene": "x" * 200, "files": ["s.tif", "s.stac.json"]}
    ]
    assert "products" not in bulletin.to_json(bulletin.version)
    assert [bulletin.has_file(name) for name in ("s.tif", "other.tif", "s")] == [True, False, False]


def test_bulletins_do_not_change(tmp_path: Path) -> None:
    """Who holds one reads the same for ever: the next is another."""
    rig = Rig(tmp_path)
    rig.tick()
    before = rig.worker.bulletin
    list(rig.worker.accept(PARTS[0]))
    rig.tick()
    assert before.tiles == ()
    assert rig.worker.bulletin is not before


def test_a_tile_that_is_told_of_no_more_keeps_no_memory(tmp_path: Path) -> None:
    """Its samples go with it."""
    rig = Rig(tmp_path, max_tiles=1)
    list(rig.worker.accept(PARTS[1]))
    list(rig.worker.accept(parts_of(cubes.tile(bands=2, rows=8, cols=8))[1]))
    assert rig.samples.get(ID) is None


def test_an_earlier_process_left_tiles(tmp_path: Path) -> None:
    """The newest, as many as are told of; what is no manifest is passed over."""
    rig = Rig(tmp_path, max_tiles=2)
    for number in range(4):
        tile = cubes.tile(bands=2, rows=8, cols=8, scene="s", sequence=number)
        rig.write(tile)
        path = tmp_path / f"{file_stem(tile.info)}{MANIFEST}"
        os.utime(path, (number, number))
    (tmp_path / f"newest{MANIFEST}").write_bytes(b"none of ours")
    rig.tick()
    assert [view.sequence for view in rig.worker.bulletin.tiles] == [3]  # of two, one was none


def test_no_folder_is_no_tile(tmp_path: Path) -> None:
    """Before anything was ever written."""
    rig = Rig(tmp_path / "nowhere")
    rig.tick()
    assert rig.worker.bulletin.tiles == ()


def test_a_manifest_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The stage counts it, and goes on."""
    with pytest.raises(OutputError, match="cannot be read again"):
        Rig(tmp_path).worker.accept(written(restored(TILE)))


def test_a_tile_of_countless_patches_is_not_shown(tmp_path: Path) -> None:
    """A frame may claim any grid; what is told of it would grow without bound."""
    rig = Rig(tmp_path)
    side = replace(PARTS[1].side, shape=(2, 1024, 1024), patch_px=8)
    with pytest.raises(TileError, match="16384 patches; 4096 are shown"):
        rig.worker.accept(replace(PARTS[1], side=side))
    rig.tick()
    assert (rig.worker.bulletin.tiles, rig.samples.bytes) == ((), 0)


def test_a_pass_outlives_a_process_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for its last seconds; it is written no more often than that."""
    writes = list[PassRecord]()
    keep = PassLog.under_way
    monkeypatch.setattr(
        PassLog, "under_way", lambda log, record: (writes.append(record), keep(log, record))
    )
    rig = Rig(tmp_path)
    for _ in range(100):
        rig.metrics.packets_received.labels("patch").inc()
        rig.tick(0.5)
    assert 9 <= len(writes) <= 11
    (kept,) = PassLog(tmp_path / FILE_NAME, 10).passes
    assert 90 <= kept.counts.packets <= 100


def test_a_pass_that_ends_is_kept(tmp_path: Path) -> None:
    """In the bulletin and in the file; one that is cut off by the end of the process, too."""
    rig = Rig(tmp_path)
    rig.tick()
    for _ in range(2):
        rig.metrics.packets_received.labels("patch").inc(5)
        rig.tick()
        assert rig.worker.bulletin.link.state is LinkState.CONTACT
        rig.tick(10.0)
    assert [one.counts.packets for one in rig.worker.bulletin.passes] == [5, 5]
    rig.metrics.packets_received.labels("patch").inc(3)
    rig.worker.finish()
    assert [one.counts.packets for one in PassLog(tmp_path / FILE_NAME, 10).passes] == [5, 5, 3]


@pytest.mark.parametrize("has_uplink", [True, False])
def test_loss_is_what_is_known_of_it(*, tmp_path: Path, has_uplink: bool) -> None:
    """Beacons tell of it lately; without them gaps do, repeats not counted as packets."""
    rig = Rig(tmp_path, has_uplink=has_uplink)
    rig.metrics.packets_received.labels("patch").inc(100)
    rig.metrics.packets_duplicate.inc(10)
    rig.metrics.packets_missing.labels("gap").set(10)
    rig.metrics.link_loss.set(0.25)
    rig.tick()
    assert rig.worker.bulletin.link.loss == (0.25 if has_uplink else 0.1)


def test_the_last_beacon_is_told(tmp_path: Path) -> None:
    """Its age grows until the next."""
    rig = Rig(tmp_path)
    rig.tick()
    assert rig.worker.bulletin.beacon is None
    states = tuple(BootState(boot_id=i, kept_from=2 * i, sent_below=10) for i in (1, 2))
    beacon = Beacon(session=1, seen=0, seen_bits=0, answered=0, sent_packets=77, boots=states)
    rig.beacon = HeardBeacon(0xAB, beacon, rig.clock.monotonic_s())
    rig.tick(3.0)
    assert rig.worker.bulletin.beacon == {
        "age_s": 3.0, "boot_id": "000000ab", "sent_packets": 77, "frames_sent": 20,
        "frames_kept": 14,
    }  # fmt: skip


def test_a_tile_is_found_by_its_id(tmp_path: Path) -> None:
    """Or is not."""
    rig = Rig(tmp_path)
    list(rig.worker.accept(PARTS[0]))
    rig.tick()
    bulletin = rig.worker.bulletin
    assert bulletin.tile(ID) == bulletin.tiles[0]
    assert replace(bulletin, tiles=()).tile(ID) is None
