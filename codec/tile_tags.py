"""What a file says about its tile, in words every format can hold.

Formats have places of their own for some facts (fill value, place on the ground, wavelengths).
The others travel as *tags*: JSON values under the names of `TileInfo`'s fields, so that one rule
of quoting serves GeoTIFF tags, ENVI keys, zarr attributes and JSON files alike.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileFileError
from codec.tile import SAMPLE_DTYPES, Georeference, Samples, TileInfo

PREFIX: Final = "PRISMLINK_"
"""Marks our tags in files whose tags are shared with others."""

SAMPLE_TYPE: Final = "sample_type"
"""Attribute of samples: what they were before anybody computed with them."""

_TEXTS: Final = ("sensor", "scene")
_COUNTS: Final = ("tile_row", "tile_col", "sequence")
_NUMBERS: Final = ("start_utc_s", "reflectance_scale")
_NO_NODATA: Final = "no_nodata"
_LISTS: Final = ("wavelengths_nm", "fwhm_nm")


def import_for(path: Path, module: str) -> Any:
    """Import a library of the ground extra when a file first needs it.

    Raises:
        TileFileError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TileFileError(
            f"{path}: this format needs {module}; remedy: pip install prismlink[ground]"
        ) from error


def to_tags(info: TileInfo, *, everything: bool = False) -> dict[str, Any]:
    """Put a tile's facts into JSON values.

    Args:
        info: The facts.
        everything: Also those that GeoTIFF and ENVI keep in places of their own.

    Returns:
        Values by field name; what `from_tags` reads.
    """
    tags: dict[str, Any] = {name: getattr(info, name) for name in _TEXTS + _COUNTS + _NUMBERS}
    if everything:
        if info.nodata is not None:  # netCDF has no null
            tags["nodata"] = _nodata_tag(info.nodata)
        tags |= {name: list(getattr(info, name)) for name in _LISTS}
    if info.georeference is not None:
        tags["crs"] = info.georeference.crs
        tags["transform"] = list(info.georeference.transform)
    return tags


def from_tags(tags: Mapping[str, Any], **facts: Any) -> TileInfo:
    """Read `to_tags`'s values back.

    Args:
        tags: Values by field name; unknown names are ignored, missing ones take defaults.
        facts: Fields the format told in its own way; they win over the tags, because other
            software keeps its own format's fields true when it edits a file.

    Raises:
        ValueError, TypeError, TileError: If a tag does not hold what its name says.
    """
    told: dict[str, Any] = {name: str(tags[name]) for name in _TEXTS if name in tags}
    told |= {name: int(tags[name]) for name in _COUNTS if name in tags}
    told |= {name: float(tags[name]) for name in _NUMBERS if name in tags}
    if tags.get("nodata") is not None:
        told["nodata"] = float(tags["nodata"])
    told |= {name: tuple(float(v) for v in tags[name]) for name in _LISTS if name in tags}
    if "transform" in tags:
        a, b, c, d, e, f = (float(v) for v in tags["transform"])
        told["georeference"] = Georeference(
            crs=str(tags.get("crs", "")), transform=(a, b, c, d, e, f)
        )
    return TileInfo(**(told | facts))


def to_text_tags(info: TileInfo) -> dict[str, str]:
    """Put a tile's facts into one line of ASCII each.

    Braces would end a value of an ENVI header, so they are escaped as JSON allows.
    """
    return {
        PREFIX + name.upper(): json.dumps(value).replace("{", "\\u007b").replace("}", "\\u007d")
        for name, value in to_tags(info).items()
    }


def from_text_tags(texts: Mapping[str, str]) -> dict[str, Any]:
    """Pick our tags out of a file's; names are compared without case.

    Raises:
        ValueError: If a value is not JSON.
    """
    return {
        name.upper().removeprefix(PREFIX).lower(): json.loads(text)
        for name, text in texts.items()
        if name.upper().startswith(PREFIX)
    }


