"""GeoTIFFs say in GDAL's words what the tile says: what is valid, what samples mean, and where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from codec import geotiff_writer
from codec.tile import Georeference
from codec.tile_files import read_tile, write_tile
from fakes import cubes
from fakes.layers import with_holes

PLACE = Georeference(crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0))
FORMATS = ("geotiff", "cog", "envi")
KINDS = [
    ("int16", None),
    ("uint16", None),
    ("float32", None),
    ("int16", -32768.0),
    ("uint16", 0.0),
    ("float32", -9999.0),
]


def opened(path: Path) -> Any:
    """As rasterio opens it."""
    return rasterio.open(path.with_suffix(".img") if path.suffix == ".hdr" else path)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("dtype", "nodata"), KINDS)
@pytest.mark.parametrize("missing", [(), ((0, 1), (1, 0))], ids=["whole", "holes"])
def test_gdal_masks_what_is_not_valid(
    tmp_path: Path, file_format: str, dtype: str, nodata: float | None, missing: tuple[Any, ...]
) -> None:
    """By sample, and by pixel: `dataset_mask` is 255 where any band is valid, else 0.

    Fill inside of patches that came is masked as holes are, whichever way the tile marks them.
    """
    marked = nodata is not None or dtype == "float32"
    whole = cubes.tile(
        bands=3, rows=150, cols=140, dtype=dtype, nodata=nodata, georeference=PLACE,
        fill_samples=0.01 * marked, fill_pixels=0.1 * marked, fill_bands=(1,) if marked else (),
    )  # fmt: skip
    tile, layers = with_holes(whole, *missing)
    path = write_tile(tile, tmp_path / "t", file_format, layers)
    valid = layers.valid(tile)

    with opened(path) as file:
        np.testing.assert_array_equal(file.dataset_mask(), np.where(valid.any(axis=0), 255, 0))
        np.testing.assert_array_equal(file.read_masks() == 255, valid)
        np.testing.assert_array_equal(file.read(), tile.samples)
    assert read_tile(path).info == tile.info
    assert not list(tmp_path.glob("*.aux.xml"))


@pytest.mark.parametrize("file_format", ["geotiff", "cog"])
def test_gdal_knows_what_samples_are(tmp_path: Path, file_format: str) -> None:
    """Scale, offset and unit of reflectance; centers and widths in GDAL's IMAGERY domain [µm]."""
    tile = cubes.tile(
        bands=2, rows=20, cols=30, reflectance_scale=5000.0, wavelengths_nm=(418.24, 902.257),
        fwhm_nm=(6.5, 11.25), georeference=PLACE,
    )  # fmt: skip
    with opened(write_tile(tile, tmp_path / "t", file_format)) as file:
        assert (file.scales, file.offsets) == ((1 / 5000,) * 2, (0.0, 0.0))
        assert file.units == ("reflectance",) * 2
        assert file.descriptions == ("418.24 nm", "902.257 nm")
        told = [file.tags(band, ns="IMAGERY") for band in (1, 2)]
        assert [float(tags["CENTRAL_WAVELENGTH_UM"]) for tags in told] == [0.41824, 0.902257]
        assert [float(tags["FWHM_UM"]) for tags in told] == [0.0065, 0.01125]
        assert file.crs.to_epsg() == 32618


def test_a_band_is_read_by_blocks_of_a_patch(tmp_path: Path) -> None:
    """Band after band; blocks of small tiles are no larger than they need be."""
    for rows, cols, block in ((300, 200, (128, 128)), (51, 200, (64, 128))):
        tile = cubes.tile(bands=2, rows=rows, cols=cols, georeference=PLACE)
        with opened(write_tile(tile, tmp_path / f"{rows}", "geotiff")) as file:
            assert file.block_shapes == [block, block]
            assert file.interleaving.value == "BAND"
            assert file.compression.value == "DEFLATE"


def test_a_large_one_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which GDAL decides by the size before compression; here, by what it is asked."""
    asked = dict[str, Any]()
    whole = rasterio.open

    def noting(path: Path, mode: str = "r", **profile: Any) -> Any:
        asked.update(profile)
        return whole(path, mode, **profile)

    monkeypatch.setattr(rasterio, "open", noting)
    geotiff_writer.write_geotiff(cubes.tile(georeference=PLACE), tmp_path / "t.tif")
    assert asked["bigtiff"] == "if_safer"


def test_a_cog_is_one(tmp_path: Path) -> None:
    """GDAL says so of the file, and there are overviews whose fill is fill."""
    tile, layers = with_holes(
        cubes.tile(bands=2, rows=300, cols=260, nodata=-1.0, georeference=PLACE), (0, 0)
    )
    with opened(write_tile(tile, tmp_path / "t", "cog", layers)) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4]
        small = file.read(1, out_shape=(75, 65), masked=True)
        assert small.mask[:32, :32].all()
        assert not small.mask[33:, 33:].any()


@pytest.mark.parametrize("nodata", [None, math.nan, -1.0])
def test_floats_without_fill_declare_nan(tmp_path: Path, nodata: float | None) -> None:
    """GDAL has to be told that NaN is fill; read back, the tile names what it named."""
    tile = cubes.tile(bands=1, dtype="float32", nodata=nodata, georeference=PLACE)
    path = write_tile(tile, tmp_path / "t", "geotiff")
    with opened(path) as file:
        assert file.nodata == nodata if nodata == -1 else math.isnan(file.nodata)
    back = read_tile(path).info.nodata
    assert back == nodata or (back is not None and nodata is not None and math.isnan(back))


def test_an_envi_mask_goes_with_the_last_hole(tmp_path: Path) -> None:
    """It is no longer there once the tile is whole, and the header was the same all along."""
    whole = cubes.tile(bands=2, rows=20, cols=140, dtype="uint16", georeference=PLACE)
    tile, layers = with_holes(whole, (0, 1))
    path = write_tile(tile, tmp_path / "t", "envi", layers)
    header, number = path.read_bytes(), path.stat().st_ino
    assert {part.name for part in tmp_path.iterdir()} == {"t.hdr", "t.img", "t.img.msk"}

    write_tile(*with_holes(whole)[:1], tmp_path / "t", "envi", with_holes(whole)[1])

    assert {part.name for part in tmp_path.iterdir()} == {"t.hdr", "t.img"}
    assert (path.read_bytes(), path.stat().st_ino) == (header, number)
    with opened(path) as file:
        assert file.dataset_mask().min() == 255
