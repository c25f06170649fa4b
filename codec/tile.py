"""The tile: what an instrument hands over, and what the ground gives back."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileError

Samples: TypeAlias = NDArray[Any]
"""Samples [DN], shape (bands, rows, cols), one of `SAMPLE_DTYPES`."""

SAMPLE_DTYPES: Final = ("int16", "uint16", "float32")
"""Sample types a tile may have; the position in this tuple is its code on the wire."""

MAX_BANDS: Final = 4096
MAX_EDGE_PX: Final = 65_536
"""Bounds on a tile, so that a hostile header cannot ask for more memory than a frame may use."""

FIRST_UTC_S: Final = -62_135_596_800.0
LAST_UTC_S: Final = 253_402_300_799.0
"""Years 1 to 9999, what dates in files can say; nanoseconds by mistake are far outside."""

MAX_CRS_BYTES: Final = 65_536
"""Of a CRS's text: no decoder takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Where the tile lies on the ground.

    Attributes:
        crs: Authority code ("EPSG:32632") where there is one, else WKT.
        transform: Affine (a, b, c, d, e, f), pixel (col, row) to CRS units:
            x = a·col + b·row + c, y = d·col + e·row + f.

    Raises:
        TileError: If they are not what they are called.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def __post_init__(self) -> None:
        _settle(self)
        if len(self.crs) > MAX_CRS_BYTES:
            raise TileError(f"crs must be at most {MAX_CRS_BYTES} bytes, got {len(self.crs)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TileInfo:
    """Everything about a tile but its samples and their shape.

    Attributes:
        sensor: Name of the instrument.
        scene: Name of the acquisition the tile is part of.
        tile_row: Position of the tile in the scene, along track, from 0.
        tile_col: Position of the tile in the scene, across track, from 0.
        sequence: The instrument's count of tiles, 64 bits.
        start_utc_s: Time of the first line [s since 1970-01-01 UTC]; 0: not known.
        reflectance_scale: Sample value of reflectance 1.0 [DN].
        nodata: Fill value [DN], or None where there is none (floats: NaN is always fill).
        wavelengths_nm: Band centers [nm] in band order, or empty where unknown.
        fwhm_nm: Band widths, full at half maximum [nm], in band order, or empty where unknown.
        georeference: Place of the tile, or None where unknown.

    Raises:
        TileError: If a value is of another type or out of range.
    """

    sensor: str = ""
    scene: str = ""
    tile_row: int = 0
    tile_col: int = 0
    sequence: int = 0
    start_utc_s: float = 0.0
    reflectance_scale: float = 10_000.0
    nodata: float | None = None
    wavelengths_nm: tuple[float, ...] = ()
    fwhm_nm: tuple[float, ...] = ()
    georeference: Georeference | None = None

    def __post_init__(self) -> None:
        _settle(self)
        if not 1e-6 <= self.reflectance_scale <= 1e12:
            raise TileError(
                f"reflectance_scale must be in [1e-6, 1e12], got {self.reflectance_scale}"
            )
        if not FIRST_UTC_S <= self.start_utc_s <= LAST_UTC_S:
            raise TileError(f"start_utc_s must be in years 1 to 9999, got {self.start_utc_s} s")
        for name, limit in (("tile_row", 2**32), ("tile_col", 2**32), ("sequence", 2**64)):
            if not 0 <= (value := getattr(self, name)) < limit:
                raise TileError(f"{name} must be in [0, {limit}), got {value}")
        # Frames carry multiples of 0.01 nm; what rounds to zero would not come back.
        for name in ("wavelengths_nm", "fwhm_nm"):
            if not all(0.01 <= value <= 999_999 for value in getattr(self, name)):
                raise TileError(f"{name} must be in [0.01, 999999]")

    @property
    def tile_id(self) -> bytes:
        """Eight bytes that name the tile in every frame: the same tile, the same name."""
        identity = (self.sensor, self.scene, self.tile_row, self.tile_col, self.sequence)
        return blake2b(repr(identity).encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """Samples of one tile, with what is known about them.

    Attributes:
        samples: Shape (bands, rows, cols), one of `SAMPLE_DTYPES`; may be a read-only view.
        info: Everything else.

    Raises:
        TileError: If shape, type, fill value or wavelengths do not fit each other.
    """

    samples: Samples
    info: TileInfo

    def __post_init__(self) -> None:
        samples, info = self.samples, self.info
        if samples.dtype.name not in SAMPLE_DTYPES:
            raise TileError(f"samples must be one of {SAMPLE_DTYPES}, got {samples.dtype}")
        if samples.ndim != 3 or 0 in samples.shape:
            raise TileError(f"samples must be (bands, rows, cols), none zero, got {samples.shape}")
        if samples.shape[0] > MAX_BANDS or max(samples.shape[1:]) > MAX_EDGE_PX:
            raise TileError(f"{samples.shape} is above {MAX_BANDS} bands or {MAX_EDGE_PX} px")
        for name in ("wavelengths", "fwhm"):
            if (count := len(getattr(info, f"{name}_nm"))) not in (0, samples.shape[0]):
                raise TileError(f"{count} {name}, {samples.shape[0]} bands")
        check_nodata(samples.dtype, info.nodata)

    def valid(self) -> NDArray[np.bool_]:
        """Mark the samples that were measured.

        Returns:
            Shape (bands, rows, cols), new: False where the sample is fill, NaN or infinite.
        """
        valid: NDArray[np.bool_]
        if self.samples.dtype.kind == "f":
            valid = np.isfinite(self.samples)
            if self.info.nodata is not None and not math.isnan(self.info.nodata):
                valid &= self.samples != np.float32(self.info.nodata)
            return valid
        if self.info.nodata is None:
            return np.ones(self.samples.shape, dtype=np.bool_)
        valid = self.samples != self.samples.dtype.type(self.info.nodata)
        return valid


def check_nodata(dtype: np.dtype[Any], nodata: float | None) -> None:
    """Check that samples of a type can hold the fill value.

    Raises:
        TileError: If they cannot.
    """
    if nodata is None:
        return
    if dtype.kind == "f":
        fits = not math.isfinite(nodata) or abs(nodata) <= float(np.finfo(dtype).max)
    else:
        limits = np.iinfo(dtype)
        fits = limits.min <= nodata <= limits.max and nodata == int(nodata)
    if not fits:
        raise TileError(f"nodata {nodata} is not a value of {dtype}")


def fill_value(dtype: np.dtype[Any], nodata: float | None) -> float:
    """The value that stands for a missing sample in a restored tile.

    Integers without a fill value of their own take their type's lowest value.
    """
    if nodata is not None:
        return nodata
    return math.nan if dtype.kind == "f" else float(np.iinfo(dtype).min)


def _settle(facts: Georeference | TileInfo) -> None:
    """Give each field the type it is said to have: NumPy's numbers and texts would not travel."""
    for field in fields(facts):
        settled, meant = _KINDS[field.name]
        value = getattr(facts, field.name)
        try:
            object.__setattr__(facts, field.name, settled(value))
        except (TypeError, ValueError, OverflowError):
            raise TileError(f"{field.name} must be {meant}, got {reprlib.repr(value)}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _count(value: Any) -> int:
    return int(operator.index(value))


def _number(value: Any) -> float:
    return float(+value)  # text has no sign


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _six(values: Any) -> tuple[float, ...]:
    numbers = _numbers(values)
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise ValueError
    return numbers


def _place(value: Any) -> Georeference | None:
    if not isinstance(value, Georeference | None):
        raise TypeError
    return value


_KINDS: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    **dict.fromkeys(("sensor", "scene", "crs"), (_text, "text")),
    **dict.fromkeys(("tile_row", "tile_col", "sequence"), (_count, "a whole number")),
    **dict.fromkeys(("start_utc_s", "reflectance_scale"), (_number, "a number")),
    **dict.fromkeys(("wavelengths_nm", "fwhm_nm"), (_numbers, "numbers")),
    "nodata": (lambda value: None if value is None else _number(value), "a number or None"),
    "transform": (_six, "six finite numbers"),
    "georeference": (_place, "a Georeference or None"),
}
"""What makes a field's value of one that stands for it, and what that may be."""
