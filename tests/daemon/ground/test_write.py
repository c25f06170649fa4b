"""Tiles become files, each with its manifest, and never outside the output directory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.frame import SideFrame, parse
from codec.tile import Tile, TileInfo
from codec.tile_files import read_tile
from codec.tile_writers import publish, write_npy
from daemon.errors import OutputError
from daemon.ground.items import RestoredTile
from daemon.ground.metrics import GroundMetrics
from daemon.ground.notes import QualityNotes
from daemon.ground.products import QUALITY, STAC
from daemon.ground.write import MANIFEST, WriteWorker, file_stem, manifest
from daemon.link.quality_note import QualityNote
from daemon.metrics import new_registry
from fakes import cubes
from fakes.ground import frames
from fakes.ground import restored as restored_with_records

FORMATS = ("geotiff", "envi", "zarr", "npy")
TILE = cubes.tile(
    bands=2, rows=130, cols=9, nodata=-1.0, scene="scene one", tile_row=3, tile_col=1, sequence=42
)


def restored(tile: Tile = TILE, missing: tuple[tuple[int, int], ...] = ()) -> RestoredTile:
    """A tile as the mosaic hands it on."""
    side = parse(frames(tile)[0].raw)
    assert isinstance(side, SideFrame)
    return RestoredTile(
        tile=tile,
        side=side,
        sent_as=(7, 0),
        missing=missing,
        frames=((7, 0), (7, 1)),
        frame_bytes=99,
    )


def worker(directory: Path, file_format: str = "npy") -> tuple[WriteWorker, GroundMetrics]:
    """A writer into a directory."""
    metrics = GroundMetrics(new_registry())
    return WriteWorker(directory, file_format, metrics), metrics


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_tile_and_its_manifest_lie_side_by_side(tmp_path: Path, file_format: str) -> None:
    """In every format both are there, under names that do not collide; the tile reads back."""
    target, metrics = worker(tmp_path / "made" / "by it", file_format)
    (path,) = target.accept(restored())

    back = read_tile(path)
    np.testing.assert_array_equal(back.samples, TILE.samples)
    assert back.info == TILE.info
    (beside,) = path.parent.glob(f"*{MANIFEST}")
    assert json.loads(beside.read_text())["file"] == path.name
    assert not [name for name in path.parent.iterdir() if name.name.startswith(".")]
    assert metrics.totals()['prismlink_tiles_written_total{state="complete"}'] == 1
    assert (target.tick(), target.finish()) == ((), ())


def test_the_manifest_says_what_arrived() -> None:
    """What the tile is, what it was made of, and what is missing; all of it is JSON."""
    item = restored(missing=((1, 0),))
    said = json.loads(json.dumps(manifest(item, "x.tif")))

    assert said == {
        "file": "x.tif",
        "tile_id": TILE.info.tile_id.hex(),
        "sensor": "",
        "scene": "scene one",
        "tile_row": 3,
        "tile_col": 1,
        "sequence": 42,
        "start_utc_s": 0.0,
        "shape": [2, 130, 9],
        "patch_px": 128,
        "coded_bands": 2,
        "model": item.side.model.hex(),
        "step": 32.0,
        "patches": 2,
        "patches_missing": [[1, 0]],
        "frames": [[7, 0], [7, 1]],
        "frame_bytes": 99,
    }


def test_a_tile_with_holes_counts_as_partial(tmp_path: Path) -> None:
    """Complete and partial are told apart; so are patches that are there and that are missing."""
    target, metrics = worker(tmp_path)
    list(target.accept(restored(missing=((0, 0),))))

    totals = metrics.totals()
    assert totals["prismlink_patches_written_total"] == 1
    assert totals["prismlink_patches_missing_total"] == 1
    assert totals['prismlink_tiles_written_total{state="partial"}'] == 1
    assert totals['prismlink_tiles_written_total{state="complete"}'] == 0


def test_the_log_says_which_version_of_a_product_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And whether all of it is there, in the words of scenes."""
    target, _ = worker(tmp_path)
    with caplog.at_level("INFO"):
        list(target.accept(restored(missing=((0, 0),))))
        again = Tile(samples=TILE.samples + np.int16(1), info=TILE.info)
        (path,) = target.accept(restored(again))
    lines = [vars(record) for record in caplog.records if record.message == "written"]
    assert [(line["file"], line["state"], line["version"]) for line in lines] == [
        (path.name, "partial", 1),
        (path.name, "complete", 2),
    ]


def test_a_tile_that_comes_again_replaces_its_file(tmp_path: Path) -> None:
    """The same tile, the same name."""
    target, _ = worker(tmp_path)
    (first,) = target.accept(restored())
    again = Tile(samples=TILE.samples + np.int16(1), info=TILE.info)
    (second,) = target.accept(restored(again))

    assert first == second
    np.testing.assert_array_equal(read_tile(second).samples, again.samples)
    assert len(list(tmp_path.glob(f"*{MANIFEST}"))) == 1


