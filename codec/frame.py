"""Frames: the encoded patch, and the tile's side information it needs.

    version u8 │ kind u8 │ header length u16 │ header (MessagePack array) │ payload │ CRC32C u32

Integers are big-endian. Every field is checked when a frame is read; nothing is allocated on the
word of a header. `docs/wire-format.md` has the fields byte by byte.
"""

from __future__ import annotations

import reprlib
import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Final

import google_crc32c
import msgpack
import numpy as np
from numpy.typing import NDArray

from codec import golomb, wavelengths
from codec.errors import (
    BitstreamError,
    ChecksumError,
    FrameFieldError,
    FrameVersionError,
    TileError,
    TruncatedError,
)
from codec.patch_grid import PatchGrid
from codec.tile import (
    MAX_BANDS,
    MAX_CRS_BYTES,
    MAX_EDGE_PX,
    SAMPLE_DTYPES,
    Georeference,
    TileInfo,
    check_nodata,
)

VERSION: Final = 5
QUICK_VERSION: Final = 6
"""Of patch frames whose symbols are coded quickly: a ground that knows only 5 refuses them."""
_LEAD: Final = struct.Struct(">BBH")
_CRC: Final = struct.Struct(">I")

MODEL_NAME_BYTES: Final = 8
TILE_ID_BYTES: Final = 8
MAX_PATCH_PX: Final = 256
"""Bounds what one patch may ask a decoder to hold: a gigabyte at `MAX_BANDS`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideFrame:
    """What a tile's patches share.

    Attributes:
        model: First eight bytes of the digest of the model that coded the tile.
        info: Everything about the tile but its samples.
        dtype: Sample type, one of `SAMPLE_DTYPES`.
        shape: (bands, rows, cols) of the tile.
        patch_px: Edge of a patch [px].
        valid_bands: Bands with any valid sample, shape (bands,).
        step: Quantizer step: 10⁻⁴ reflectance (KLT), or latent units (min–max).
        levels: Level of each component [1/8 octave]; empty for min–max.
        payload: The conditioner's side information.
    """

    KIND: ClassVar[int] = 0

    model: bytes
    info: TileInfo
    dtype: str
    shape: tuple[int, int, int]
    patch_px: int
    valid_bands: NDArray[np.bool_]
    step: float
    levels: tuple[int, ...]
    payload: bytes

    def __post_init__(self) -> None:
        bands, rows, cols = self.shape
        _require(len(self.model) == MODEL_NAME_BYTES, "model name", self.model)
        _require(self.dtype in SAMPLE_DTYPES, "sample type", self.dtype)
        _require(0 < bands <= MAX_BANDS, "band count", bands)
        _require(0 < rows <= MAX_EDGE_PX and 0 < cols <= MAX_EDGE_PX, "tile shape", self.shape)
        _require(self.patch_px in range(8, MAX_PATCH_PX + 1, 8), "patch_px", self.patch_px)
        _require(self.valid_bands.shape == (bands,), "valid bands", self.valid_bands.shape)
        _require(0 < self.step < 1e9, "step", self.step)
        check_nodata(np.dtype(self.dtype), self.info.nodata)
        coded = int(self.valid_bands.sum())
        _require(len(self.levels) <= coded, "level count", len(self.levels))
        _require(all(-128 <= level <= 255 for level in self.levels), "levels", self.levels)
        for name in ("wavelengths_nm", "fwhm_nm"):
            count = len(getattr(self.info, name))
            _require(count in (0, bands), f"number of {name}", count)

    @property
    def tile_id(self) -> bytes:
        """Eight bytes that name the tile."""
        return self.info.tile_id

    @property
    def grid(self) -> PatchGrid:
        """Where the tile's patches sit."""
        return PatchGrid(tile_rows=self.shape[1], tile_cols=self.shape[2], patch_px=self.patch_px)

    def pack(self) -> bytes:
        """Return the frame's bytes."""
        info, geo = self.info, self.info.georeference
        header = [
            self.model,
            *(info.sensor, info.scene, info.tile_row, info.tile_col, info.sequence),
            *(_number(info.start_utc_s), _number(info.reflectance_scale)),
            None if info.nodata is None else _number(info.nodata),
            wavelengths.pack(info.wavelengths_nm),
            None if geo is None else [_pack_text(geo.crs), *map(_number, geo.transform)],
            *(SAMPLE_DTYPES.index(self.dtype), list(self.shape), self.patch_px),
            None if self.valid_bands.all() else _runs(self.valid_bands),
            *(_number(self.step), len(self.levels)),
            golomb.pack(_falls(self.levels)),
        ]
        if info.fwhm_nm:  # else the frame is as builds made and read it that know of no widths
            header.append(wavelengths.pack_list(info.fwhm_nm))
        return _pack(self.KIND, header, self.payload)

    @classmethod
    def _from_fields(cls, fields: list[Any], payload: bytes) -> SideFrame:
        known = len(_SIDE_TYPES)
        fields, (widths, *_) = (
            _typed(fields[:known], _SIDE_TYPES),
            _typed(fields[known:] or [None], ((bytes, _NONE),)),
        )
        model, sensor, scene, tile_row, tile_col, sequence, start, scale, nodata = fields[:9]
        centers, geo, dtype, shape, patch_px, valid_bands, step, components, levels = fields[9:]
        bands = _typed(shape, (int, int, int))[0]
        _require(0 < bands <= MAX_BANDS, "band count", bands)
        _require(0 <= dtype < len(SAMPLE_DTYPES), "sample type", dtype)
        _require(0 <= components <= bands, "component count", components)
        if geo is not None:
            crs, *transform = _typed(geo, ((str, bytes), *(_NUMBER,) * 6))
            geo = Georeference(crs=_unpack_text(crs), transform=tuple(transform))
        return cls(
            model=model,
            info=TileInfo(
                sensor=sensor,
                scene=scene,
                tile_row=tile_row,
                tile_col=tile_col,
                sequence=sequence,
                start_utc_s=start,
                reflectance_scale=scale,
                nodata=nodata,
                wavelengths_nm=wavelengths.unpack(centers, bands),
                fwhm_nm=wavelengths.unpack(widths, bands),
                georeference=geo,
            ),
            dtype=SAMPLE_DTYPES[dtype],
            shape=tuple(shape),
            patch_px=patch_px,
            valid_bands=_unpack_runs(valid_bands, bands),
            step=float(step),
            levels=_levels(golomb.unpack(levels, components)),
            payload=payload,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchFrame:
    """One encoded patch; decodes alone given its tile's `SideFrame`.

    Attributes:
        model: As in the side frame.
        tile_id: Names the tile.
        patch_row: Position in the tile's grid.
        patch_col: Position in the tile's grid.
        step_offset: How much coarser the step is than the tile's [1/8 octave].
        mask: Which samples are valid, see `codec.masks`.
        payload: Range-coded scales and symbols.
        quick: Whether `codec.quick_coder` coded them.
    """

    KIND: ClassVar[int] = 1

    model: bytes
    tile_id: bytes
    patch_row: int
    patch_col: int
    step_offset: int
    mask: bytes
    payload: bytes
    quick: bool = False

    def __post_init__(self) -> None:
        _require(len(self.model) == MODEL_NAME_BYTES, "model name", self.model)
        _require(len(self.tile_id) == TILE_ID_BYTES, "tile id", self.tile_id)
        for name in ("patch_row", "patch_col"):
            _require(0 <= (value := getattr(self, name)) < MAX_EDGE_PX, name, value)
        _require(-128 <= self.step_offset <= 127, "step_offset", self.step_offset)

    def pack(self) -> bytes:
        """Return the frame's bytes."""
        header = [self.model, self.tile_id, self.patch_row, self.patch_col, self.step_offset]
        mask: bytes | int = self.mask
        payload = self.payload
        if len(self.mask) > _HEADER_MASK_BYTES:
            mask, payload = len(self.mask), self.mask + payload
        version = QUICK_VERSION if self.quick else VERSION
        return _pack(self.KIND, [*header, mask], payload, version)

    @classmethod
    def _from_fields(cls, fields: list[Any], payload: bytes, *, quick: bool) -> PatchFrame:
        model, tile_id, row, col, step_offset, mask = _typed(fields, _PATCH_TYPES)
        if isinstance(length := mask, int):
            _require(0 <= length <= len(payload), "mask length", length)
            mask, payload = payload[:length], payload[length:]
        return cls(
            model=model,
            tile_id=tile_id,
            patch_row=row,
            patch_col=col,
            step_offset=step_offset,
            mask=mask,
            payload=payload,
            quick=quick,
        )


Frame = SideFrame | PatchFrame

_NUMBER: Final = (int, float)
_NONE: Final = type(None)
_SIDE_TYPES: Final = (
    *(bytes, str, str, int, int, int, _NUMBER, _NUMBER, (int, float, _NONE)),
    *((int, bytes, _NONE), (list, _NONE), int, list, int, (list, _NONE)),
    *(_NUMBER, int, bytes),
)
_PATCH_TYPES: Final = (bytes, bytes, int, int, int, (bytes, int))

_HEADER_MASK_BYTES: Final = 0x8000
"""A longer mask goes in front of the payload. A header has room for twice that, but single samples
missing anywhere in a patch of 224 bands take up to 460 kB."""


def parse(raw: bytes) -> Frame:
    """Read one frame, and nothing but one frame.

    Raises:
        TruncatedError: If bytes are missing.
        ChecksumError: If the CRC32C does not match.
        FrameVersionError: If it is of another version.
        FrameFieldError: If a field is missing, of another type or out of range.
    """
    smallest = _LEAD.size + _CRC.size
    if len(raw) < smallest:
        raise TruncatedError(smallest, len(raw))
    version, kind, header_bytes = _LEAD.unpack_from(raw)
    if version not in (VERSION, QUICK_VERSION):
        raise FrameVersionError(
            f"frame version {version}, this build reads {VERSION} and {QUICK_VERSION}"
        )
    if len(raw) < smallest + header_bytes:
        raise TruncatedError(smallest + header_bytes, len(raw))
    body = raw[: -_CRC.size]
    if _CRC.unpack(raw[-_CRC.size :])[0] != google_crc32c.value(body):
        raise ChecksumError(f"the CRC32C of a frame of {len(raw)} bytes does not match")
    fields = _unpack_header(body[_LEAD.size : _LEAD.size + header_bytes])
    payload = body[_LEAD.size + header_bytes :]
    try:
        if kind == SideFrame.KIND and version == VERSION:
            return SideFrame._from_fields(fields, payload)
        if kind == PatchFrame.KIND:
            return PatchFrame._from_fields(fields, payload, quick=version == QUICK_VERSION)
    except TileError as error:
        raise FrameFieldError(str(error)) from None
    raise FrameFieldError(f"unknown kind of frame {kind}, version {version}")


def _pack(kind: int, header: list[Any], payload: bytes, version: int = VERSION) -> bytes:
    try:
        packed: bytes = msgpack.packb(header)
    except UnicodeEncodeError as error:  # a name from a file system need not be text
        raise TileError(f"the tile's description is no text: {error}") from None
    if len(packed) > 0xFFFF:
        raise TileError(f"the tile's description takes {len(packed)} bytes, 65535 fit in a frame")
    body = _LEAD.pack(version, kind, len(packed)) + packed + payload
    return body + _CRC.pack(google_crc32c.value(body))


def _unpack_header(packed: bytes) -> list[Any]:
    try:
        # The limits that msgpack derives from the length of its input bound every allocation.
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameFieldError(f"the header is no MessagePack: {error}") from None
    if not isinstance(fields, list):
        raise FrameFieldError(f"the header is a {type(fields).__name__}, not an array")
    return fields


def _typed(values: list[Any], types: tuple[Any, ...]) -> list[Any]:
    """Return `values` if there are as many as `types` and each has its type; bool is no int."""
    fits = len(values) == len(types) and all(
        isinstance(v, t) and not isinstance(v, bool) for v, t in zip(values, types, strict=True)
    )
    if not fits:
        raise FrameFieldError(
            f"{len(types)} fields of given types expected, got {reprlib.repr(values)}"
        )
    return values


def _require(condition: bool, name: str, value: object) -> None:
    if not condition:
        raise FrameFieldError(f"{name} is out of range: {value!r:.100}")


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of True, False, True, …; the first may be 0, no other is."""
    edges = np.flatnonzero(np.diff(mask, prepend=True, append=not mask[-1]))
    lengths: list[int] = np.diff(edges, prepend=0).tolist()
    return lengths


def _unpack_runs(runs: list[Any] | None, count: int) -> NDArray[np.bool_]:
    if runs is None:
        return np.ones(count, dtype=np.bool_)
    _typed(runs, (int,) * len(runs))
    whole = sum(runs) == count and min(runs) >= 0 and 0 not in runs[1:]
    _require(whole, "runs of valid bands", runs)
    return np.repeat(np.arange(len(runs)) % 2 == 0, runs)


def _number(value: float) -> float:
    """The same number as an integer where that is shorter."""
    return int(value) if abs(value) < 2**32 and value == int(value) else value


def _falls(levels: tuple[int, ...]) -> list[int]:
    """Levels descend: the first, then how much less each is than the one before."""
    return [before - level for before, level in zip((0, *levels), levels, strict=False)]


def _levels(falls: list[int]) -> tuple[int, ...]:
    return tuple(-fallen for fallen in accumulate(falls))


def _pack_text(text: str) -> str | bytes:
    """Deflate ASCII where that is shorter: a CRS may be a page of WKT."""
    if not text.isascii():
        return text
    deflated = zlib.compress(text.encode("ascii"), 9)
    return deflated if len(deflated) < len(text) else text


def _unpack_text(packed: str | bytes) -> str:
    if isinstance(packed, str):
        return packed
    try:
        return inflate(packed, MAX_CRS_BYTES).decode("ascii")
    except UnicodeDecodeError as error:
        raise FrameFieldError(f"the CRS is no ASCII text: {error}") from None


def inflate(packed: bytes, limit: int) -> bytes:
    """Inflate to at most `limit` bytes.

    Raises:
        BitstreamError: If the bytes are damaged or would grow beyond the limit.
    """
    inflater = zlib.decompressobj()
    try:
        raw: bytes = inflater.decompress(packed, limit + 1)
    except zlib.error as error:
        raise BitstreamError(f"deflated bytes are damaged: {error}") from None
    if len(raw) > limit or not inflater.eof or inflater.unused_data:
        raise BitstreamError(f"deflated bytes do not end within {limit} bytes")
    return raw
