"""What is said of a tile, from its side information and from its manifest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from daemon.ground.items import RestoredTile
from daemon.ground.products import QUALITY, STAC
from daemon.ground.web.tile_view import TileState, TileView, is_file_name, scene_files
from daemon.ground.write import MANIFEST, manifest
from fakes import cubes
from fakes.ground import parts_of
from fakes.web import restored

TILE = cubes.tile(bands=4, rows=130, cols=150, scene="s", tile_row=2, tile_col=1, sequence=2**63)
PARTS = parts_of(TILE)
SIDE = PARTS[0].side


def on_disk(folder: Path, item: RestoredTile, file: str = "x.tif", **changes: Any) -> Path:
    """Its manifest, with changes; a change to `...` takes a key away."""
    table = manifest(item, file) | changes
    table = {key: value for key, value in table.items() if value is not ...}
    path = folder / f"x{MANIFEST}"
    path.write_text(json.dumps(table))
    return path


def test_side_information_is_a_tile_with_nothing_in_it() -> None:
    """Every patch is missing; there is no rate."""
    view = TileView.of_side(SIDE, PARTS[0].sent_as)

    assert (view.have, view.state, view.bits_per_sample) == ("0000", TileState.OPEN, None)
    assert (view.shape, view.patch_px, view.coded_bands) == ((4, 130, 150), 128, 4)
    assert (view.scene, view.tile_row, view.tile_col) == ("s", 2, 1)


def test_patches_fill_it_in() -> None:
    """Each in its place, row by row."""
    view = TileView.of_side(SIDE, PARTS[0].sent_as)
    assert view.with_patch(0, 1).have == "0100"
    assert view.with_patch(0, 1).with_patch(1, 0).with_patch(0, 1).have == "0110"


def test_bits_are_of_samples_that_came(tmp_path: Path) -> None:
    """Pixels of patches that came, in bands that hold anything."""
    path = on_disk(
        tmp_path, restored(TILE, missing=((0, 1), (1, 1))), frame_bytes=1000, coded_bands=3
    )
    assert TileView.of_manifest(path).bits_per_sample == 8000 / (3 * (128 * 128 + 2 * 128))


def test_a_manifest_says_the_same(tmp_path: Path) -> None:
    """As much as the link brought, and which files there are."""
    item = restored(TILE, missing=((1, 0),))
    path = on_disk(tmp_path, item)
    (tmp_path / "x.tif").touch()
    view = TileView.of_manifest(path)
    live = TileView.of_side(SIDE, PARTS[0].sent_as)

    told = ("tile_id", "sensor", "scene", "sequence", "shape", "patch_px", "coded_bands", "model")
    assert [getattr(view, name) for name in told] == [getattr(live, name) for name in told]
    assert (view.have, view.state, view.step) == ("1101", TileState.WRITTEN, SIDE.step)
    assert view.files == ("x.tif", f"x{MANIFEST}")
    assert json.loads(json.dumps(view.to_json()))["sequence"] == str(2**63)


def test_manifests_of_earlier_builds_are_read(tmp_path: Path) -> None:
    """They said neither the size of patches nor how many bands hold anything."""
    path = on_disk(tmp_path, restored(TILE), patch_px=..., coded_bands=...)
    view = TileView.of_manifest(path)
    assert (view.patch_px, view.coded_bands) == (128, 4)


def test_a_folder_is_no_file_to_be_had(tmp_path: Path) -> None:
    """But for a Zarr store, as a zip file."""
    path = on_disk(tmp_path, restored(TILE), file="x.zarr")
    assert TileView.of_manifest(path).files == (f"x{MANIFEST}",)
    (tmp_path / "x.zarr").mkdir()
    view = TileView.of_manifest(path)
    assert (view.file, view.files) == ("x.zarr", ("x.zarr.zip", f"x{MANIFEST}"))
    path = on_disk(tmp_path, restored(TILE), file="x.tif")
    (tmp_path / "x.tif").mkdir()
    assert TileView.of_manifest(path).files == (f"x{MANIFEST}",)


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../secret"},
        {"file": "/etc/passwd"},
        {"file": ".hidden"},
        {"file": "a\0b"},
        {"tile_id": "../../../../x"},
        {"tile_id": "0" * 15},
        {"shape": [4, 0, 9]},
        {"shape": [4, 65536, 65536], "patch_px": 8},
        {"shape": [10**9, 9, 9]},
        {"shape": "huge"},
        {"patch_px": 0},
        {"patch_px": 9},
        {"step": float("nan")},
        {"start_utc_s": float("inf")},
        {"patches_missing": [[1]]},
        {"frame_bytes": ...},
        {"scene": ...},
    ],
    ids=str,
)
def test_what_is_no_manifest_of_ours_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A file in the output directory may be anybody's; none names a file elsewhere."""
    with pytest.raises(ValueError, match=r"^x\.manifest\.json: no manifest of ours"):
        TileView.of_manifest(on_disk(tmp_path, restored(TILE), **changes))


def test_a_scene_has_its_files_too(tmp_path: Path) -> None:
    """Whatever their format; those of its store in one, and none of another name."""
    for name in ("s_scene_1.tif", f"s_scene_1{QUALITY}", f"s_scene_1{STAC}", "s_scene_2.tif"):
        (tmp_path / name).touch()
    assert scene_files(tmp_path, "s_scene_1") == (
        *("s_scene_1.tif", f"s_scene_1{QUALITY}", f"s_scene_1{STAC}"),
    )
    (tmp_path / "s_scene_2.tif").rename(tmp_path / "s_scene_1.img")
    (tmp_path / "s_scene_1.tif").unlink()
    (tmp_path / "s_scene_1.zarr").mkdir()
    assert scene_files(tmp_path, "s_scene_1")[:2] == ("s_scene_1.zarr.zip", "s_scene_1.img")


def test_quality_is_told_where_it_is_known(tmp_path: Path) -> None:
    """The mean over patches of which it is; what lies there instead is passed over."""
    path = on_disk(tmp_path, restored(TILE))
    assert TileView.of_manifest(path).psnr_patches == 0
    assert TileView.of_manifest(path).psnr_db is None
    beside = tmp_path / f"x{QUALITY}"
    for patches, mean in (([40.0, None, 44.0], 42.0), ([None], None), (["x", math.nan], None)):
        beside.write_text(json.dumps({"patches": [{"psnr_db": psnr} for psnr in patches]}))
        view = TileView.of_manifest(path)
        assert (view.psnr_db, view.psnr_patches) == (mean, 2 if mean else 0)
    beside.write_bytes(b"{")
    assert TileView.of_manifest(path).psnr_db is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"3"])
def test_what_is_no_table_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Whatever it is instead."""
    path = tmp_path / f"x{MANIFEST}"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"^x\.manifest\.json: no manifest of ours"):
        TileView.of_manifest(path)


def test_a_manifest_without_end_is_not_read(tmp_path: Path) -> None:
    """Not even to see what it is."""
    path = tmp_path / f"x{MANIFEST}"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ValueError, match="longer than any"):
        TileView.of_manifest(path)


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("a.tif", True), ("A_1-2.manifest.json", True), ("", False), (".a", False), ("a/b", False),
        ("..", False), ("a b", False), ("a\n", False), ("x" * 255, True), ("x" * 256, False),
    ],
)  # fmt: skip
def test_names_of_files(text: str, *, sound: bool) -> None:
    """Letters, digits and three signs; no folder, nothing hidden."""
    assert is_file_name(text) == sound
