"""When scenes are put together: once nothing of them came for a while, at the end, at a start."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.errors import TileFileError
from codec.tile import Tile
from codec.tile_files import read_tile
from daemon.errors import OutputError
from daemon.ground import scene_keeper
from daemon.ground.assemble import assemble
from daemon.ground.metrics import GroundMetrics
from daemon.ground.products import QUALITY, STAC
from daemon.ground.scene_keeper import RETRY_S, SceneKeeper
from daemon.ground.scenes import scene_stem
from daemon.ground.tile_products import file_state
from daemon.ground.write import file_stem, make_clean
from daemon.metrics import new_registry
from fakes import cubes
from fakes.clock import FakeClock
from fakes.scenes import cut, write

DEADLINE_S = 10.0
SCENE = cubes.tile(bands=2, rows=60, cols=30, scene="x", nodata=-1.0)
TILES = list(cut(SCENE, (20, 20, 20), (30,)).values())
STEM = scene_stem("", "x")


class Keeper:
    """A keeper whose time stands still but for `passes`."""

    def __init__(self, folder: Path, *, max_bytes: int = 1 << 20, file_format: str = "npy") -> None:
        self.folder, self.clock = folder, FakeClock()
        self.metrics, self.told = GroundMetrics(new_registry()), list[tuple[str, str, str]]()
        self.keeper = SceneKeeper(
            folder, file_format, deadline_s=DEADLINE_S, max_bytes=max_bytes, metrics=self.metrics,
            clock=self.clock, on_scene=lambda *what: self.told.append(what),
        )  # fmt: skip
        self.keeper.poll()

    def write(self, *tiles: Tile) -> None:
        """Tiles are written, and told."""
        for tile in tiles:
            write(self.folder, tile)
            self.keeper.note(file_stem(tile.info))

    def passes(self, seconds: float) -> None:
        """So long, after which all is done that is due."""
        self.clock.advance(seconds)
        for _ in range(4):
            self.keeper.poll()

    def counts(self) -> dict[str, float]:
        """Of scenes, but for what is zero."""
        totals = self.metrics.totals()
        return {
            key.removeprefix("prismlink_scene"): value
            for key, value in totals.items()
            if key.startswith("prismlink_scene") and value
        }


def version(folder: Path) -> tuple[int, bool]:
    """Of the scene's product, and whether it is complete."""
    told = json.loads((folder / f"{STEM}{QUALITY}").read_text())
    return told["version"], told["complete"]


def test_a_scene_is_written_once_nothing_of_it_came_for_a_while(tmp_path: Path) -> None:
    """Each tile begins the while anew; then the page is told."""
    target = Keeper(tmp_path)
    target.write(*TILES[:2])
    target.passes(DEADLINE_S - 1)
    target.write(TILES[2])
    target.passes(DEADLINE_S - 1)
    assert target.counts() == {}
    target.passes(1)

    assert target.counts() == {'s_written_total{state="complete"}': 1}
    assert target.told == [("", "x", STEM)]
    np.testing.assert_array_equal(read_tile(tmp_path / f"{STEM}.npy").samples, SCENE.samples)


def test_a_tile_alone_is_its_scene(tmp_path: Path) -> None:
    """One position needs no product beside the tile's, however often it was shown."""
    target = Keeper(tmp_path)
    target.write(TILES[0], Tile(samples=TILES[0].samples, info=replace(TILES[0].info, sequence=9)))
    target.passes(DEADLINE_S)
    assert target.counts() == {}
    assert not list(tmp_path.glob("*_scene_*"))


def test_a_partial_scene_is_completed_in_place(tmp_path: Path) -> None:
    """As the next version; the same tiles again are no version."""
    target = Keeper(tmp_path)
    target.write(TILES[0], TILES[2])
    target.passes(DEADLINE_S)
    assert version(tmp_path) == (1, False)
    target.write(TILES[1])
    target.passes(DEADLINE_S)
    assert version(tmp_path) == (2, True)
    target.write(*TILES)
    target.passes(DEADLINE_S)

    assert version(tmp_path) == (2, True)
    assert target.counts() == {
        's_written_total{state="complete"}': 1,
        's_written_total{state="partial"}': 1,
    }


