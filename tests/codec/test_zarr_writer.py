"""Zarr stores are CF: xarray finds coordinates, fill, the CRS, and what is known of each patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio.crs
import xarray
import zarr

from codec.tile import Georeference
from codec.tile_files import read_tile, write_tile
from fakes import cubes
from fakes.layers import with_holes

PLACE = Georeference(crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0))
TURNED = Georeference(crs="EPSG:32618", transform=(21.0, 14.0, 4e5, 15.0, -22.0, 5e6))


def opened(path: Path) -> xarray.Dataset:
    """As a user opens it, whole."""
    with xarray.open_zarr(path, chunks=None, decode_coords="all") as dataset:
        return dataset.load()


def test_coordinates_are_those_of_cf(tmp_path: Path) -> None:
    """Wavelengths and widths in nm, the time of the first line, x and y, and the CRS as WKT."""
    tile = cubes.tile(
        bands=2, rows=20, cols=30, wavelengths_nm=(418.24, 902.257), fwhm_nm=(6.5, 11.25),
        start_utc_s=1_667_492_678.25, georeference=PLACE,
    )  # fmt: skip
    found = opened(write_tile(tile, tmp_path / "t", "zarr"))

    assert found.attrs["Conventions"] == "CF-1.11"
    assert found["samples"].dims == ("band", "y", "x")
    assert found["wavelength"].values.tolist() == [418.24, 902.257]
    assert found["wavelength"].attrs["standard_name"] == "radiation_wavelength"
    assert found["wavelength"].attrs["units"] == found["fwhm"].attrs["units"] == "nm"
    assert found["fwhm"].values.tolist() == [6.5, 11.25]
    assert found["time"].values == np.datetime64("2022-11-03T16:24:38.250")
    assert (float(found["x"][0]), float(found["y"][0])) == (688_020.0, 4_561_920.0)
    assert found["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert found["samples"].encoding["grid_mapping"] == "spatial_ref"
    crs = rasterio.crs.CRS.from_wkt(found["spatial_ref"].attrs["crs_wkt"])
    assert crs.to_epsg() == 32618
    assert found["spatial_ref"].attrs["GeoTransform"] == "688005.0 30.0 0.0 4561935.0 0.0 -30.0"


@pytest.mark.parametrize(
    ("crs", "standard_name"),
    [("EPSG:4326", "longitude"), ("no such CRS", None)],
)
def test_axes_are_what_the_crs_says(tmp_path: Path, crs: str, standard_name: str | None) -> None:
    """Degrees east, or, of an unknown CRS, plain numbers."""
    place = Georeference(crs=crs, transform=(0.1, 0.0, -118.3, 0.0, -0.1, 34.7))
    found = opened(write_tile(cubes.tile(georeference=place), tmp_path / "t", "zarr"))

    assert found["x"].attrs.get("standard_name") == standard_name
    assert ("crs_wkt" in found["spatial_ref"].attrs) == (standard_name is not None)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", None), ("int16", -1.0)])
def test_what_is_valid_and_how_fine_it_is(tmp_path: Path, dtype: str, nodata: float | None) -> None:
    """Sample by sample, and on the grid of patches: step, PSNR where known, model."""
    tile, layers = with_holes(
        cubes.tile(bands=2, rows=150, cols=140, dtype=dtype, nodata=nodata), (1, 0)
    )
    found = opened(write_tile(tile, tmp_path / "t", "zarr", layers))

    np.testing.assert_array_equal(found["valid"].values, layers.valid(tile))
    np.testing.assert_array_equal(
        found["samples"].where(found["valid"]).fillna(-7).values,
        np.where(layers.valid(tile), tile.samples.astype(float), -7),
    )
    assert found["patch_received"].values.tolist() == [[True, True], [False, True]]
    np.testing.assert_array_equal(found["patch_step"].values, layers.step)
    assert found["patch_psnr_db"].isnull().all()
    assert found["patch_step"].attrs["model"] == "ab"
    assert found["patch_step"].attrs["patch_px"] == 128


def test_a_chunk_is_a_patch(tmp_path: Path) -> None:
    """All bands of it, in samples and mask alike; metadata is consolidated."""
    tile, layers = with_holes(cubes.tile(bands=3, rows=150, cols=100))
    path = write_tile(tile, tmp_path / "t", "zarr", layers)
    group = zarr.open_consolidated(path)

    assert group["samples"].chunks == group["valid"].chunks == (3, 128, 100)


@pytest.mark.parametrize("start_utc_s", [-6e10, 2e11])
def test_a_time_that_nanoseconds_do_not_reach_is_an_attribute_alone(
    tmp_path: Path, start_utc_s: float
) -> None:
    """A reader would refuse the whole store for it."""
    found = opened(write_tile(cubes.tile(start_utc_s=start_utc_s), tmp_path / "t", "zarr"))

    assert "time" not in found.coords
    assert found.attrs["start_utc_s"] == start_utc_s


def test_a_time_that_is_not_known_is_no_coordinate(tmp_path: Path) -> None:
    """Nobody is shown 1970; read back it is not known either."""
    path = write_tile(cubes.tile(start_utc_s=0.0), tmp_path / "t", "zarr")

    assert "time" not in opened(path).coords
    assert read_tile(path).info.start_utc_s == 0.0


@pytest.mark.parametrize("place", [None, PLACE, TURNED])
@pytest.mark.parametrize("nodata", [None, -1.0])
def test_a_store_is_the_same_in_however_many_strips(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Georeference | None,
    nodata: float | None,
) -> None:
    """Byte for byte: what is too large is handed over a few rows of patches at a time."""
    tile, layers = with_holes(
        cubes.tile(bands=3, rows=300, cols=140, nodata=nodata, georeference=place), (1, 0)
    )
    one = write_tile(tile, tmp_path / "one", "zarr", layers)
    monkeypatch.setattr("codec.zarr_writer._STRIP_BYTES", 1)
    many = write_tile(tile, tmp_path / "many", "zarr", layers)

    def files(store: Path) -> dict[Path, bytes]:
        return {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}

    assert files(one) == files(many)


def test_the_model_is_told_of_the_whole_store(tmp_path: Path) -> None:
    """Beside the attributes of the tile, as in the quality file of every format."""
    tile, layers = with_holes(cubes.tile())

    assert opened(write_tile(tile, tmp_path / "t", "zarr", layers)).attrs["model"] == "ab"