def default_scale(dtype: np.dtype[Any]) -> float:
    """Sample value of reflectance 1.0 where the file does not say.

    Reflectance products keep integers × 10⁴ (EnMAP, AVIRIS, PRISMA L2) and floats as they are.
    """
    return 1.0 if dtype.kind == "f" else 10_000.0


def as_samples(values: NDArray[Any]) -> Samples:
    """Bring an array to a sample type without changing a value.

    Args:
        values: Any real array.

    Returns:
        Shape as given, native byte order, one of `SAMPLE_DTYPES`; 64-bit floats are rounded to
        32 bits.

    Raises:
        ValueError: If the values are not numbers, or integers that 16 bits cannot hold.
    """
    if values.dtype.name in SAMPLE_DTYPES:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a fill value of −1.8e308 becomes −inf, which is fill
            return values.astype(np.float32)
    if values.dtype.kind not in "iu" or values.size == 0:
        raise ValueError(f"samples of type {values.dtype} and shape {values.shape} are not a tile")
    low, high = int(values.min()), int(values.max())
    for dtype in (np.int16, np.uint16):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return values.astype(dtype)
    raise ValueError(f"integers from {low} to {high} do not fit into 16 bits")


def usable_nodata(nodata: float | None, dtype: np.dtype[Any]) -> float | None:
    """A file's fill value if samples of `dtype` can hold it, else None: no sample is fill."""
    if nodata is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return float(np.float32(nodata))
    limits = np.iinfo(dtype)
    whole = math.isfinite(nodata) and nodata == int(nodata)
    return float(nodata) if whole and limits.min <= nodata <= limits.max else None


def declared_fill(info: TileInfo, dtype: np.dtype[Any]) -> tuple[float | None, dict[str, str]]:
    """What a file declares as fill, and the tag to write with it.

    NaN is fill in every tile of floats, which other software has to be told; the tag says that
    the tile itself names no value.
    """
    if dtype.kind == "f" and info.nodata is None:
        return math.nan, {f"{PREFIX}{_NO_NODATA.upper()}": "true"}
    return info.nodata, {}


def named_fill(
    declared: float | None, dtype: np.dtype[Any], told: Mapping[str, Any]
) -> float | None:
    """The fill value that a tile names, of what its file declares; `told` is `from_text_tags`'s."""
    if _NO_NODATA in told and declared is not None and math.isnan(declared):
        return None
    return usable_nodata(declared, dtype)


def usable_lengths(lengths_nm: Sequence[float], bands: int) -> tuple[float, ...]:
    """A file's band centers or widths [nm] if there is a sound one for every band, else none."""
    sound = len(lengths_nm) == bands and all(0.01 <= length < 1e6 for length in lengths_nm)
    return tuple(lengths_nm) if sound else ()


def nanometers(values: Sequence[float], unit: str) -> list[float]:
    """Bring band centers to [nm]; units other than lengths give an empty list.

    Without a unit, centers that are all below 100 are taken as micrometers: no optical sensor
    looks below 100 nm.
    """
    unit = unit.strip().lower()
    micro = unit.startswith("micro") or unit in ("um", "µm", "μm")
    if not unit or unit == "unknown":
        micro = all(value < 100 for value in values)
    elif not micro and unit not in ("nm", "nanometer", "nanometers", "nanometre", "nanometres"):
        return []
    # Rounded, so that 0.418 µm is 418 nm and not 417.99999999999994.
    return [round(value * 1000, 6) for value in values] if micro else list(values)


def is_north_up(georeference: Georeference) -> bool:
    """Whether columns run east and rows south: what formats without a whole transform can say."""
    a, b, _, d, e, _ = georeference.transform
    return b == d == 0 and a > 0 > e


def _nodata_tag(nodata: float) -> float | str:
    """JSON has no NaN; float("nan") reads the text."""
    return nodata if math.isfinite(nodata) else str(nodata)
