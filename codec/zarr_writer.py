"""A tile in, a zarr store out that `xarray.open_zarr` opens, described as CF does it.

Format 2 with consolidated metadata: format 3 has no agreed form of the latter, and every reader,
GDAL's too, knows 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from codec.geotiff_writer import crs_of
from codec.patch_grid import PATCH_PX, PatchLattice
from codec.patch_layers import PatchLayers
from codec.tile import Georeference, Tile
from codec.tile_tags import SAMPLE_TYPE, import_for, is_north_up, to_tags

_STRIP_BYTES: Final = 256 << 20
"""Samples handed over at a time: on the way to the disk there are several copies of them."""

_FIRST_NS_S: Final = -9_223_372_036.0
_LAST_NS_S: Final = 9_223_372_036.0
"""Times that nanoseconds in 64 bits reach, which is what readers make of them."""


def write_zarr(tile: Tile, path: Path, layers: PatchLayers | None = None) -> Sequence[Path]:
    """Write `samples` on (band, y, x), a chunk a patch; with layers also these, and `valid`."""
    xarray = import_for(path, "xarray")
    import_for(path, "zarr")
    # Not zarr's default, Blosc: it decodes a cut chunk without a word.
    compressor = import_for(path, "numcodecs").Zstd(level=1, checksum=True)
    info, (bands, rows, cols) = tile.info, tile.samples.shape
    place = {} if info.georeference is None else _place(path, info.georeference, rows, cols)
    mapped = {"grid_mapping": "spatial_ref"} if place else {}
    meaning = {"long_name": "reflectance", "units": f"{1 / info.reflectance_scale:g}"}
    meaning[SAMPLE_TYPE] = tile.samples.dtype.name
    came = {"long_name": "sample came and was measured"} | mapped
    cube = {"chunks": (bands, min(rows, PATCH_PX), min(cols, PATCH_PX)), "compressors": compressor}
    encoding: dict[str, Any] = {"samples": dict(cube)}
    if info.nodata is not None:
        encoding["samples"]["_FillValue"] = info.nodata
    if layers is not None:
        encoding["valid"] = cube
    facts = to_tags(info, everything=True) | ({"model": layers.model} if layers else {})
    whole = xarray.Dataset(
        {} if layers is None else _layers(layers),
        coords=_bands(tile) | place,
        attrs={"Conventions": "CF-1.11"} | facts,
    )
    patch_row_bytes = PATCH_PX * tile.samples[:, 0].nbytes
    step = PATCH_PX * max(1, _STRIP_BYTES // patch_row_bytes)
    for start in range(0, rows, step):
        lines = slice(start, min(start + step, rows))
        cubes = {"samples": (("band", "y", "x"), tile.samples[:, lines], meaning | mapped)}
        if layers is not None:
            cubes["valid"] = ("band", "y", "x"), layers.valid(tile, lines), came
        strip = (whole.isel(y=lines) if "y" in whole.dims else whole).assign(cubes)
        for name in strip.variables.keys() - encoding.keys():
            encoding[name] = {"compressors": compressor}
        for name in encoding.keys() & {"y", "row"}:
            encoding[name]["chunks"] = (rows,)
        # So that a chunk that is not there is a chunk that was lost.
        strip.to_zarr(
            path, zarr_format=2, consolidated=True, write_empty_chunks=True,
            **({"append_dim": "y"} if start else {"mode": "w-", "encoding": encoding}),
        )  # fmt: skip
    return [path]


def _bands(tile: Tile) -> dict[str, Any]:
    """Coordinates of the bands, and the time of the first line, where it is known."""
    info, coords = tile.info, dict[str, Any]()
    if info.wavelengths_nm:
        told = {"standard_name": "radiation_wavelength", "long_name": "center", "units": "nm"}
        coords["wavelength"] = ("band", np.array(info.wavelengths_nm), told)
    if info.fwhm_nm:
        told = {"long_name": "width of the band, full at half maximum", "units": "nm"}
        coords["fwhm"] = ("band", np.array(info.fwhm_nm), told)
    if info.start_utc_s and _FIRST_NS_S < info.start_utc_s < _LAST_NS_S:
        told = {
            "standard_name": "time",
            "long_name": "first line",
            "units": "microseconds since 1970-01-01 00:00:00",
            "calendar": "proleptic_gregorian",
        }
        coords["time"] = ((), np.int64(round(1e6 * info.start_utc_s)), told)
    return coords


def _place(path: Path, georeference: Georeference, rows: int, cols: int) -> dict[str, Any]:
    """The CRS, where the text is one, and the centers of the pixels of a north-up image."""
    a, b, c, d, e, f = georeference.transform
    mapping: dict[str, Any] = {"GeoTransform": " ".join(map(repr, (c, a, b, f, d, e)))}
    crs = crs_of(path, georeference)
    if crs:
        mapping["crs_wkt"] = crs.to_wkt()
    coords: dict[str, Any] = {"spatial_ref": ((), np.int32(0), mapping)}
    if is_north_up(georeference):
        x, y = _axes(bool(crs and crs.is_geographic), bool(crs))
        coords["x"] = ("x", c + a * (np.arange(cols) + 0.5), x)
        coords["y"] = ("y", f + e * (np.arange(rows) + 0.5), y)
    else:  # what is cut from it can still be placed
        coords["col"] = ("x", np.arange(cols), {"long_name": "column of the tile"})
        coords["row"] = ("y", np.arange(rows), {"long_name": "row of the tile"})
    return coords


def _axes(geographic: bool, known: bool) -> tuple[dict[str, str], dict[str, str]]:
    """CF attributes of x and y."""
    if geographic:
        return (
            {"standard_name": "longitude", "units": "degrees_east"},
            {"standard_name": "latitude", "units": "degrees_north"},
        )
    if not known:
        return {}, {}
    return (
        {"standard_name": "projection_x_coordinate"},
        {"standard_name": "projection_y_coordinate"},
    )


def _layers(layers: PatchLayers) -> dict[str, Any]:
    """Variables on the coarse grid of patches."""
    at = ("patch_row", "patch_col")
    told = {"patch_px": layers.grid.patch_px, "model": layers.model}
    starts = dict[str, Any]()
    if isinstance(layers.grid, PatchLattice):
        for axis, edges in (("row", layers.grid.row_edges), ("col", layers.grid.col_edges)):
            meaning = {"long_name": f"first {axis} of pixels"}
            starts[f"patch_{axis}_start"] = f"patch_{axis}", np.array(edges[:-1]), meaning
    return starts | {
        "patch_received": (at, layers.received, {"long_name": "patch came"} | told),
        "patch_step": (at, layers.step, {"long_name": "quantizer step"} | told),
        "patch_psnr_db": (
            at,
            layers.psnr_db,
            {"long_name": "PSNR as measured on board", "units": "dB"} | told,
        ),
    }
