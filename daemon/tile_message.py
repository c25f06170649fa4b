"""The tile message: how an instrument hands a tile to the daemon.

Three parts of one ZeroMQ message: topic, header, samples. The header is a MessagePack map; the
samples are raw. `docs/wire-format.md` has every byte. Nothing is allocated for a message before
its header has been checked, and the samples are never copied: the tile is a view of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeAlias

import msgpack
import numpy as np

from codec.errors import TileError
from codec.tile import MAX_BANDS, MAX_EDGE_PX, SAMPLE_DTYPES, Georeference, Tile, TileInfo
from daemon.errors import (
    MessageFieldError,
    MessageSizeError,
    MessageTruncatedError,
    MessageVersionError,
)

Part: TypeAlias = bytes | memoryview
"""One part of a multipart message."""

VERSION: Final = 1
TOPIC: Final = b"tile"

MAX_TOPIC_BYTES: Final = 64
MAX_NAME_CHARS: Final = 256
MAX_CRS_CHARS: Final = 16_384
"""A compound CRS in WKT 2 is about 6,000 characters."""
MAX_HEADER_BYTES: Final = 65_536
"""4096 wavelengths of 9 bytes and the longest CRS fit, or 2,700 wavelengths and widths with it."""
MAX_FIELDS: Final = 64

INTERLEAVES: Final = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}
"""Name to the order in which (bands, rows, cols) are stored: by band, by line, by pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLimits:
    """The largest tile the daemon takes.

    Attributes:
        max_bands: Bands.
        max_rows: Lines [px].
        max_cols: Pixels of a line [px].
        max_bytes: Samples [bytes].
    """

    max_bands: int = MAX_BANDS
    max_rows: int = MAX_EDGE_PX
    max_cols: int = MAX_EDGE_PX
    max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (value := getattr(self, name)) <= 0:
                raise MessageSizeError(f"{name} must be positive, got {value}")


class TileMessage:
    """The two directions, side by side."""

    @staticmethod
    def pack(tile: Tile, interleave: str = "bsq", *, topic: bytes = TOPIC) -> list[Part]:
        """Put a tile into the parts of a message.

        Args:
            tile: What to send.
            interleave: One of `INTERLEAVES`.
            topic: What subscribers filter by.

        Returns:
            Topic, header, samples; the samples are a view of the tile's if their order allows.

        Raises:
            MessageFieldError: If a receiver would refuse the header.
        """
        info, place = tile.info, tile.info.georeference
        header = {
            "version": VERSION,
            "sensor": info.sensor,
            "scene": info.scene,
            "tile_row": info.tile_row,
            "tile_col": info.tile_col,
            "sequence": info.sequence,
            "dtype": tile.samples.dtype.name,
            "shape": list(tile.samples.shape),
            "interleave": interleave,
            "nodata": info.nodata,
            "start_utc_s": info.start_utc_s,
            "reflectance_scale": info.reflectance_scale,
            "wavelengths_nm": list(info.wavelengths_nm),
            "georeference": place and {"crs": place.crs, "transform": list(place.transform)},
        }
        if info.fwhm_nm:  # else the header is as builds read it that know of no widths
            header["fwhm_nm"] = list(info.fwhm_nm)
        _check_fields(header)
        ordered = tile.samples.transpose(INTERLEAVES[interleave])
        samples = np.ascontiguousarray(ordered, dtype=tile.samples.dtype.newbyteorder("<"))
        return [topic, bytes(msgpack.packb(header)), samples.reshape(-1).view(np.uint8).data]

    @staticmethod
    def unpack(parts: Sequence[Part], limits: TileLimits) -> Tile:
        """Take the parts of a message for a tile.

        Args:
            parts: Topic, header, samples.
            limits: The largest tile to take.

        Returns:
            A tile whose samples are a read-only view of the third part, whatever the interleave.

        Raises:
            MessageTruncatedError: If parts or bytes are missing.
            MessageVersionError: If a later build wrote it.
            MessageFieldError: If a field is missing, unknown, of another type or out of range.
            MessageSizeError: If it is above a limit, or has more samples than its shape.
        """
        if len(parts) < 3:
            raise MessageTruncatedError(f"{len(parts)} parts, a tile has 3")
        if len(parts) > 3:
            raise MessageSizeError(f"{len(parts)} parts, a tile has 3")
        topic, raw_header, raw_samples = (memoryview(part).cast("B") for part in parts)
        if topic.nbytes > MAX_TOPIC_BYTES:
            raise MessageSizeError(f"topic of {topic.nbytes} bytes, at most {MAX_TOPIC_BYTES}")
        header = _unpack_header(raw_header)
        shape: tuple[int, int, int] = tuple(header["shape"])
        for name, size, limit in zip(
            ("bands", "rows", "cols"),
            shape,
            (limits.max_bands, limits.max_rows, limits.max_cols),
            strict=True,
        ):
            if size > limit:
                raise MessageSizeError(f"{size} {name}, at most {limit}")
        dtype = np.dtype(header["dtype"]).newbyteorder("<")
        needed = prod(shape) * dtype.itemsize
        if needed > limits.max_bytes:
            raise MessageSizeError(f"samples of {needed} bytes, at most {limits.max_bytes}")
        if raw_samples.nbytes < needed:
            raise MessageTruncatedError(f"samples of {raw_samples.nbytes} bytes, need {needed}")
        if raw_samples.nbytes > needed:
            raise MessageSizeError(f"samples of {raw_samples.nbytes} bytes, need {needed}")

        order = INTERLEAVES[header["interleave"]]
        stored = np.frombuffer(raw_samples.toreadonly(), dtype).reshape([shape[a] for a in order])
        samples = stored.transpose([order.index(axis) for axis in range(3)])
        try:
            return Tile(samples=samples, info=_info(header))
        except TileError as error:
            raise MessageFieldError(str(error)) from error


