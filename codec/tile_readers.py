"""One reader per file format: a path in, a tile out.

`codec.tile_files.read_tile` chooses among them and words their failures; use that.
"""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.crs import crs_text
from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.errors import TileFileError
from codec.mat_file import mat_arrays
from codec.tile import MAX_BANDS, MAX_EDGE_PX, Georeference, Tile
from codec.tile_memory import check_fits, memory_bytes
from codec.tile_tags import (
    as_samples,
    default_scale,
    from_tags,
    from_text_tags,
    import_for,
    named_fill,
    nanometers,
    usable_lengths,
    usable_nodata,
)

ENVI_TYPES: Final = {
    1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
"""ENVI's `data type` codes of real numbers. Source: ENVI Header Files, NV5 documentation."""

_ENVI_DATA_SUFFIXES: Final = ("", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".bin")
_ENVI_FIELD: Final = re.compile(r"^[ \t]*([^=\n;{}]+?)[ \t]*=[ \t]*(\{[^}]*\}?|[^\n]*)", re.M)
_MAX_TEXT_CHARS: Final = 1 << 24
"""Of a header; 4096 bands with name, center and width take some hundred thousand."""
_ZARR_CODECS: Final = {"", "zstd", "zlib", "gzip", "blosc", "lz4", "bz2", "lzma"}
"""Compressors of format 2; those of format 3, among which there is no other kind, have no id."""
_BAND_NAME: Final = re.compile(r"([\d.]+)\s*(nm|nanomet\w+|um|µm|micromet\w+)\b", re.I)
_ENMAP_NAME: Final = re.compile(
    r"(?P<scene>ENMAP\d*-.*?_(?P<start>\d{8}T\d{6})Z_.*?)-(SPECTRAL_IMAGE\w*|DATA)$", re.I
)
_TIFF_TYPE_BYTES: Final = {
    3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip


def read_geotiff(path: Path) -> Tile:
    """Read a GeoTIFF, ours, HySpecNet-11k's or anyone's; bands are the file's bands."""
    rasterio = import_for(path, "rasterio")
    _check_tiff_tags(path)
    with not_georeferenced_is_fine(rasterio), rasterio.open(path, driver="GTiff") as file:
        if file.count > MAX_BANDS or max(file.shape) > MAX_EDGE_PX:
            raise TileFileError(f"{path}: {file.count} bands of {file.shape} px are too many")
        check_fits(path, file.count * math.prod(file.shape) * np.dtype(file.dtypes[0]).itemsize)
        told = from_text_tags(file.tags())
        facts = _enmap_facts(path)
        samples = as_samples(file.read())
        facts["nodata"] = named_fill(file.nodata, samples.dtype, told)
        if wavelengths_nm := usable_lengths(_band_centers_nm(file), file.count):
            facts["wavelengths_nm"] = wavelengths_nm
        if fwhm_nm := usable_lengths(_band_widths_nm(file), file.count):
            facts["fwhm_nm"] = fwhm_nm
        if not file.transform.is_identity:
            crs = crs_text(file.crs) if file.crs else str(told.get("crs", ""))
            facts["georeference"] = Georeference(crs=crs, transform=tuple(file.transform)[:6])
        if facts.get("sensor") == "EnMAP":
            facts.setdefault("reflectance_scale", 10_000.0)
            facts["nodata"] = -32768.0 if facts["nodata"] is None else facts["nodata"]
            if file.count == len(ENMAP_WAVELENGTHS_NM):
                facts.setdefault("wavelengths_nm", ENMAP_WAVELENGTHS_NM)
        told.setdefault("reflectance_scale", _scale_of(set(file.scales), samples.dtype))
    told.setdefault("scene", path.stem)
    return Tile(samples=samples, info=from_tags(told, **facts))


def read_envi(path: Path) -> Tile:
    """Read an ENVI image by its header (`.hdr`)."""
    text = _text(path, errors="replace")
    if not text.lstrip("\ufeff").startswith("ENVI"):
        raise ValueError("its first line is not ENVI")
    fields = {" ".join(k.split()).lower(): v.strip() for k, v in _ENVI_FIELD.findall(text)}
    if broken := [k for k, v in fields.items() if v.startswith("{") and not v.endswith("}")]:
        raise ValueError(f"the braces of {broken[0]!r} are not closed")
    samples = as_samples(_envi_samples(envi_data_of(path), fields))

    told = from_text_tags({k.replace(" ", "_"): v for k, v in fields.items()})
    told.setdefault("sensor", fields.get("sensor type", ""))
    told.setdefault("scene", path.stem)
    told.setdefault("reflectance_scale", default_scale(samples.dtype))
    if "acquisition time" in fields and "start_utc_s" not in told:
        start = datetime.fromisoformat(fields["acquisition time"])
        told["start_utc_s"] = start.replace(tzinfo=start.tzinfo or UTC).timestamp()
    facts: dict[str, Any] = {}
    if "reflectance scale factor" in fields:
        facts["reflectance_scale"] = float(fields["reflectance scale factor"])
    if "data ignore value" in fields:
        facts["nodata"] = named_fill(float(fields["data ignore value"]), samples.dtype, told)
    if "wavelength" in fields:
        centers = [float(w) for w in _envi_list(fields["wavelength"])]
        unit = fields.get("wavelength units", "").strip()
        if unit.lower() in ("", "unknown"):  # widths are small numbers in any unit
            unit = "Micrometers" if all(center < 100 for center in centers) else "Nanometers"
        widths = [float(w) for w in _envi_list(fields.get("fwhm", ""))]
        for name, values in (("wavelengths_nm", centers), ("fwhm_nm", widths)):
            facts[name] = usable_lengths(nanometers(values, unit), samples.shape[0])
    if "map info" in fields:
        facts["georeference"] = _envi_georeference(path, fields, str(told.get("crs", "")))
    return Tile(samples=samples, info=from_tags(told, **facts))


def read_npz(path: Path) -> Tile:
    """Read a scene archive: `cube` and, where known, scale, sensor, wavelengths and fill."""
    # NumPy leaves the file open when the archive is broken, so it is opened here.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if "cube" not in archive.files:
            raise ValueError(f"it has no array named cube, only {archive.files}")
        # No more is unfolded than the archive's directory says.
        check_fits(path, sum(member.file_size for member in archive.zip.infolist()))
        return _tile_of_arrays(path, archive, archive["cube"])


def read_mat(path: Path) -> Tile:
    """Read the one image of a MATLAB file, (rows, cols, bands) as is the custom there.

    Scale, sensor, wavelengths and fill are taken from variables named as in the `.npz` scenes.
    """
    check_fits(path, path.stat().st_size)
    arrays = mat_arrays(path.read_bytes(), memory_bytes())
    images = [name for name, array in arrays.items() if array.ndim == 3]
    if len(images) != 1:
        raise ValueError(f"it has {len(images)} three-dimensional arrays {images}, not one")
    return _tile_of_arrays(path, arrays, np.moveaxis(arrays[images[0]], 2, 0))


def read_npy(path: Path) -> Tile:
    """Read an array (bands, rows, cols), with our `.json` beside it where there is one."""
    # A memory map of a truncated or lying file fails before anything is allocated.
    stored = np.lib.format.open_memmap(path, mode="r")
    check_fits(path, stored.nbytes)
    samples = as_samples(np.array(stored))
    beside = path.with_suffix(".json")
    told = json.loads(_text(beside)) if beside.is_file() else {}
    if not isinstance(told, dict):
        raise ValueError(f"{beside.name} does not hold an object")
    told.setdefault("scene", path.stem)
    told.setdefault("reflectance_scale", default_scale(samples.dtype))
    return Tile(samples=samples, info=from_tags(told, **_enmap_facts(path)))


def read_zarr(path: Path) -> Tile:
    """Read a zarr store that `write_tile` made."""
    zarr = import_for(path, "zarr")
    group = zarr.open_group(path, mode="r")
    array = group["samples"]
    # Before a chunk is touched: one of the codecs that zarr knows is pickle.
    codecs = {getattr(codec, "codec_id", "") for codec in (*array.filters, *array.compressors)}
    if array.dtype.kind not in "iuf" or not codecs <= _ZARR_CODECS:
        raise ValueError(f"its samples are {array.dtype}, coded by {sorted(codecs)}")
    check_fits(path, array.dtype.itemsize * max(array.size, math.prod(array.chunks)))
    if array.nchunks_initialized != array.nchunks:  # zarr would fill the holes without a word
        raise ValueError(f"{array.nchunks - array.nchunks_initialized} of its chunks are missing")
    return Tile(samples=as_samples(array[...]), info=from_tags(dict(group.attrs)))


@contextmanager
def not_georeferenced_is_fine(rasterio: Any) -> Iterator[None]:
    """Keep rasterio quiet about images without a place on the ground: laboratory scenes have none.

    Python's warning filters belong to the process; a thread that warns of the same thing at the
    same moment is silenced too, which does no harm.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def envi_data_of(header: Path) -> Path:
    """The data file of an ENVI header: the same name with another suffix, or with none.

    Raises:
        TileFileError: If there is none.
    """
    stem = header.with_suffix("")
    for suffix in _ENVI_DATA_SUFFIXES:
        for candidate in (stem.name + suffix, stem.name + suffix.upper()):
            if (data := header.with_name(candidate)).is_file():
                return data
    raise TileFileError(f"{header}: its data file {stem.name}[.img|.dat|…] is not there")


def _text(path: Path, errors: str = "strict") -> str:
    """The text of a header, which is no file of samples named by mistake.

    Raises:
        TileFileError: If it is far longer than any.
    """
    with path.open(encoding="utf-8", errors=errors) as file:
        text = file.read(_MAX_TEXT_CHARS + 1)
    if len(text) > _MAX_TEXT_CHARS:
        raise TileFileError(f"{path}: more than {_MAX_TEXT_CHARS} characters are no header")
    return text


def _check_tiff_tags(path: Path) -> None:
    """Refuse a TIFF whose tags reach past its end.

    Tags stand behind the samples, so a file cut near its end has all of these; GDAL then logs a
    warning and gives an image without place, fill value and wavelengths.

    Raises:
        ValueError: If the file is cut.

    Source: TIFF 6.0, section 2; BigTIFF as in libtiff's design note.
    """
    with path.open("rb") as file:
        order = {b"II": "<", b"MM": ">"}.get(file.read(2))
        version = struct.unpack(f"{order or '<'}H", file.read(2).ljust(2))[0]
        if order is None or version not in (42, 43):
            raise ValueError("it does not start as a TIFF does")
        big = version == 43
        start, count, entry = (
            order + layout for layout in (("4xQ", "Q", "HHQQ") if big else ("I", "H", "HHII"))
        )
        file.seek(*struct.unpack(start, file.read(struct.calcsize(start))))
        (entries,) = struct.unpack(count, file.read(struct.calcsize(count)))
        table = file.read(entries * struct.calcsize(entry))
        end = file.seek(0, 2)
    for _tag, kind, items, offset in struct.iter_unpack(entry, table):
        length = items * _TIFF_TYPE_BYTES.get(kind, 1)
        if length > (8 if big else 4) and offset + length > end:
            raise ValueError(f"a tag reaches to byte {offset + length}, the file has {end}")
    if len(table) < entries * struct.calcsize(entry):
        raise ValueError(f"its directory of {entries} tags is cut")


def _tile_of_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], cube: NDArray[Any]) -> Tile:
    """Put named arrays together; `cube` is (bands, rows, cols)."""
    samples = as_samples(np.ascontiguousarray(cube))

    def number(name: str) -> float | None:
        return float(np.ravel(arrays[name])[0]) if name in arrays else None

    tags: dict[str, Any] = {
        "scene": path.stem,
        "sensor": str(np.ravel(arrays["sensor"])[0]) if "sensor" in arrays else "",
        "reflectance_scale": number("reflectance_scale") or default_scale(samples.dtype),
        "nodata": usable_nodata(number("nodata"), samples.dtype),
    }
    for key, name in (("wavelength_nm", "wavelengths_nm"), ("fwhm_nm", "fwhm_nm")):
        if key in arrays:  # str() gives 418.24 for float32, float() 418.239990234375
            lengths = [float(str(length)) for length in np.ravel(arrays[key])]
            tags[name] = usable_lengths(lengths, samples.shape[0])
    return Tile(samples=samples, info=from_tags(tags))


def _enmap_facts(path: Path) -> dict[str, Any]:
    """What the name of an EnMAP or HySpecNet-11k file tells; nothing for other names.

    Source: file names of HySpecNet-11k, `<NAME>-SPECTRAL_IMAGE.TIF`, `<NAME>-DATA.npy`,
    where NAME holds the time of the acquisition.
    """
    if not (match := _ENMAP_NAME.match(path.stem)):
        return {}
    start = datetime.strptime(match["start"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return {"sensor": "EnMAP", "scene": match["scene"], "start_utc_s": start.timestamp()}


def _scale_of(scales: set[float], dtype: np.dtype[Any]) -> float:
    """Sample value of reflectance 1.0 from GDAL's `reflectance = scale · sample`."""
    scale = scales.pop() if len(scales) == 1 else 1.0
    return 1.0 / scale if scale not in (0.0, 1.0) else default_scale(dtype)


def _band_centers_nm(file: Any) -> list[float]:
    """Band centers [nm] of an open rasterio file, or none.

    They stand in band tags as GDAL's ENVI driver writes them (`wavelength`, `wavelength_units`),
    in GDAL's IMAGERY domain in micrometers, or in the band's description.
    """
    centers: list[float] = []
    for band, name in zip(file.indexes, file.descriptions, strict=True):
        tags, imagery = file.tags(band), file.tags(band, ns="IMAGERY")
        if "wavelength" in tags:
            unit = tags.get("wavelength_units", "")
            centers += nanometers([float(tags["wavelength"])], unit)
        elif "CENTRAL_WAVELENGTH_UM" in imagery:
            centers += nanometers([float(imagery["CENTRAL_WAVELENGTH_UM"])], "um")
        elif match := _BAND_NAME.search(name or ""):
            centers += nanometers([float(match[1])], match[2])
        else:
            return []
    return centers


def _band_widths_nm(file: Any) -> list[float]:
    """Band widths [nm] of an open rasterio file, from GDAL's IMAGERY domain, or none."""
    widths = [file.tags(band, ns="IMAGERY").get("FWHM_UM") for band in file.indexes]
    return nanometers([float(width) for width in widths if width is not None], "um")


def _envi_samples(data: Path, fields: Mapping[str, str]) -> NDArray[Any]:
    """Read the samples of an ENVI image, shape (bands, rows, cols)."""
    if missing := {"samples", "lines", "bands", "data type"} - fields.keys():
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    if fields.get("file compression", "0") != "0":
        raise ValueError("it is compressed; write it again without file compression")
    sizes = {"b": int(fields["bands"]), "r": int(fields["lines"]), "c": int(fields["samples"])}
    interleave = fields.get("interleave", "bsq").lower()
    axes = {"bsq": "brc", "bil": "rbc", "bip": "rcb"}.get(interleave)
    kind = ENVI_TYPES.get(int(fields["data type"]))
    if axes is None or kind is None or min(sizes.values()) < 1:
        raise ValueError(f"interleave {interleave}, data type {fields['data type']}, {sizes}")
    dtype = np.dtype((">" if fields.get("byte order", "0") == "1" else "<") + kind)
    offset = int(fields.get("header offset", "0"))
    needed = offset + sizes["b"] * sizes["r"] * sizes["c"] * dtype.itemsize
    if (found := data.stat().st_size) != needed:
        raise ValueError(f"{data.name} has {found} bytes, its header promises {needed}")
    check_fits(data, needed)
    stored = np.fromfile(data, dtype=dtype, offset=offset).reshape([sizes[a] for a in axes])
    return np.ascontiguousarray(stored.transpose([axes.index(a) for a in "brc"]))


def _envi_list(value: str) -> list[str]:
    return [item.strip() for item in value.strip("{} \n").split(",") if item.strip()]


def _envi_georeference(path: Path, fields: Mapping[str, str], crs: str) -> Georeference:
    """Read `map info`: name, pixel (col, row) from 1, its x and y, pixel width and height.

    Source: ENVI Header Files, "map info", NV5 documentation.
    """
    items = _envi_list(fields["map info"])
    col, row, x, y, width, height = (float(item) for item in items[1:7])
    if any(re.match(r"rotation\s*=(?!\s*[-+]?0*\.?0*$)", item, re.I) for item in items):
        raise ValueError("its map info is rotated, which is not supported; warp it north-up")
    if wkt := fields.get("coordinate system string", "").strip("{} \n"):
        crs = crs_text(import_for(path, "rasterio.crs").CRS.from_wkt(wkt))
    corner = (x - (col - 1) * width, y + (row - 1) * height)
    return Georeference(crs=crs, transform=(width, 0.0, corner[0], 0.0, -height, corner[1]))
