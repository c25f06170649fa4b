"""What is told of tile products, and which of them make a scene."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codec.tile import Tile
from daemon.errors import SceneChangedError, SceneTileError
from daemon.ground.products import QUALITY, STAC
from daemon.ground.tile_products import is_current, scenes_of, several_tiles, tiles_of
from daemon.ground.write import file_stem
from fakes import cubes
from fakes.product_reader import PLACE
from fakes.scenes import products, write

TILE = cubes.tile(
    bands=2, rows=130, cols=9, dtype="float32", scene="a b", sensor="s", tile_row=3, tile_col=1,
    sequence=42, georeference=PLACE,
)  # fmt: skip


def as_another(**info: Any) -> Tile:
    """The tile under another name."""
    return Tile(samples=TILE.samples, info=replace(TILE.info, **info))


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_a_product_is_what_its_item_says(tmp_path: Path, file_format: str) -> None:
    """Which tile it is, of what shape, where it lies, which file it is, and what came."""
    path = write(tmp_path, TILE, (1, 0), file_format=file_format)
    (told,) = products(tmp_path, [TILE])

    assert told.path == (path.with_suffix(".img") if file_format == "envi" else path)
    assert told.name == file_stem(TILE.info)
    assert (told.sensor, told.scene, told.place, told.sequence) == ("s", "a b", (3, 1), 42)
    assert (told.dtype, told.shape, told.patch_px) == ("float32", (2, 130, 9), 128)
    assert told.transform == PLACE.transform
    assert not told.complete
    assert is_current(told)
    write(tmp_path, TILE, file_format=file_format)
    assert not is_current(told)


def test_a_tile_without_a_place_or_a_sensor_has_none(tmp_path: Path) -> None:
    """Neither is in its item."""
    tile = cubes.tile(bands=2, rows=8, cols=9)
    write(tmp_path, tile)
    (told,) = products(tmp_path, [tile])
    assert (told.sensor, told.transform, told.complete) == ("", None, True)


def test_tiles_are_told_one_by_one(tmp_path: Path) -> None:
    """Of a scene shown again and again nobody need hold more than what was shown last."""
    tiles = tiles_of(tmp_path, [write(tmp_path, TILE).stem + STAC, f"no-such{STAC}"])
    assert next(tiles).place == (3, 1)
    with pytest.raises(SceneChangedError, match="no-such"):
        next(tiles)


def test_an_item_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is the same; patches are read by who asks for them, and not held."""
    write(tmp_path, TILE, (1, 0))
    (told,) = products(tmp_path, [TILE])
    assert [patch["received"] for patch in told.patches()] == [True, False]
    assert "patches" not in told.quality
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
        assert products(tmp_path, [TILE]) == [told]
    write(tmp_path, TILE)
    (told,) = products(tmp_path, [TILE])
    assert told.complete


def test_an_item_that_cannot_be_read_was_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took it for that would wait for the next one for ever, and tell nobody."""

    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    write(tmp_path, TILE)
    (told,) = products(tmp_path, [TILE])
    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(SceneTileError, match="Input/output error"):
        is_current(told)


def test_an_item_withdrawn_is_told(tmp_path: Path) -> None:
    """A new version of the product is on its way."""
    path = write(tmp_path, TILE)
    (told,) = products(tmp_path, [TILE])
    path.with_suffix(STAC).unlink()
    with pytest.raises(SceneChangedError, match="withdrawn"):
        products(tmp_path, [TILE])
    assert not is_current(told)


def test_a_file_of_patches_taken_away_is_told(tmp_path: Path) -> None:
    """None is on its way: who waited for it would wait for ever."""
    path = write(tmp_path, TILE)
    path.with_suffix(QUALITY).unlink()
    with pytest.raises(SceneTileError, match="quality"):
        products(tmp_path, [TILE])


def broken_items(item: dict[str, Any]) -> dict[str, bytes]:
    """What may lie there instead of an item of ours."""

    def changed(where: str, key: str, value: object) -> bytes:
        copy = json.loads(json.dumps(item))
        (copy["assets"]["data"] if where == "data" else copy["properties"])[key] = value
        return json.dumps(copy).encode()

    return {
        "nothing": b"",
        "no object": b"[]",
        "no properties": b"{}",
        "a file elsewhere": changed("data", "href", "../secret.npy"),
        "a type of others": changed("data", "data_type", "float64"),
        "no place": changed("properties", "prismlink:tile", [1]),
        "no transform": changed("properties", "proj:transform", [1, 2]),
        "no shape": changed("properties", "proj:shape", None),
    }


def test_an_item_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """In one line that names the file."""
    item = write(tmp_path, TILE).with_suffix(STAC)
    for what, raw in broken_items(json.loads(item.read_bytes())).items():
        item.write_bytes(raw)
        with pytest.raises(SceneTileError, match=item.name):
            pytest.fail(f"{what}: {products(tmp_path, [TILE])}")


def test_a_file_of_patches_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """Without it nobody knows what came."""
    path = write(tmp_path, TILE)
    path.with_suffix(QUALITY).write_bytes(b"{}")
    with pytest.raises(SceneTileError, match="patch_px"):
        products(tmp_path, [TILE])


def test_names_tell_which_scenes_have_several_tiles() -> None:
    """At several positions; sequences do not count, nor do other files, nor products of scenes."""
    info = TILE.info
    names = [
        file_stem(replace(info, **told)) + STAC  # type: ignore[arg-type]
        for told in (
            {}, {"sequence": 43},
            {"scene": "x_r001c001"}, {"scene": "x_r001c001", "tile_row": 70_000},
            {"scene": "y"}, {"scene": "y", "tile_col": 2},
        )
    ]  # fmt: skip
    others = ["z_scene_01234567.stac.json", "x_r000c000_000000_01234567.tif", "y.stac.json"]

    assert several_tiles([*names, *others]) == {"x_r001c001": names[2:4], "y": names[4:6]}
    assert several_tiles([*names, *others][::-1]).keys() == {"x_r001c001", "y"}


def test_scenes_are_told_apart_by_sensor_and_name(tmp_path: Path) -> None:
    """Though what goes into names of files is the same."""
    tiles = [
        as_another(tile_row=row, sensor=sensor, scene=scene)
        for row in range(2)
        for sensor, scene in (("s", "a b"), ("s", "a_b"), ("t", "a b"))
    ]
    for tile in tiles:
        write(tmp_path, tile)
    names = several_tiles(path.name for path in tmp_path.iterdir())["a_b"]
    scenes = scenes_of(tiles_of(tmp_path, names))

    assert [(one.sensor, one.scene) for (one, _) in scenes] == [
        ("s", "a b"), ("s", "a_b"), ("t", "a b"),
    ]  # fmt: skip


def test_the_highest_sequence_wins(tmp_path: Path) -> None:
    """In whatever order they are told; one position is no scene."""
    tiles = [as_another(sequence=n, tile_row=row) for n, row in ((7, 0), (9, 0), (8, 0), (1, 1))]
    for tile in tiles:
        write(tmp_path, tile)
    for order in (tiles, tiles[::-1]):
        (scene,) = scenes_of(products(tmp_path, order))
        assert [(tile.place, tile.sequence) for tile in scene] == [((0, 1), 9), ((1, 1), 1)]
    assert scenes_of(products(tmp_path, tiles[:3])) == []