def test_a_ground_of_another_format_leaves_one_product(tmp_path: Path) -> None:
    """A tile that it completes is the next version; one it does not meet stays as it is."""
    other = Tile(samples=TILE.samples, info=replace(TILE.info, sequence=43))
    for tile in (TILE, other):
        list(worker(tmp_path, "zarr")[0].accept(restored(tile, ((1, 0),))))
    (path,) = worker(tmp_path, "geotiff")[0].accept(restored())

    there = {file.name for file in tmp_path.iterdir() if file.suffix in (".tif", ".zarr")}
    assert there == {path.name, f"{file_stem(other.info)}.zarr"}
    for file in there:
        item = json.loads((tmp_path / file).with_suffix(STAC).read_text())
        assert item["assets"]["data"]["href"] == f"./{file}"


@pytest.mark.parametrize(
    ("scene", "begins"),
    [
        ("../../etc/passwd", "_.._etc_passwd_r"),
        ("/etc/passwd", "_etc_passwd_r"),
        ("..", "scene_r"),
        ("", "scene_r"),
        (".hidden", "hidden_r"),
        ("a\0b\nc", "a_b_c_r"),
        ("Grüße", "Gr_e_r"),
        ("x" * 300, "x" * 120 + "_r"),
    ],
)
def test_a_scenes_name_cannot_lead_outside(tmp_path: Path, scene: str, begins: str) -> None:
    """What comes over the link names a file in the output directory, and nothing else."""
    inside = tmp_path / "a" / "b" / "c"
    target, _ = worker(inside)
    (path,) = target.accept(restored(cubes.tile(bands=2, rows=8, cols=8, scene=scene)))

    assert path.parent == inside
    assert path.name.startswith(begins)
    assert {p.parent for p in tmp_path.rglob("*") if p.is_file()} == {inside}
    (beside,) = inside.glob(f"*{MANIFEST}")
    assert json.loads(beside.read_text())["scene"] == scene


