"""Rules of `codec.xarray_place`: an array is where its grid mapping and coordinates say."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rasterio.crs import CRS

from codec import api
from codec.errors import TileError
from codec.tile import Georeference

WKT = CRS.from_epsg(32632).to_wkt()
NORTH_UP = Georeference(crs="EPSG:32632", transform=(30.0, 0.0, 4e5, 0.0, -30.0, 5e6))
GEO_TRANSFORM = "400000.0 30.0 0.0 5000000.0 0.0 -30.0"


def array(mapping: dict[str, Any], name: str = "spatial_ref") -> xr.DataArray:
    """An array as rioxarray gives it, of 6 × 5 pixels with their centers."""
    return xr.DataArray(
        np.zeros((2, 6, 5), np.int16), dims=api.DIMENSIONS,
        coords={
            "x": 400_015.0 + 30 * np.arange(5),
            "y": 4_999_985.0 - 30 * np.arange(6),
            name: ((), 0, mapping),
        },
    )  # fmt: skip


def place(cube: xr.DataArray | xr.Dataset) -> Georeference | None:
    """Where the tile lies that is made of it."""
    return api.from_xarray(cube).info.georeference


@pytest.mark.parametrize(
    "mapping",
    [
        {"crs_wkt": WKT},
        {"spatial_ref": WKT, "GeoTransform": GEO_TRANSFORM},
        {"crs_wkt": WKT, "GeoTransform": "0.0 1.0 0.0 0.0 0.0 1.0"},
        {"crs_wkt": WKT, "GeoTransform": "399100.0 10.0 0.0 5000200.0 0.0 -10.0"},
    ],
    ids=["coordinates", "of GDAL", "no transform", "of what it was cut from"],
)
def test_an_array_is_where_its_coordinates_are(mapping: dict[str, Any]) -> None:
    """Whatever the transform beside them; the CRS goes by its number."""
    assert place(array(mapping)) == NORTH_UP


def test_a_grid_mapping_has_any_name() -> None:
    """An attribute, or what xarray makes of it, tells which; a Dataset's may be a variable."""
    named = array({"crs_wkt": WKT}, name="utm")
    assert place(named) is None
    opened, spread = named.copy(), named.assign_attrs(grid_mapping="utm: x y")
    opened.encoding["grid_mapping"] = "utm"
    dataset = spread.to_dataset(name="cube").reset_coords("utm")

    assert place(opened) == place(spread) == place(dataset) == NORTH_UP


def test_what_is_left_of_an_array_is_where_it_was() -> None:
    """Cut, thinned or turned over; one pixel is as large as the transform says."""
    whole = array({"crs_wkt": WKT, "GeoTransform": GEO_TRANSFORM})
    up, thin = place(whole.isel(y=slice(None, None, -1))), place(whole.isel(x=slice(1, None, 2)))
    pixel = place(whole.isel(x=[3], y=[2]))

    assert up == Georeference(crs=NORTH_UP.crs, transform=(30.0, 0.0, 4e5, 0.0, 30.0, 5e6 - 180))
    assert thin is not None
    assert thin.transform == (60.0, 0.0, 400_015.0, 0.0, -30.0, 5e6)
    assert pixel is not None
    assert pixel.transform == (30.0, 0.0, 4e5 + 90, 0.0, -30.0, 5e6 - 60)


def test_pixels_that_nothing_places_are_refused() -> None:
    """A size that nothing tells, and a grid that is not even: unless the place is given up."""
    whole = array({"crs_wkt": WKT})
    for part in (whole.isel(y=[2]), whole.isel(x=[0, 1, 4]), whole.isel(x=[1, 1, 1])):
        with pytest.raises(TileError, match=r"remedy: .*, or georeference=None"):
            api.from_xarray(part)
        assert api.from_xarray(part, georeference=None).info.georeference is None


def test_a_transform_without_coordinates_counts() -> None:
    """Nothing else is left then; of a CRS alone no place follows."""
    bare = array({"crs_wkt": WKT, "GeoTransform": GEO_TRANSFORM}).drop_vars(["x", "y"])
    assert place(bare) == NORTH_UP

    assert place(array({"crs_wkt": WKT}).drop_vars(["x", "y"])) is None


@pytest.mark.parametrize("mapping", [{}, {"GeoTransform": "0.0 1.0 0.0 0.0 0.0 1.0"}])
def test_an_array_without_a_place_has_none(mapping: dict[str, Any]) -> None:
    """Coordinates alone may be anything; rioxarray counts the pixels of such an image."""
    assert place(array(mapping)) is None


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("lat", "lon", "band")])
def test_coordinates_of_32_bits_are_even(dims: tuple[str, ...]) -> None:
    """Degrees of a tenth of a second, too: no pixel is rounded away."""
    lat, lon = ("y", "x") if "y" in dims else ("lat", "lon")
    for spacing, dtype in ((0.0003, np.float32), (1e-7, np.float64)):
        cube = xr.DataArray(
            np.zeros([2 if name == "band" else 50 for name in dims], np.int16), dims=dims,
            coords={
                lon: (118.5 + spacing * np.arange(50)).astype(dtype),
                lat: (34.5 - spacing * np.arange(50)).astype(dtype),
                "spatial_ref": ((), 0, {"crs_wkt": CRS.from_epsg(4326).to_wkt()}),
            },
        )  # fmt: skip
        found = place(cube)
        assert found is not None
        a, b, c, d, e, f = found.transform
        assert (found.crs, b, d) == ("EPSG:4326", 0.0, 0.0)
        assert (a, e) == pytest.approx((spacing, -spacing), rel=1e-2)
        assert (c, f) == pytest.approx((118.5, 34.5), abs=0.6 * spacing)


def test_a_place_that_was_moved_is_the_new_one() -> None:
    """Attributes of a tile are left behind when an array is brought to another CRS."""
    told = {"crs": "EPSG:4326", "transform": [0.1, 0.0, 8.0, 0.0, -0.1, 47.0]}
    moved = array({"crs_wkt": WKT, "GeoTransform": GEO_TRANSFORM}).assign_attrs(told)

    assert place(moved) == NORTH_UP
    assert place(moved.assign_attrs(crs=WKT)) == Georeference(crs=WKT, transform=NORTH_UP.transform)


def test_numbers_of_pixels_are_no_places() -> None:
    """Numbered anew, an array lies where its tile did; meters by a name of ours are refused."""
    numbered = array({"crs_wkt": WKT, "GeoTransform": GEO_TRANSFORM}).assign_coords(
        x=np.arange(5), y=np.arange(6)
    )
    assert place(numbered) == NORTH_UP
    with pytest.raises(TileError, match="col counts no pixels of a tile; remedy: another name"):
        place(array({"crs_wkt": WKT, "GeoTransform": GEO_TRANSFORM}).rename(y="row", x="col"))


def test_text_that_is_no_crs_is_kept_and_opened_nowhere() -> None:
    """As of any tile from afar."""
    found = place(array({"crs_wkt": "http://127.0.0.1:9/a.wkt"}))

    assert found == Georeference(crs="http://127.0.0.1:9/a.wkt", transform=NORTH_UP.transform)


def test_without_rasterio_a_crs_stays_the_text_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place needs no library but xarray."""
    monkeypatch.setitem(sys.modules, "rasterio.crs", None)

    assert place(array({"crs_wkt": WKT})) == Georeference(crs=WKT, transform=NORTH_UP.transform)
