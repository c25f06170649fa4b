"""Scenes are their tiles, whatever came first; partial ones tell so, and are completed in place."""

from __future__ import annotations

import json
import re
import tempfile
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pystac
import pytest
import rasterio
import spectral
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.patch_grid import PatchGrid
from codec.tile import Tile, TileInfo, fill_value
from codec.tile_files import read_tile
from daemon.errors import OutputError, SceneChangedError, SceneTileError, SceneUnlikeError
from daemon.ground.assemble import assemble, is_due
from daemon.ground.products import QUALITY, STAC, file_sha256
from daemon.ground.scenes import Scene, place
from daemon.ground.write import file_stem
from fakes import cubes
from fakes.product_reader import PLACE
from fakes.scenes import Place, cut, products, write

FORMATS: Final = ("geotiff", "cog", "envi", "zarr", "npy")
GIB: Final = 1 << 30
HEIGHTS: Final = (130, 128, 40)
WIDTHS: Final = (140, 60)
SCENE: Final = cubes.tile(
    bands=3, rows=sum(HEIGHTS), cols=sum(WIDTHS), scene="a scene", sensor="EnMAP",
    georeference=PLACE, start_utc_s=1_667_492_678.25,
    wavelengths_nm=(418.24, 550.0, 902.257), fwhm_nm=(6.5, 7.0, 11.25),
)  # fmt: skip
"""Without a fill value: nothing but a mask can tell its holes."""
TILES: Final = cut(SCENE, HEIGHTS, WIDTHS)
HOLE: Final = (1, 1)
"""Of the first tile, a patch that did not come."""


def scene_in(folder: Path, tiles: Iterable[Tile]) -> Scene:
    """A scene of these tiles."""
    return place(products(folder, tiles), GIB)


def written(
    folder: Path, tiles: dict[Place, Tile], file_format: str = "npy", *holes: Place
) -> Path:
    """Write tiles, the first one without some patches, and put them together."""
    folder.mkdir(exist_ok=True)
    for number, tile in enumerate(tiles.values()):
        write(folder, tile, *(holes if number == 0 else ()), file_format=file_format)
    return assemble(scene_in(folder, tiles.values()), folder, file_format)


def expected(
    tiles: dict[Place, Tile], *holes: Place, without: Iterable[Place] = ()
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The cube, and by pixel whether it came."""
    came = np.ones((sum(HEIGHTS), sum(WIDTHS)), dtype=np.bool_)
    for hole in holes:
        came[PatchGrid(tile_rows=HEIGHTS[0], tile_cols=WIDTHS[0]).extent(*hole).slices] = False
    rows, cols = (list(pairwise(accumulate(n, initial=0))) for n in (HEIGHTS, WIDTHS))
    for row, col in without:
        came[slice(*rows[row]), slice(*cols[col])] = False
    fill = fill_value(SCENE.samples.dtype, SCENE.info.nodata)
    return np.where(came, SCENE.samples, np.int16(fill)), came


def told(product: Path, ending: str) -> dict[str, Any]:
    """What one of the files beside a product says."""
    said: dict[str, Any] = json.loads(product.with_name(product.stem + ending).read_text())
    return said


def files_of(folder: Path, *endings: str) -> dict[str, bytes]:
    """Files of the scene's product, but for those that end so."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if re.match(r"a_scene_scene_[0-9a-f]{8}\.", str(path.relative_to(folder)))
        and path.is_file()
        and not path.name.endswith(endings)
    }


sizes = st.lists(st.sampled_from([5, 128, 140]), min_size=1, max_size=3)


