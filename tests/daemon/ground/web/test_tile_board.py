"""Tiles as they come in: filled, bounded, numbered, and told apart by scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codec.tile import Tile
from daemon.ground.items import TilePart
from daemon.ground.web.tile_board import TileBoard
from daemon.ground.web.tile_view import TileState, TileView
from daemon.ground.write import MANIFEST
from fakes import cubes
from fakes.ground import parts_of
from fakes.web import restored

TILE = cubes.tile(bands=2, rows=260, cols=9, scene="s", sequence=7)
PARTS = parts_of(TILE)
ID = TILE.info.tile_id.hex()


def sent_anew(tile: Tile = TILE) -> list[TilePart]:
    """The parts of a tile under side information of its own."""
    return parts_of(tile)


def view(board: TileBoard, tile: Tile = TILE) -> TileView:
    """What is said of a tile."""
    found = board.get(tile.info.tile_id.hex())
    assert found is not None
    return found


def on_disk(tile: Tile = TILE, have: str = "111") -> TileView:
    """What its manifest says."""
    made = TileView.of_side(parts_of(tile)[0].side, (0, 0))
    files = ("x.tif", f"x{MANIFEST}")
    return replace(
        made, state=TileState.WRITTEN, have=have, file="x.tif", files=files, sent_as=None
    )


def test_a_tile_fills_in() -> None:
    """Patch by patch, each in its place, with the bytes of its frames."""
    board, seen = TileBoard(10), []
    for part in PARTS:
        board.part(part)
        seen.append(view(board).have)

    assert seen == ["000", "100", "110", "111"]
    assert view(board).frame_bytes == sum(part.frame.size_bytes for part in PARTS)
    assert view(board).state is TileState.OPEN


def test_a_patch_that_comes_twice_is_counted_once() -> None:
    """It is there, and its frame's bytes are those of one."""
    board = TileBoard(10)
    for part in [*PARTS[:2], *PARTS[:2]]:
        board.part(part)
    assert view(board).frame_bytes == sum(part.frame.size_bytes for part in PARTS[:2])


def test_a_tile_closes_and_is_written() -> None:
    """With holes where patches are missing, and its files once it has some."""
    board = TileBoard(10)
    board.part(PARTS[0])
    board.closed(restored(TILE, missing=((1, 0),), parts=PARTS))
    assert (view(board).state, view(board).have) == (TileState.CLOSED, "101")
    board.written(on_disk(have="101"), PARTS[0].sent_as)
    assert (view(board).state, view(board).file) == (TileState.WRITTEN, "x.tif")
    assert view(board).acquisition == 1


def test_what_is_sent_anew_begins_anew() -> None:
    """Nothing of the tile before is counted, also if its end is told later, as stages may."""
    board, anew = TileBoard(10), sent_anew()
    for part in PARTS[:3]:
        board.part(part)
    for part in anew[:2]:
        board.part(part)
    board.closed(restored(TILE, missing=((2, 0),), parts=PARTS))
    assert (view(board).state, view(board).have) == (TileState.OPEN, "100")
    board.written(on_disk(have="110"), PARTS[0].sent_as)
    assert (view(board).state, view(board).have, view(board).file) == (
        TileState.OPEN,
        "100",
        "x.tif",
    )
    for part in anew[2:]:
        board.part(part)
    assert view(board).have == "111"


def test_a_tile_with_holes_opens_again() -> None:
    """Its files can be had until they are written again."""
    board = TileBoard(10)
    board.closed(restored(TILE, missing=((1, 0),), parts=PARTS))
    board.written(on_disk(have="101"), PARTS[0].sent_as)
    board.part(PARTS[0])
    assert (view(board).state, view(board).have) == (TileState.OPEN, "000")
    assert view(board).files


def test_a_tile_that_was_only_seen_when_it_was_written_is_told() -> None:
    """Where a page is too late for all but the end."""
    board = TileBoard(10)
    board.written(on_disk(), PARTS[0].sent_as)
    assert view(board).state is TileState.WRITTEN


def test_it_is_bounded() -> None:
    """The tile that changed least lately goes, and is named."""
    board = TileBoard(2)
    first, second, third = (cubes.tile(bands=2, rows=8, cols=8, sequence=i) for i in range(3))
    for tile in (first, second, first):
        assert board.part(parts_of(tile)[0]) == []
    assert board.part(parts_of(third)[0]) == [second.info.tile_id.hex()]
    assert [one.sequence for one in board.tiles] == [0, 2]


def test_each_change_has_a_number() -> None:
    """Higher than all before, so that who knows one knows what is new."""
    board, before = TileBoard(10), list[int]()
    for part in PARTS:
        board.part(part)
        assert view(board).version == board.version
        before.append(board.version)
    assert before == sorted(set(before))


def tile_of(row: int, col: int, sequence: int) -> Tile:
    """A small one of a scene."""
    return cubes.tile(
        bands=2, rows=8, cols=8, scene="s", tile_row=row, tile_col=col, sequence=sequence
    )


def acquisitions(*tiles: Tile) -> list[int]:
    """Into which acquisitions tiles are put that come in this order."""
    board = TileBoard(100)
    for tile in tiles:
        board.part(parts_of(tile)[0])
    return [view(board, tile).acquisition for tile in tiles]


def test_a_scene_that_comes_again_is_another_acquisition() -> None:
    """Also if it is cut where tiles are missing, and a late one is put where it belongs."""
    assert acquisitions(*(tile_of(i % 3, 0, i) for i in range(7))) == [1, 1, 1, 2, 2, 2, 3]
    assert acquisitions(
        tile_of(0, 0, 0), tile_of(2, 0, 2), tile_of(0, 0, 3), tile_of(1, 0, 4), tile_of(1, 0, 1)
    ) == [1, 1, 2, 2, 1]
    assert acquisitions(tile_of(0, 0, 0), tile_of(0, 1, 1), tile_of(1, 0, 2)) == [1, 1, 1]


def test_other_scenes_are_other_acquisitions() -> None:
    """By name, and by the number of bands."""
    other = cubes.tile(bands=2, rows=8, cols=8, scene="t", tile_row=1, sequence=1)
    wider = cubes.tile(bands=3, rows=8, cols=8, scene="s", tile_row=1, sequence=1)
    assert acquisitions(tile_of(0, 0, 0), other, wider) == [1, 2, 3]


def test_what_an_earlier_process_wrote_is_told(tmp_path: Path) -> None:
    """But not in place of what this one knows better."""
    board = TileBoard(10)
    board.part(PARTS[0])
    other = cubes.tile(bands=2, rows=8, cols=8, scene="old", sequence=1)
    board.found([on_disk(), on_disk(other, "1")])
    assert view(board).state is TileState.OPEN
    assert view(board, other).state is TileState.WRITTEN


def test_scenes_are_as_many_as_tiles() -> None:
    """The last written are told of; each is a change."""
    board = TileBoard(2)
    for scene in ("a", "b", "a", "c"):
        board.scene_written("fake", scene, (f"{scene}.tif",))
    assert board.scenes == {("fake", "a"): ("a.tif",), ("fake", "c"): ("c.tif",)}
    assert board.version == 4