@given(st.text(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_every_name_is_a_plain_file_name(scene: str, row: int, sequence: int) -> None:
    """Letters, digits and `._-`, not hidden, short enough for a file system with any suffix."""
    stem = file_stem(TileInfo(scene=scene, tile_row=row, tile_col=row, sequence=sequence))

    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", stem)
    assert len(f".{stem}{MANIFEST}.part") <= 255


def test_names_that_would_be_equal_are_kept_apart() -> None:
    """Two scenes whose names differ only in what no file name may have are two files."""
    info = TILE.info
    assert file_stem(replace(info, scene="a/b")) != file_stem(replace(info, scene="a:b"))


def test_a_directory_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    """Not with the first tile."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        worker(tmp_path / "file" / "out")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_tile_that_cannot_be_written_is_counted(tmp_path: Path, file_format: str) -> None:
    """It is an error for the stage, and counted as such; the next tile is tried as ever."""
    directory = tmp_path / "out"
    target, metrics = worker(directory, file_format)
    directory.rmdir()
    directory.write_bytes(b"a file in its place")
    with pytest.raises(OutputError):
        list(target.accept(restored()))
    assert metrics.totals()["prismlink_tile_write_errors_total"] == 1
    assert metrics.totals()["prismlink_patches_written_total"] == 0

    directory.unlink()
    list(target.accept(restored()))
    assert metrics.totals()['prismlink_tiles_written_total{state="complete"}'] == 1


def test_a_manifest_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    """Without its manifest a tile does not count as written."""
    target, metrics = worker(tmp_path)
    (tmp_path / f"{file_stem(TILE.info)}{MANIFEST}").mkdir()
    with pytest.raises(OutputError):
        list(target.accept(restored()))

    totals = metrics.totals()
    assert totals["prismlink_tile_write_errors_total"] == 1
    assert totals['prismlink_tiles_written_total{state="complete"}'] == 0


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    """At the start, and nothing but what has a name that writing makes."""
    scratch: list[Path] = []

    def noting(tile: Tile, path: Path) -> Sequence[Path]:
        scratch.append(path.parent)
        return write_npy(tile, path)

    publish(TILE, tmp_path / "tile.npy", noting)
    (left,) = scratch
    left.mkdir()
    (left / "half.npy").write_bytes(b"half")
    parts = [tmp_path / f".tile{end}.part" for end in (MANIFEST, QUALITY, STAC)]
    for part in parts:
        part.write_bytes(b"half")
    folders = (".partial-", ".partial-notes-of-mine", "partial-abcdefgh", f".folder{STAC}.part")
    files = (".mine.part", f"tile{STAC}.part", f".tile{STAC}")
    others = [tmp_path / name for name in (*folders, *files)]
    for other in others:
        other.mkdir() if other.name in folders else other.touch()
    worker(tmp_path)

    assert not any(path.exists() for path in (left, *parts))
    assert all(other.exists() for other in others)
    assert (tmp_path / "tile.npy").exists()


def test_a_tile_is_told_once_it_would_survive_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its files and their names are on the disk; one that could not be written never is."""
    told = list[object]()
    monkeypatch.setattr("daemon.ground.write.sync_folder", told.append)
    target = WriteWorker(tmp_path, "npy", GroundMetrics(new_registry()), told.append)
    item = restored()
    list(target.accept(item))
    assert told == [tmp_path, item]

    def fails(path: Path) -> None:
        raise OutputError(path, "no")

    monkeypatch.setattr("daemon.ground.write.sync_folder", fails)
    with pytest.raises(OutputError):
        list(target.accept(item))
    assert told == [tmp_path, item]


def note(row: int, psnr_db: float = 40.0) -> QualityNote:
    """Of a patch of the tile."""
    return QualityNote(
        tile_id=TILE.info.tile_id, row=row, col=0, psnr_db=psnr_db, max_abs_error=2.0
    )


def measured(folder: Path) -> list[tuple[float | None, float | None]]:
    """What the product says of its patches, which must be as its item says."""
    ((quality,), (item,)) = (list(folder.glob(f"*{end}")) for end in (QUALITY, STAC))
    asset = json.loads(item.read_text())["assets"]["quality"]
    raw = quality.read_bytes()
    assert asset["file:size"] == len(raw)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(raw).hexdigest()
    return [(patch["psnr_db"], patch["max_abs_error"]) for patch in json.loads(raw)["patches"]]


def test_what_the_board_measured_is_told_whenever_it_comes(tmp_path: Path) -> None:
    """Before the tile or after it; then the page is told, once, and only of what is news."""
    notes, amended = QualityNotes(), list[object]()
    target = WriteWorker(
        tmp_path, "npy", GroundMetrics(new_registry()), notes=notes,
        on_amended=lambda *what: amended.append(what),
    )  # fmt: skip
    item = restored_with_records(TILE)
    notes.put(note(0))
    target.tick()
    list(target.accept(item))
    assert measured(tmp_path) == [(40.0, 2.0), (None, None)]
    target.tick()
    assert amended == []

    notes.put(note(1, 44.0))
    target.tick()
    assert measured(tmp_path) == [(40.0, 2.0), (44.0, 2.0)]
    assert amended == [(file_stem(TILE.info), item.sent_as)]
    notes.put(note(1, 44.0))
    notes.put(note(7))
    target.finish()
    assert len(amended) == 1


def test_what_the_board_measured_outlives_the_ground(tmp_path: Path) -> None:
    """A tile that is completed later keeps it, unless its patch was encoded otherwise since."""
    notes = QualityNotes()
    metrics = GroundMetrics(new_registry())
    notes.put(note(0))
    notes.put(note(1))  # of a hole: nothing is said of it
    hole = restored_with_records(TILE, (1, 0))
    list(WriteWorker(tmp_path, "npy", metrics, notes=notes).accept(hole))
    assert measured(tmp_path) == [(40.0, 2.0), (None, None)]
    whole = restored_with_records(TILE)
    list(WriteWorker(tmp_path, "npy", metrics).accept(whole))
    assert measured(tmp_path) == [(40.0, 2.0), (None, None)]
    coarser = {place: replace(record, step=128.0) for place, record in whole.records.items()}
    list(WriteWorker(tmp_path, "npy", metrics).accept(replace(whole, records=coarser)))
    assert measured(tmp_path) == [(None, None), (None, None)]


@pytest.mark.parametrize("what", ["gone", "broken"])
def test_a_product_that_cannot_be_amended_stays_as_it_is(tmp_path: Path, what: str) -> None:
    """One that was fetched and removed is nobody's fault; one that was spoiled is a count."""
    notes, metrics = QualityNotes(), GroundMetrics(new_registry())
    target = WriteWorker(tmp_path, "npy", metrics, notes=notes)
    list(target.accept(restored_with_records(TILE)))
    (quality,) = tmp_path.glob(f"*{QUALITY}")
    if what == "gone":
        quality.unlink()
    else:
        quality.write_text("[]")
    before = sorted(tmp_path.iterdir())
    notes.put(note(0))
    target.tick()
    assert sorted(tmp_path.iterdir()) == before
    assert metrics.totals()["prismlink_tile_write_errors_total"] == (what == "broken")
