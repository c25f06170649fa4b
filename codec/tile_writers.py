"""One writer per file format: a tile in, files that appear whole or not at all.

`codec.tile_files.write_tile` chooses among them and words their failures; use that.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from codec.tile import Georeference, Tile
from codec.tile_readers import ENVI_TYPES, not_georeferenced_is_fine
from codec.tile_tags import import_for, to_tags, to_text_tags

Writer: TypeAlias = Callable[[Tile, Path], Sequence[Path]]
"""Write a tile to a path whose folder is ours alone; return the parts made, the one that
`read_tile` opens last."""

DEFLATE_LEVEL: Final = 1
"""Of a HySpecNet-11k patch, level 6 takes 141 ms and 3.19 MB, level 1 41 ms and 3.17 MB."""

_AUTHORITY: Final = re.compile(r"(EPSG|ESRI|IAU_\d{4}):\d{1,9}|OGC:CRS\d{1,3}", re.ASCII | re.I)
"""A CRS by its number in PROJ's own tables."""


def write_geotiff(tile: Tile, path: Path) -> Sequence[Path]:
    """Write a deflated GeoTIFF: place, fill and wavelengths in GDAL's words, the rest as tags."""
    rasterio = import_for(path, "rasterio")
    info, (bands, rows, cols) = tile.info, tile.samples.shape
    place: dict[str, Any] = {}
    if info.georeference is not None:
        place["transform"] = rasterio.Affine(*info.georeference.transform)
        place["crs"] = _crs(path, info.georeference)
    with (
        not_georeferenced_is_fine(rasterio),
        rasterio.open(
            path, "w", driver="GTiff", count=bands, height=rows, width=cols,
            dtype=tile.samples.dtype.name, nodata=info.nodata, interleave="band",
            compress="deflate", zlevel=DEFLATE_LEVEL,
            predictor=3 if tile.samples.dtype.kind == "f" else 2, bigtiff="if_safer", **place,
        ) as file,
    ):  # fmt: skip
        file.write(tile.samples)
        file.update_tags(**to_text_tags(info))
        for band, wavelength_nm in enumerate(info.wavelengths_nm, start=1):
            file.set_band_description(band, f"{wavelength_nm} nm")
            file.update_tags(band, wavelength=f"{wavelength_nm}", wavelength_units="Nanometers")
    return [path]