def _info(header: dict[str, Any]) -> TileInfo:
    """Make the facts of a checked header; numbers may have come as integers."""
    georeference = None
    if header["georeference"] is not None:
        a, b, c, d, e, f = map(float, header["georeference"]["transform"])
        georeference = Georeference(crs=header["georeference"]["crs"], transform=(a, b, c, d, e, f))
    names = ("sensor", "scene", "tile_row", "tile_col", "sequence")
    return TileInfo(
        **{name: header[name] for name in names},
        start_utc_s=float(header["start_utc_s"]),
        reflectance_scale=float(header["reflectance_scale"]),
        nodata=None if header["nodata"] is None else float(header["nodata"]),
        wavelengths_nm=tuple(map(float, header["wavelengths_nm"])),
        fwhm_nm=tuple(map(float, header.get("fwhm_nm", ()))),
        georeference=georeference,
    )


def _unpack_header(raw: memoryview) -> dict[str, Any]:
    """Read and check the header, version first."""
    if raw.nbytes > MAX_HEADER_BYTES:
        raise MessageSizeError(f"header of {raw.nbytes} bytes, at most {MAX_HEADER_BYTES}")
    # Without limits of their own, nested arrays of 65,536 each would take half a gigabyte.
    # Nothing is narrower than that, so that a later version is told by its number.
    unpacker = msgpack.Unpacker(
        max_buffer_size=MAX_HEADER_BYTES, max_array_len=MAX_BANDS, max_map_len=MAX_FIELDS
    )
    unpacker.feed(raw)
    try:
        header = unpacker.unpack()
    except msgpack.OutOfData as error:
        raise MessageTruncatedError(f"header ends after {raw.nbytes} bytes") from error
    except (msgpack.UnpackException, ValueError) as error:  # bad UTF-8 is a ValueError
        raise MessageFieldError(f"header is not MessagePack: {error}") from error
    if not isinstance(header, dict):
        raise MessageFieldError(f"header is a {type(header).__name__}, not a map")
    version: object = header.get("version")
    if isinstance(version, int) and version > VERSION:
        raise MessageVersionError(f"message version {version}, this build reads {VERSION}")
    if unpacker.tell() != raw.nbytes:
        raise MessageFieldError(f"{raw.nbytes - unpacker.tell()} bytes follow the header's map")
    _check_fields(header)
    return header


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_name(value: object) -> bool:
    """A line of text: names go into log lines and file names."""
    return isinstance(value, str) and len(value) <= MAX_NAME_CHARS and value.isprintable()


def _is_list(value: object, check: Callable[[object], bool], length: int | None = None) -> bool:
    right = isinstance(value, list) and length in (None, len(value))
    return right and all(map(check, value))  # type: ignore[call-overload]  # it is a list


def _is_place(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"crs", "transform"}
        and isinstance(value["crs"], str)
        and len(value["crs"]) <= MAX_CRS_CHARS
        and _is_list(value["transform"], _is_number, 6)
    )


def _is_size(value: object) -> bool:
    return _is_int(value) and 0 < value <= MAX_EDGE_PX  # type: ignore[operator]  # it is an int


_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "version": lambda v: _is_int(v) and v == VERSION,
    "sensor": _is_name,
    "scene": _is_name,
    "tile_row": _is_int,
    "tile_col": _is_int,
    "sequence": _is_int,
    "dtype": lambda v: v in SAMPLE_DTYPES,
    "shape": lambda v: _is_list(v, _is_size, 3),
    "interleave": lambda v: isinstance(v, str) and v in INTERLEAVES,
    "nodata": lambda v: v is None or _is_number(v),
    "start_utc_s": _is_number,
    "reflectance_scale": _is_number,
    "wavelengths_nm": lambda v: _is_list(v, _is_number),
    "georeference": _is_place,
    "fwhm_nm": lambda v: _is_list(v, _is_number),
}
"""Types; ranges are `TileInfo`'s own."""

_OPTIONAL: Final = frozenset({"fwhm_nm"})


def _check_fields(header: dict[str, Any]) -> None:
    """Refuse a header with a field too many, too few, or of another type.

    Raises:
        MessageFieldError: Naming the fields.
    """
    if odd := (header.keys() ^ _CHECKS.keys()) - (_OPTIONAL - header.keys()):
        names = ", ".join(sorted(map(str, odd)))
        raise MessageFieldError(f"fields missing or unknown: {names[:200]}")
    for name, value in header.items():
        if not _CHECKS[name](value):
            raise MessageFieldError(f"{name} cannot be {str(value)[:80]!r}")
