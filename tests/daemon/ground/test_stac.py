"""STAC items: valid by STAC's own schema, true of what they list, and the same at any time."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.version import VersionExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from codec.tile import Georeference, Tile
from codec.tile_files import find_scenes, read_tile
from daemon.ground.products import STAC, file_sha256, tree_sha256, write_product
from daemon.ground.stac import EXTENSIONS, Asset, item_of
from fakes import cubes
from fakes.ground import restored
from fakes.processes import ROOT

(ENMAP,) = find_scenes(ROOT / "tests" / "data" / "hyspecnet-11k")
ASSET = Asset(name="p.tif", size_bytes=9, sha256="ab" * 32)
FORMATS = ("geotiff", "envi", "zarr", "npy")


def told(tile: Tile, *missing: tuple[int, int]) -> dict[str, Any]:
    """The item of a tile; what it says is JSON."""
    item = item_of(restored(tile, *missing), [ASSET], name="p", version=3)
    back: dict[str, Any] = json.loads(json.dumps(item, allow_nan=False))
    return back


def check_schema(item: dict[str, Any]) -> None:
    """Against the schema of STAC that comes with pystac; nothing is fetched."""
    validator = JsonSchemaSTACValidator()
    uri = validator.validate_core(item, pystac.STACObjectType.ITEM, item["stac_version"])
    assert uri is not None


def test_a_turned_grid_keeps_its_spacing() -> None:
    """Not what is left of it along the axes."""
    tile = read_tile(ENMAP)
    turned = Georeference(
        crs="EPSG:32618", transform=(0.0, 30.0, 688_005.0, 30.0, 0.0, 4_561_935.0)
    )
    assert (
        told(replace(tile, info=replace(tile.info, georeference=turned)))["properties"]["gsd"] == 30
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_pystac_reads_the_item_of_a_real_tile(tmp_path: Path, file_format: str) -> None:
    """Where and when, its projection, its files with their sizes and checksums, its version."""
    tile = read_tile(ENMAP)
    path = write_product(restored(tile), tmp_path / "p", file_format)
    check_schema(json.loads((tmp_path / f"p{STAC}").read_text()))
    item = pystac.Item.from_file(tmp_path / f"p{STAC}")

    assert item.datetime == datetime(2022, 11, 3, 16, 24, 38, tzinfo=UTC)
    assert item.bbox == pytest.approx([-72.7595, 41.1515, -72.7125, 41.1870], abs=1e-4)
    assert item.properties["instruments"] == ["EnMAP"]
    assert item.properties["gsd"] == 30
    assert VersionExtension.ext(item).version == "1"
    projection = ProjectionExtension.ext(item)
    assert (projection.code, projection.shape) == ("EPSG:32618", [128, 128])
    assert projection.transform == [30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0]
    assert {asset.href for asset in item.assets.values()} == {
        f"./{part.name}" for part in tmp_path.iterdir() if not part.name.endswith(STAC)
    }
    for asset in item.assets.values():
        part, file = tmp_path / asset.href, FileExtension.ext(asset)
        if part.is_dir():
            assert asset.extra_fields["prismlink:tree_sha256"] == tree_sha256(part)
        else:
            assert (file.size, file.checksum) == (part.stat().st_size, "1220" + file_sha256(part))
    data = item.assets["data"]
    assert data.extra_fields["data_type"] == "int16"
    assert data.extra_fields["nodata"] == -32768
    assert data.extra_fields["raster:scale"] == 1e-4
    assert len(data.extra_fields["bands"]) == 224
    assert data.extra_fields["bands"][0] == {"name": "B1", "eo:center_wavelength": 0.41824}
    assert path.exists()


def test_a_tile_of_unknown_time_may_be_of_any() -> None:
    """Not of 1970: the item has no time but the span that STAC then asks for, and is valid."""
    item = told(cubes.tile(start_utc_s=0.0))
    check_schema(item)
    said = item["properties"]

    assert said["datetime"] is None
    assert (said["start_datetime"], said["end_datetime"]) == (
        "1970-01-01T00:00:00Z",
        "2262-04-11T23:47:16Z",
    )
    assert pystac.Item.from_dict(item).datetime is None


def test_the_item_says_what_came() -> None:
    """Of patches, packets and boots; the model and the step; whether it is all."""
    item = told(cubes.tile(bands=2, rows=130, cols=130, scene="s", tile_row=4), (1, 1))
    said = item["properties"]

    check_schema(item)
    assert said["prismlink:complete"] is False
    assert (said["prismlink:patches"], said["prismlink:patches_missing"]) == (4, [[1, 1]])
    assert said["processing:lineage"] == "Decoded from 3 of 4 patches."
    assert said["prismlink:packets_repaired"] == 2
    assert said["prismlink:boot_ids"] == [7]
    assert (said["prismlink:scene"], said["prismlink:tile"]) == ("s", [4, 0])
    assert len(said["prismlink:model"]) == 16
    assert said["processing:software"].keys() == {"prismlink"}
    assert (said["version"], item["stac_extensions"]) == ("3", list(EXTENSIONS))
    assert not {"created", "updated"} & said.keys()


def test_bands_have_centers_and_widths() -> None:
    """In micrometers, as the EO extension has them."""
    tile = cubes.tile(bands=2, wavelengths_nm=(418.24, 902.257), fwhm_nm=(6.5, 11.25))
    assert told(tile)["assets"]["data"]["bands"] == [
        {"name": "B1", "eo:center_wavelength": 0.41824, "eo:full_width_half_max": 0.0065},
        {"name": "B2", "eo:center_wavelength": 0.902257, "eo:full_width_half_max": 0.01125},
    ]


@pytest.mark.parametrize(
    ("dtype", "nodata", "said"),
    [("int16", None, None), ("float32", None, "nan"), ("float32", math.nan, "nan")],
)
def test_fill_is_as_the_files_have_it(dtype: str, nodata: float | None, said: str | None) -> None:
    """NaN is no JSON; where there is no fill value there is no field."""
    item = told(cubes.tile(dtype=dtype, nodata=nodata))
    assert item["assets"]["data"].get("nodata") == said


@pytest.mark.parametrize(
    ("crs", "code"),
    [
        ("", "absent"),
        ("no such CRS", "absent"),
        ('LOCAL_CS["laboratory bench",UNIT["metre",1]]', None),
    ],
)
def test_a_tile_that_is_nowhere_has_no_geometry(crs: str, code: str | None) -> None:
    """Of an unknown or a local CRS: null, as GeoJSON has it, and no bounding box."""
    place = Georeference(crs=crs, transform=(2.0, 0.0, 5.0, 0.0, -2.0, 9.0))
    for tile in (cubes.tile(), cubes.tile(georeference=place)):
        item = told(tile)
        check_schema(item)
        assert item["geometry"] is None
        assert "bbox" not in item
    assert item["properties"]["proj:transform"] == [2.0, 0.0, 5.0, 0.0, -2.0, 9.0]
    assert item["properties"].get("proj:code", "absent") == code


def test_without_the_ground_extra_the_outline_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """`decode` to NumPy needs no rasterio; what the tile itself says of its place is there."""
    place = Georeference(crs="EPSG:32618", transform=(30.0, 0.0, 5.0, 0.0, -30.0, 9.0))
    monkeypatch.setitem(sys.modules, "rasterio.crs", None)
    item = told(cubes.tile(georeference=place))

    check_schema(item)
    assert item["geometry"] is None
    assert item["properties"]["proj:transform"] == [30.0, 0.0, 5.0, 0.0, -30.0, 9.0]


def test_an_outline_runs_counterclockwise_and_is_closed() -> None:
    """As GeoJSON wants it; across the date line it would not be in one piece."""
    place = Georeference(crs="EPSG:4326", transform=(0.5, 0.0, 170.0, 0.0, -0.5, 10.0))
    tile = cubes.tile(rows=4, cols=8, georeference=place)
    (ring,) = told(tile)["geometry"]["coordinates"]
    assert ring == [[170, 10], [170, 8], [174, 8], [174, 10], [170, 10]]

    utm = Georeference(crs="EPSG:32601", transform=(5e4, 0.0, 1e5, 0.0, -5e4, 1e6))
    crossing = Tile(samples=tile.samples, info=replace(tile.info, georeference=utm))
    assert told(crossing)["geometry"] is None