def test_the_next_process_finds_what_this_one_left(tmp_path: Path) -> None:
    """A scene that is up to date is left, by inode and time; one that is not is written."""
    for tile in TILES:
        write(tmp_path, tile)
    other = [Tile(samples=t.samples, info=replace(t.info, scene="y")) for t in TILES]
    before = Keeper(tmp_path)
    before.write(*other)
    before.passes(DEADLINE_S)
    stats = {path: file_state(path) for path in tmp_path.glob("x_scene_*")}
    assert len(stats) == 4
    (tmp_path / f"{scene_stem('', 'y')}{STAC}").unlink()

    target = Keeper(tmp_path)
    assert target.counts() == {}
    target.passes(DEADLINE_S)
    assert target.counts() == {'s_written_total{state="complete"}': 1}
    assert {path: file_state(path) for path in stats} == stats
    assert sorted(target.told) == [("", "x", STEM), ("", "y", scene_stem("", "y"))]


def test_the_last_one_shown_wins(tmp_path: Path) -> None:
    """Of two products at one position, that of the higher sequence is in the scene."""
    target = Keeper(tmp_path)
    shown = cubes.tile(bands=2, rows=60, cols=30, scene="x", nodata=-1.0, seed=1)
    again = cut(shown, (20, 20, 20), (30,))[1, 0]
    again = Tile(samples=again.samples, info=replace(again.info, sequence=100))
    target.write(again, *TILES)
    target.passes(DEADLINE_S)

    expected = SCENE.samples.copy()
    expected[:, 20:40] = again.samples
    np.testing.assert_array_equal(read_tile(tmp_path / f"{STEM}.npy").samples, expected)


def test_what_does_not_fit_is_told_once(tmp_path: Path) -> None:
    """One line and one count, until its tiles change."""
    target = Keeper(tmp_path, max_bytes=100)
    for _ in range(2):
        target.write(*TILES[:2])
        target.passes(DEADLINE_S)
    assert target.counts() == {'_errors_total{reason="scene_size"}': 1}
    target.write(TILES[2])
    target.passes(DEADLINE_S)
    assert target.counts() == {'_errors_total{reason="scene_size"}': 2}
    assert not list(tmp_path.glob("*_scene_*"))


def test_an_item_that_is_none_is_told(tmp_path: Path) -> None:
    """Once; it costs its scene, and no other, until it is put right."""
    target = Keeper(tmp_path)
    target.write(*TILES)
    item = next(tmp_path.glob(f"x_r000*{STAC}"))
    whole = item.read_bytes()
    item.write_text("{}")
    target.passes(DEADLINE_S)
    target.passes(RETRY_S)
    assert target.counts() == {'_errors_total{reason="scene_tile"}': 1}
    item.write_bytes(whole)
    target.passes(RETRY_S)
    assert version(tmp_path) == (1, True)


def test_what_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later, each try counted, until the disk has room."""

    def fails(*_: object) -> Path:
        raise OutputError(tmp_path, "no space")

    target = Keeper(tmp_path)
    target.write(*TILES)
    monkeypatch.setattr(scene_keeper, "assemble", fails)
    target.passes(DEADLINE_S)
    target.passes(RETRY_S - 1)
    assert target.counts() == {'_errors_total{reason="output"}': 1}
    target.passes(1)
    assert target.counts() == {'_errors_total{reason="output"}': 2}
    monkeypatch.setattr(scene_keeper, "assemble", assemble)
    target.passes(RETRY_S)
    assert version(tmp_path) == (1, True)


@pytest.mark.parametrize("remedy", ["put it back", "remove"])
def test_the_remedy_needs_no_restart(tmp_path: Path, remedy: str) -> None:
    """What was refused is looked at again; as long as all is as it was, that is no news."""
    target = Keeper(tmp_path)
    target.write(*TILES[:2])
    target.passes(DEADLINE_S)
    gone = {path: path.read_bytes() for path in tmp_path.glob("x_r000*")}
    for path in gone:
        path.unlink()
    target.write(TILES[2])
    for _ in range(100):
        target.passes(RETRY_S)
    wanted = {'s_written_total{state="complete"}': 1, '_errors_total{reason="scene_tile"}': 1}
    assert target.counts() == wanted

    if remedy == "remove":
        for path in tmp_path.glob(f"{STEM}.*"):
            path.unlink()
    else:
        for path, content in gone.items():
            path.write_bytes(content)
    target.passes(RETRY_S)
    assert target.counts() == wanted | {'s_written_total{state="complete"}': 2}
    assert read_tile(tmp_path / f"{STEM}.npy").samples.shape[1] == (
        40 if remedy == "remove" else 60
    )


def test_what_cannot_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may fail for a while: told once, and tried ever less often, hourly in the end."""
    tries = list[Path]()

    def fails(path: Path) -> Tile:
        tries.append(path)
        raise TileFileError(f"{path}: Input/output error")

    target = Keeper(tmp_path)
    target.write(*TILES)
    with monkeypatch.context() as patched:
        patched.setattr("daemon.ground.assemble.read_tile", fails)
        target.passes(DEADLINE_S)
        target.passes(RETRY_S)
        assert len(tries) == 2
        for _ in range(24 * 60):
            target.passes(RETRY_S)
    assert 24 < len(tries) < 32
    assert target.counts() == {'_errors_total{reason="scene_tile"}': 1}
    for _ in range(60):
        target.passes(RETRY_S)
    assert version(tmp_path) == (1, True)


