"""Where the pixels of a DataArray lie: coordinates and grid mapping ↔ CRS and transform.

Coordinates follow their pixels when an array is cut, thinned or turned over; transforms do not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from codec.crs import crs_from, crs_text
from codec.errors import TileError
from codec.tile import MAX_EDGE_PX, Georeference

if TYPE_CHECKING:
    import xarray

NOWHERE: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The transform of an image without a place on the ground."""

_UNEVEN: Final = 0.05
"""Of a pixel: coordinates of 32 bits are off by so much."""


def pixel_coordinates(georeference: Georeference, rows: int, cols: int) -> dict[str, Any]:
    """Centers of pixels, `x` and `y`, or where these are no matter of column and row, counts."""
    a, _, c, _, e, f = transform = georeference.transform
    if _is_along_axes(transform):
        return {
            "x": ("x", c + a * (np.arange(cols) + 0.5)),
            "y": ("y", f + e * (np.arange(rows) + 0.5)),
        }
    return {"col": ("x", np.arange(cols)), "row": ("y", np.arange(rows))}


def place_tags(array: xarray.DataArray, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The place of an array on (bands, rows, cols), as `codec.tile_tags.from_tags` reads it.

    Args:
        array: Of which coordinates and grid mapping are read, the latter as CF, GDAL and rioxarray
            have it.
        attrs: `crs` and `transform`, as `to_tags` has them, where the grid mapping tells none.

    Returns:
        Both, for the pixels that the array has, or nothing where nothing tells them.

    Raises:
        TileError: If no transform places the pixels.
        ValueError, TypeError: If an attribute is not what its name says.
    """
    mapped = _grid_mapping(array)
    crs = _crs(str(mapped.get("crs_wkt", mapped.get("spatial_ref", ""))), str(attrs.get("crs", "")))
    whole = attrs.get("transform")
    if "GeoTransform" in mapped:
        c, a, b, f, d, e = map(float, str(mapped["GeoTransform"]).split())
        if (a, b, c, d, e, f) != NOWHERE:
            whole = a, b, c, d, e, f
    if whole is None:
        if not (mapped and crs and set(array.dims[1:]) <= array.coords.keys() - {"row", "col"}):
            return {}
        if 1 in array.shape[1:]:
            raise TileError(
                "one row or column does not tell how large its pixels are; remedy: a GeoTransform"
                " in the grid mapping, or georeference=None"
            )
        whole = NOWHERE
    return {"crs": crs, "transform": _transform(array, *map(float, whole))}


def _grid_mapping(array: xarray.DataArray) -> dict[str, Any]:
    """Attributes of the scalar coordinate that tells where an array lies, or none."""
    name = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping", "spatial_ref"))
    name = str(name).partition(":")[0]  # CF: "name: x y"
    return dict(array.coords[name].attrs) if name in array.coords else {}


def _crs(text: str, told: str) -> str:
    """A grid mapping's CRS, by its number where it has one; as told, if there is no other."""
    try:
        crs = crs_from(text)
        if crs is None:
            return text or told
        return told if crs == crs_from(told) else crs_text(crs)
    except ImportError:  # without rasterio WKT stays as it is
        return told or text


def _is_along_axes(transform: tuple[float, ...]) -> bool:
    """Whether x is a matter of the column alone, and y of the row."""
    a, b, _, d, e, _ = transform
    return b == d == 0 != a * e


def _transform(array: xarray.DataArray, *whole: float) -> list[float]:
    """The transform of those pixels of a whole tile that an array has, as its coordinates tell."""
    a, b, c, d, e, f = whole
    _, y, x = array.dims
    along = _is_along_axes(whole)
    col, cols = _axis(array, x if along else "col", "col", c, a)
    row, rows = _axis(array, y if along else "row", "row", f, e)
    corner = a * col + b * row + c, d * col + e * row + f
    return [a * cols, b * rows, corner[0], d * cols, e * rows, corner[1]]


def _axis(
    array: xarray.DataArray, name: Hashable, count: str, start: float, spacing: float
) -> tuple[float, float]:
    """Where the pixels along an axis begin, and their size, in pixels of the whole tile."""
    if name in array.coords and name != count:
        numbered = np.array_equal(array.coords[name].values, np.arange(array.sizes[name]))
        if numbered and spacing != 1 and array.sizes[name] > 1:  # anew, as by assign_coords
            return 0.0, 1.0
        return _pixels(array, name, start, spacing)
    if count not in array.coords:
        return 0.0, 1.0
    if not np.all((values := array.coords[count].values) >= 0) or values.max() > MAX_EDGE_PX:
        raise TileError(f"{count} counts no pixels of a tile; remedy: another name, as x and y")
    return _pixels(array, count, -0.5, 1.0)


def _pixels(
    array: xarray.DataArray, name: Hashable, start: float, spacing: float
) -> tuple[float, float]:
    """Where the pixels along a coordinate begin, and their size, in pixels of the whole tile."""
    centers = (np.asarray(array.coords[name].values, np.float64) - start) / spacing - 0.5
    first, size = centers[0], 1.0
    if centers.size > 1:
        size = (centers[-1] - first) / (centers.size - 1)
    off = np.abs(first + size * np.arange(centers.size) - centers)
    if not (off < _UNEVEN * abs(size)).all():
        raise TileError(
            f"{name} is not evenly spaced, so no transform places its pixels; remedy: an even grid,"
            " or georeference=None"
        )
    # What is whole, or a half, but for rounding is so: a tile that was not cut keeps its place.
    near = 1e-6 * abs(size)
    first, size = (half if abs((half := round(2 * v) / 2) - v) < near else v for v in (first, size))
    return float(first + 0.5 - size / 2), float(size)