@settings(max_examples=12, deadline=None)
@given(sizes, sizes, st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_any_subset_in_any_order_is_the_cube_with_its_mask(
    heights: list[int], widths: list[int], random: Any, placed: bool, fill: bool
) -> None:
    """Tiles and patches that came are the cube's; all others are fill, and told to be missing."""
    cube = cubes.tile(
        bands=2, rows=sum(heights), cols=sum(widths), nodata=-7.0 if fill else None,
        georeference=PLACE if placed else None, seed=random.randint(0, 99),
    )  # fmt: skip
    tiles = list(cut(cube, heights, widths).values())
    if not placed:  # then a row or column that is missing altogether has no known size
        heights, widths = [128] * len(heights), [128] * len(widths)
        cube = cubes.tile(
            bands=2, rows=sum(heights), cols=sum(widths), nodata=-7.0 if fill else None
        )
        tiles = list(cut(cube, heights, widths).values())
    random.shuffle(tiles)
    there = tiles[: max(1, random.randint(0, len(tiles)))]
    came, top_left = np.zeros(cube.samples.shape[1:], dtype=np.bool_), [10**6, 10**6]
    bottom_right = [0, 0]
    tops, lefts = (list(accumulate(n, initial=0)) for n in (heights, widths))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for tile in there:
            _, rows, cols = tile.samples.shape
            grid = PatchGrid(tile_rows=rows, tile_cols=cols)
            holes = [patch for patch in grid if random.random() < 0.2 and len(grid) > 1][:-1]
            write(folder, tile, *holes)
            row, col = tops[tile.info.tile_row], lefts[tile.info.tile_col]
            part = np.ones((rows, cols), dtype=np.bool_)
            for hole in holes:
                part[grid.extent(*hole).slices] = False
            came[row : row + rows, col : col + cols] = part
            top_left = [min(top_left[0], row), min(top_left[1], col)]
            bottom_right = [max(bottom_right[0], row + rows), max(bottom_right[1], col + cols)]
        random.shuffle(there)
        scene = scene_in(folder, there)
        product = assemble(scene, folder, "npy")
        back, quality = read_tile(product), told(product, QUALITY)

    window = slice(top_left[0], bottom_right[0]), slice(top_left[1], bottom_right[1])
    came = came[window]
    np.testing.assert_array_equal(
        back.samples,
        np.where(came, cube.samples[:, *window], fill_value(np.dtype("int16"), cube.info.nodata)),
    )
    received = np.zeros(came.shape, dtype=np.bool_)
    edges = list(pairwise(quality["row_edges"])), list(pairwise(quality["col_edges"]))
    for patch in quality["patches"]:
        cells = slice(*edges[0][patch["row"]]), slice(*edges[1][patch["col"]])
        received[cells] = patch["received"]
    np.testing.assert_array_equal(received, came)
    if placed:
        assert back.info.georeference is not None
        a, _, c, _, e, f = PLACE.transform
        x, y = c + a * top_left[1], f + e * top_left[0]
        assert back.info.georeference.transform == pytest.approx((a, 0, x, 0, e, y))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_scene_completed_is_one_written_whole(tmp_path: Path, file_format: str) -> None:
    """Byte for byte, as the second version of it; what it lacked at first is told and masked."""
    often, some = tmp_path / "often", {p: t for p, t in TILES.items() if p not in ((1, 0), (2, 1))}
    product = written(often, some, file_format, HOLE)
    samples, came = expected(TILES, HOLE, without=[(1, 0), (2, 1)])
    np.testing.assert_array_equal(read_tile(product).samples, samples)
    item = told(product, STAC)["properties"]
    assert (item["version"], item["prismlink:complete"]) == ("1", False)
    assert item["prismlink:tiles_missing"] == [[1, 0], [2, 1]]
    if file_format in ("geotiff", "cog", "envi"):
        with rasterio.open(product.with_suffix(".img") if file_format == "envi" else product) as f:
            np.testing.assert_array_equal(f.dataset_mask() == 255, came)

    for tile in dict(reversed(TILES.items())).values():
        write(often, tile, file_format=file_format)
    again = assemble(scene_in(often, TILES.values()), often, file_format)
    item = told(again, STAC)["properties"]
    assert again == product
    assert (item["version"], item["prismlink:complete"]) == ("2", True)
    assert item["prismlink:tiles_missing"] == item["prismlink:patches_missing"] == []
    once = tmp_path / "once"
    written(once, TILES, file_format)
    assert files_of(often, QUALITY, STAC) == files_of(once, QUALITY, STAC)
    assert not [path for path in often.iterdir() if path.name.startswith(".")]


def check_info(info: TileInfo) -> None:
    """As of the whole scene."""
    assert info == replace(SCENE.info, sequence=len(TILES) - 1)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_scene_reads_back(tmp_path: Path, file_format: str) -> None:
    """All that is known of its tiles is known of it."""
    back = read_tile(written(tmp_path, TILES, file_format))
    np.testing.assert_array_equal(back.samples, SCENE.samples, strict=True)
    check_info(back.info)


@pytest.mark.parametrize("nodata", [None, float("nan"), -5.0])
def test_floats_that_are_missing_are_fill(tmp_path: Path, nodata: float | None) -> None:
    """NaN, which is not itself, or the value that all tiles name."""
    scene = cubes.tile(bands=2, rows=24, cols=9, dtype="float32", nodata=nodata, scene="f")
    tiles = list(cut(scene, (8, 8, 8), (9,)).values())
    for tile in tiles:
        write(tmp_path, tile, file_format="geotiff")
    back = read_tile(assemble(scene_in(tmp_path, (tiles[0], tiles[2])), tmp_path, "geotiff"))

    expected = scene.samples.copy()
    expected[:, 8:16] = fill_value(scene.samples.dtype, nodata)
    np.testing.assert_array_equal(back.samples, expected, strict=True)
    assert repr(back.info.nodata) == repr(nodata)


# ---------------------------------------------------------------- other people's tools


@pytest.mark.parametrize("file_format", ["geotiff", "cog", "envi"])
def test_gdal_sees_the_scene(tmp_path: Path, file_format: str) -> None:
    """Samples, what is valid, centers, widths, the place."""
    product = written(tmp_path, TILES, file_format, HOLE)
    samples, came = expected(TILES, HOLE)
    with rasterio.open(product.with_suffix(".img") if file_format == "envi" else product) as file:
        np.testing.assert_array_equal(file.read(), samples)
        np.testing.assert_array_equal(file.dataset_mask() == 255, came)
        assert file.crs.to_epsg() == 32618
        assert tuple(file.transform)[:6] == PLACE.transform
        tags = [file.tags(band, ns="IMAGERY") for band in file.indexes]
        assert [float(tag["CENTRAL_WAVELENGTH_UM"]) for tag in tags] == pytest.approx(
            [0.41824, 0.55, 0.902257], abs=5e-4 if file_format == "envi" else 1e-9
        )
        if file_format != "envi":
            assert (file.profile["tiled"], file.block_shapes[0]) == (True, (128, 128))
            assert [float(tag["FWHM_UM"]) for tag in tags] == [0.0065, 0.007, 0.01125]


def test_spectral_python_sees_the_scene(tmp_path: Path) -> None:
    """Samples as stored, centers and widths in nanometers, and the place."""
    product = written(tmp_path, TILES, "envi", HOLE)
    image = spectral.envi.open(product, product.with_suffix(".img"))
    np.testing.assert_array_equal(np.moveaxis(image.open_memmap(), 2, 0), expected(TILES, HOLE)[0])
    assert image.bands.centers == list(SCENE.info.wavelengths_nm)
    assert image.bands.bandwidths == list(SCENE.info.fwhm_nm)
    assert image.metadata["map info"][3:5] == ["688005.0", "4561935.0"]


def test_xarray_sees_the_scene(tmp_path: Path) -> None:
    """Chunks of a patch, CF coordinates, what is valid, and what is known of each patch."""
    product = written(tmp_path, TILES, "zarr", HOLE)
    samples, came = expected(TILES, HOLE)
    with xarray.open_zarr(product, chunks=None, decode_coords="all") as found:
        np.testing.assert_array_equal(found["samples"].values, samples)
        np.testing.assert_array_equal(found["valid"].values, np.broadcast_to(came, samples.shape))
        assert found["samples"].encoding["chunks"] == (3, 128, 128)
        assert found["wavelength"].values.tolist() == list(SCENE.info.wavelengths_nm)
        assert rasterio.crs.CRS.from_wkt(found["spatial_ref"].attrs["crs_wkt"]).to_epsg() == 32618
        assert float(found["x"][0]) == PLACE.transform[2] + 15
        received = found["patch_received"]
        assert received.shape == (4, 3)
        assert np.argwhere(~received.values).tolist() == [[1, 1]]
        assert found["patch_row_start"].values.tolist() == [0, 128, 130, 258]
        assert found["patch_col_start"].values.tolist() == [0, 128, 140]


def test_pystac_reads_the_item(tmp_path: Path) -> None:
    """When it began and ended, of which items it was made, and the checksums of its files."""
    product = written(tmp_path, TILES, "geotiff", HOLE)
    item = pystac.Item.from_file(product.with_suffix(STAC))
    start, end = (item.properties[f"{name}_datetime"] for name in ("start", "end"))

    assert (start, end) == ("2022-11-03T16:24:38.250000Z", "2022-11-03T16:24:43.250000Z")
    assert item.assets["data"].extra_fields["file:checksum"] == "1220" + file_sha256(product)
    assert item.properties["prismlink:patches_missing"] == [[1, 1]]
    assert item.properties["prismlink:tiles"] == 6
    parents = [link.get_absolute_href() for link in item.get_links("derived_from")]
    assert sorted(map(str, parents)) == sorted(
        str(tmp_path / f"{file_stem(tile.info)}{STAC}") for tile in TILES.values()
    )
    assert item.bbox is not None


@pytest.mark.parametrize("known", [True, False])
def test_tiles_of_unknown_time_do_not_tell_when_a_scene_began(
    tmp_path: Path, *, known: bool
) -> None:
    """It began with the first of those that are known; else that is not known, and not 1970."""
    tiles = {
        at: tile
        if known and at != (0, 0)
        else replace(tile, info=replace(tile.info, start_utc_s=0))
        for at, tile in TILES.items()
    }
    product = written(tmp_path, tiles)
    said = told(product, STAC)["properties"]
    times = [said[name] for name in ("datetime", "start_datetime", "end_datetime")]

    if known:
        began = "2022-11-03T16:24:39.250000Z"
        assert times == [began, began, "2022-11-03T16:24:43.250000Z"]
    else:
        assert times == [None, "1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z"]
    assert read_tile(product).info.start_utc_s == (1_667_492_679.25 if known else 0.0)


def test_the_quality_of_each_tile_and_patch_is_told(tmp_path: Path) -> None:
    """Patches in the scene's own grid, as those of a tile; tiles with their versions."""
    product = written(tmp_path, TILES, "npy", HOLE)
    said = told(product, QUALITY)
    assert (said["version"], said["complete"], said["grid"]) == (1, False, [4, 3])
    assert [patch["step"] for patch in said["patches"]].count(None) == 1
    last = said["tiles"][-1]
    assert (last["tile"], last["offset"], last["shape"]) == ([2, 1], [258, 140], [40, 60])
    assert (last["name"], last["version"]) == (file_stem(TILES[2, 1].info), 1)


# ---------------------------------------------------------------- when, and when not


def test_only_what_has_changed_is_due(tmp_path: Path) -> None:
    """Not the same tiles again; a tile that was completed, another format, or no item."""
    product = written(tmp_path, TILES, "npy", HOLE)
    scene = scene_in(tmp_path, TILES.values())
    assert not is_due(scene, tmp_path, "npy")
    assert is_due(scene, tmp_path, "zarr")
    write(tmp_path, TILES[0, 0])
    assert is_due(scene_in(tmp_path, TILES.values()), tmp_path, "npy")
    write(tmp_path, TILES[0, 0], HOLE)
    product.with_name(product.stem + STAC).unlink()
    assert is_due(scene, tmp_path, "npy")


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_a_product_that_is_not_whole_is_due(tmp_path: Path, file_format: str) -> None:
    """Whichever of its files is gone, or shorter than its item says; or if it is asked for."""
    written(tmp_path, TILES, file_format)
    scene = scene_in(tmp_path, TILES.values())
    assert not is_due(scene, tmp_path, file_format)
    assert is_due(scene, tmp_path, file_format, again=True)
    for path in tmp_path.glob(f"{scene.stem}.*"):
        aside = path.rename(tmp_path / "aside")
        assert is_due(scene, tmp_path, file_format), path
        if aside.is_file():
            path.write_bytes(aside.read_bytes()[:-2])
            assert is_due(scene, tmp_path, file_format), path
        aside.replace(path)
        assert not is_due(scene, tmp_path, file_format)


def test_tiles_that_were_taken_away_cost_the_scene_nothing(tmp_path: Path) -> None:
    """It stays as it is; where there is something new as well, that is an error with a remedy."""
    written(tmp_path, TILES, "npy", HOLE)
    left = [tile for where, tile in TILES.items() if where != (2, 0)]
    assert not is_due(scene_in(tmp_path, left), tmp_path, "npy")
    write(tmp_path, TILES[0, 0])
    with pytest.raises(SceneTileError, match=r"tile \(2, 0\) is no longer there; remedy: "):
        is_due(scene_in(tmp_path, left), tmp_path, "npy")


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"tiles": [1]}'])
def test_a_broken_record_is_none(tmp_path: Path, broken: str) -> None:
    """The scene is written anew."""
    product = written(tmp_path, TILES)
    product.with_name(product.stem + QUALITY).write_text(broken)
    assert is_due(scene_in(tmp_path, TILES.values()), tmp_path, "npy")