def test_what_needs_other_tiles_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles unlike each other stay so; they are put together once one of them was replaced."""
    target = Keeper(tmp_path)
    unlike = Tile(samples=TILES[2].samples, info=replace(TILES[2].info, nodata=-2.0))
    target.write(*TILES[:2], unlike)
    tries = list[object]()

    def counted(*told: Any) -> Path:
        tries.append(told)
        return assemble(*told)

    monkeypatch.setattr(scene_keeper, "assemble", counted)
    target.passes(DEADLINE_S)
    for _ in range(100):
        target.passes(RETRY_S)
    assert len(tries) == 1
    assert target.counts() == {'_errors_total{reason="scene_unlike"}': 1}
    write(tmp_path, TILES[2])  # and nobody tells
    target.passes(RETRY_S)
    assert version(tmp_path) == (1, True)


def test_a_tile_withdrawn_meanwhile_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next version is on its way."""
    target = Keeper(tmp_path)
    target.write(*TILES)
    item = next(tmp_path.glob(f"x_r000*{STAC}"))
    names = os.listdir(tmp_path)
    monkeypatch.setattr(scene_keeper.os, "listdir", lambda _: names)
    held = item.read_bytes()
    item.unlink()
    target.passes(DEADLINE_S)
    assert target.counts() == {}
    item.write_bytes(held)
    target.passes(DEADLINE_S)
    assert version(tmp_path) == (1, True)


def test_a_tile_written_while_the_folder_is_listed_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list may lack it; it has the scene looked at once more."""
    target = Keeper(tmp_path)
    target.write(TILES[0], TILES[2])

    def listed(_: Path) -> list[str]:
        monkeypatch.undo()
        names = os.listdir(tmp_path)
        target.write(TILES[1])
        return names

    monkeypatch.setattr(scene_keeper.os, "listdir", listed)
    target.passes(DEADLINE_S)
    assert version(tmp_path) == (1, False)
    target.passes(DEADLINE_S)
    assert version(tmp_path) == (2, True)


def test_at_the_end_all_is_written(tmp_path: Path) -> None:
    """No deadline is waited for then."""
    target = Keeper(tmp_path)
    target.write(*TILES)
    target.keeper.stop_intake()
    target.keeper.start()
    assert target.keeper.drain(60.0)
    assert version(tmp_path) == (1, True)


def test_the_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than there is time is no loss: the next process begins it anew."""
    begun, over = threading.Event(), threading.Event()

    def slow(*_: object) -> Path:
        begun.set()
        over.wait()
        raise OutputError(tmp_path, "killed")

    target = Keeper(tmp_path)
    target.write(*TILES)
    monkeypatch.setattr(scene_keeper, "assemble", slow)
    target.keeper.stop_intake()
    target.keeper.start()
    begun.wait()
    try:
        assert target.keeper.drain(0.0)
    finally:
        over.set()
    target.keeper.settle(60.0)
    monkeypatch.undo()
    Keeper(tmp_path).passes(DEADLINE_S)
    assert version(tmp_path) == (1, True)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    """The stage counts it, and looks again."""
    (tmp_path / "made").mkdir()
    target = Keeper(tmp_path / "made")
    target.keeper.note(file_stem(TILES[0].info))
    (tmp_path / "made").rmdir()
    target.clock.advance(DEADLINE_S)
    with pytest.raises(OutputError, match="made"):
        target.keeper.poll()


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_a_process_that_is_killed_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    """Between the samples and the item: the next one removes what is half, and writes the scene."""
    for tile in TILES:
        write(tmp_path, tile)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("daemon.ground.products.write_whole", kill)
    target = Keeper(tmp_path, file_format=file_format)
    target.clock.advance(DEADLINE_S)
    with pytest.raises(Killed):
        target.keeper.poll()
    monkeypatch.undo()
    assert not (tmp_path / f"{STEM}{STAC}").exists()

    make_clean(tmp_path)
    Keeper(tmp_path, file_format=file_format).passes(DEADLINE_S)
    assert version(tmp_path) == (1, True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