def write_envi(tile: Tile, path: Path) -> Sequence[Path]:
    """Write an ENVI image, band by band, little-endian: `.img` and its header `.hdr`."""
    info, (bands, rows, cols) = tile.info, tile.samples.shape
    little = tile.samples.dtype.newbyteorder("<")
    codes = {kind: code for code, kind in ENVI_TYPES.items()}
    fields = {
        "samples": cols,
        "lines": rows,
        "bands": bands,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": codes[little.str[1:]],
        "interleave": "bsq",
        "byte order": 0,
        "reflectance scale factor": info.reflectance_scale,
        "acquisition time": datetime.fromtimestamp(info.start_utc_s, UTC).isoformat(),
        **{name.lower(): text for name, text in to_text_tags(info).items()},
    }
    if info.nodata is not None:
        fields["data ignore value"] = info.nodata
    if info.wavelengths_nm:
        fields["wavelength units"] = "Nanometers"
        fields["wavelength"] = "{" + ", ".join(str(w) for w in info.wavelengths_nm) + "}"
    if info.georeference is not None:
        fields |= _envi_place(path, info.georeference)
    data = path.with_suffix(".img")
    np.ascontiguousarray(tile.samples, dtype=little).tofile(data)
    lines = ["ENVI", *(f"{name} = {value}" for name, value in fields.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [data, path]


def write_npy(tile: Tile, path: Path) -> Sequence[Path]:
    """Write the samples as `.npy` and everything else as `.json` beside it."""
    beside = path.with_suffix(".json")
    tags = to_tags(tile.info, everything=True)
    beside.write_text(json.dumps(tags, indent=1) + "\n", encoding="utf-8")
    np.save(path, tile.samples, allow_pickle=False)
    return [beside, path]


def write_zarr(tile: Tile, path: Path) -> Sequence[Path]:
    """Write a zarr store that `xarray.open_zarr` opens: `samples` on (band, y, x).

    Format 2 with consolidated metadata: format 3 has no agreed form of the latter, and every
    reader, GDAL's too, knows 2.
    """
    xarray = import_for(path, "xarray")
    import_for(path, "zarr")
    # Not zarr's default, Blosc: it decodes a cut chunk without a word.
    compressor = import_for(path, "numcodecs").Zstd(level=1, checksum=True)
    info, (bands, rows, cols) = tile.info, tile.samples.shape
    coords: dict[str, Any] = {}
    if info.wavelengths_nm:
        coords["wavelength_nm"] = ("band", list(info.wavelengths_nm), {"units": "nm"})
    if info.georeference is not None and _is_north_up(info.georeference):
        a, _, c, _, e, f = info.georeference.transform
        coords["x"] = ("x", c + a * (np.arange(cols) + 0.5))
        coords["y"] = ("y", f + e * (np.arange(rows) + 0.5))
    dataset = xarray.Dataset(
        {"samples": (("band", "y", "x"), tile.samples)},
        coords=coords,
        attrs=to_tags(info, everything=True),
    )
    fill = {"_FillValue": info.nodata} if info.nodata is not None else {}
    dataset.to_zarr(
        path,
        mode="w-",
        zarr_format=2,
        consolidated=True,
        write_empty_chunks=True,  # so that a chunk that is not there is a chunk that was lost
        encoding={
            "samples": {
                "chunks": (bands, min(rows, 128), min(cols, 128)),
                "compressors": compressor,
                **fill,
            }
        },
    )
    return [path]


WRITERS: Final[dict[str, tuple[str, Writer]]] = {
    "geotiff": (".tif", write_geotiff),
    "envi": (".hdr", write_envi),
    "zarr": (".zarr", write_zarr),
    "npy": (".npy", write_npy),
}
"""Format to its suffix and its writer."""


def publish(tile: Tile, path: Path, writer: Writer) -> None:
    """Write beside `path`, flush to the disk, then rename: `path` is whole or as it was.

    Of a format of several parts, the one that readers open vanishes first and comes back last.

    Args:
        tile: What to write.
        path: Where, with the suffix of the format; its folder must exist.
        writer: How.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as scratch:
        parts = writer(tile, Path(scratch) / path.name)
        for part in parts:
            _flush(part)
        if path.exists() and (len(parts) > 1 or path.is_dir()):
            path.rename(Path(scratch) / "replaced")
        for part in parts:
            part.replace(path.parent / part.name)


def _flush(part: Path) -> None:
    """Have the disk hold a file, or a folder with all in it, before it gets its name."""
    for path in [*part.rglob("*"), part] if part.is_dir() else [part]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _crs(path: Path, georeference: Georeference) -> Any:
    """A rasterio CRS, or None where the text is none: the tags keep the text, no tile is lost.

    The text came with the tile. Of text that is neither a number nor WKT, GDAL opens the file or
    the URL of that name.
    """
    crs, text = import_for(path, "rasterio.crs").CRS, georeference.crs
    try:
        return crs.from_user_input(text) if _AUTHORITY.fullmatch(text) else crs.from_wkt(text)
    except (import_for(path, "rasterio.errors").CRSError, ValueError):
        return None


def _is_north_up(georeference: Georeference) -> bool:
    a, b, _, d, e, _ = georeference.transform
    return b == d == 0 and a > 0 > e


def _envi_place(path: Path, georeference: Georeference) -> dict[str, str]:
    """Put a place into ENVI's words; other than north-up has none and stays in the tags."""
    if not _is_north_up(georeference):
        return {}
    a, _, c, _, e, f = georeference.transform
    place = {"map info": f"{{Arbitrary, 1, 1, {c!r}, {f!r}, {a!r}, {-e!r}}}"}
    if crs := _crs(path, georeference):
        place["coordinate system string"] = f"{{{crs.to_wkt()}}}"
    return place