def test_what_only_samples_files_tell_must_fit_too(tmp_path: Path) -> None:
    """Scale, wavelengths and CRS; nothing is left of the attempt."""
    unlike = {
        "reflectance_scale": replace(TILES[1, 0].info, reflectance_scale=5_000.0),
        "wavelengths_nm": replace(TILES[1, 0].info, wavelengths_nm=(1.0, 2.0, 3.0)),
        "CRS": replace(TILES[1, 0].info, georeference=replace(PLACE, crs="EPSG:32617",
            transform=TILES[1, 0].info.georeference.transform)),  # type: ignore[union-attr]
    }  # fmt: skip
    for what, info in unlike.items():
        folder = tmp_path / what
        folder.mkdir()
        other = Tile(samples=TILES[1, 0].samples, info=info)
        with pytest.raises(SceneUnlikeError, match=what):
            written(folder, {(0, 0): TILES[0, 0], (1, 0): other})
        assert files_of(folder) == {}
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_tile_that_is_replaced_meanwhile_is_told(tmp_path: Path) -> None:
    """What was read may be half of one version and half of the next: it is read again later."""
    for tile in TILES.values():
        write(tmp_path, tile, *([HOLE] if tile is TILES[0, 0] else []))
    scene = scene_in(tmp_path, TILES.values())
    write(tmp_path, TILES[0, 0])
    with pytest.raises(SceneChangedError):
        assemble(scene, tmp_path, "npy")
    assert files_of(tmp_path) == {}


def test_patches_of_another_version_are_told(tmp_path: Path) -> None:
    """They are read after the item; what does not fit it may be the next one's."""
    for tile in TILES.values():
        path = write(tmp_path, tile)
    scene = scene_in(tmp_path, TILES.values())
    patches = path.with_suffix(QUALITY)
    patches.write_bytes(b"{}")
    with pytest.raises(SceneTileError, match="patches"):
        assemble(scene, tmp_path, "npy")
    patches.unlink()
    with pytest.raises(SceneTileError, match=patches.name):
        assemble(scene, tmp_path, "npy")
    path.with_suffix(STAC).unlink()
    with pytest.raises(SceneChangedError):
        assemble(scene, tmp_path, "npy")


def test_a_tile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Its item is as it was, and its samples are broken."""
    for tile in TILES.values():
        path = write(tmp_path, tile)
    path.write_bytes(b"broken")
    with pytest.raises(SceneTileError, match=path.name):
        assemble(scene_in(tmp_path, TILES.values()), tmp_path, "npy")


def test_a_full_disk_leaves_the_scene_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is asked for all of the room first: who writes past its end would be killed."""
    product = written(tmp_path, TILES, "npy", HOLE)
    before = files_of(tmp_path)
    write(tmp_path, TILES[0, 0])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("daemon.ground.assemble.os.posix_fallocate", full)
    with pytest.raises(OutputError, match=r"No space left on device, for \d+ bytes"):
        assemble(scene_in(tmp_path, TILES.values()), tmp_path, "npy")
    assert files_of(tmp_path) == before
    assert product.exists()


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_does_not_hold_a_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    """Whatever the format: a scene's samples are on the disk, a tile's in memory."""
    monkeypatch.setattr("codec.zarr_writer._STRIP_BYTES", 1)
    rows = 128 * 24
    scene = cubes.tile(bands=16, rows=rows, cols=128, dtype="int16", scene="long", nodata=-1.0)
    tiles = cut(scene, [128] * 24, [128]).values()
    for tile in tiles:
        write(tmp_path, tile, file_format="geotiff")
    found = scene_in(tmp_path, tiles)
    tracemalloc.start()
    try:
        assemble(found, tmp_path, file_format)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * scene.samples.nbytes
