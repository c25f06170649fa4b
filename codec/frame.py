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
from typing import Any, ClassVar, Final

import google_crc32c
import msgpack
import numpy as np
from numpy.typing import NDArray

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
    MAX_EDGE_PX,
    SAMPLE_DTYPES,
    Georeference,
    TileInfo,
    check_nodata,
)

VERSION: Final = 1
_LEAD: Final = struct.Struct(">BBH")
_CRC: Final = struct.Struct(">I")

MODEL_NAME_BYTES: Final = 8
TILE_ID_BYTES: Final = 8
MAX_PATCH_PX: Final = 256
"""Bounds what one patch may ask a decoder to hold: a gigabyte at `MAX_BANDS`."""

_WAVELENGTH_UNIT_NM: Final = 0.01
"""Wavelengths travel rounded to 0.01 nm: a thousandth of a band's width."""


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
        wavelengths = len(self.info.wavelengths_nm)
        _require(wavelengths in (0, bands), "wavelength count", wavelengths)

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
            *(info.start_utc_s, info.reflectance_scale, info.nodata),
            _pack_wavelengths(info.wavelengths_nm),
            None if geo is None else [geo.crs, list(geo.transform)],
            *(SAMPLE_DTYPES.index(self.dtype), list(self.shape), self.patch_px),
            None if self.valid_bands.all() else np.packbits(self.valid_bands).tobytes(),
            *(self.step, list(self.levels)),
        ]
        return _pack(self.KIND, header, self.payload)

    @classmethod
    def _from_fields(cls, fields: list[Any], payload: bytes) -> SideFrame:
        fields = _typed(fields, _SIDE_TYPES)
        model, sensor, scene, tile_row, tile_col, sequence, start, scale, nodata = fields[:9]
        wavelengths, geo, dtype, shape, patch_px, valid_bands, step, levels = fields[9:]
        bands = _typed(shape, (int, int, int))[0]
        _require(0 < bands <= MAX_BANDS, "band count", bands)
        _require(0 <= dtype < len(SAMPLE_DTYPES), "sample type", dtype)
        _typed(levels, (int,) * len(levels))
        if geo is not None:
            crs, transform = _typed(geo, (str, list))
            numbers = _typed(transform, ((int, float),) * 6)
            geo = Georeference(crs=crs, transform=tuple(float(x) for x in numbers))  # type: ignore[arg-type]  # six of them
        return cls(
            model=model,
            info=TileInfo(
                sensor=sensor,
                scene=scene,
                tile_row=tile_row,
                tile_col=tile_col,
                sequence=sequence,
                start_utc_s=float(start),
                reflectance_scale=float(scale),
                nodata=None if nodata is None else float(nodata),
                wavelengths_nm=_unpack_wavelengths(wavelengths, bands),
                georeference=geo,
            ),
            dtype=SAMPLE_DTYPES[dtype],
            shape=tuple(shape),
            patch_px=patch_px,
            valid_bands=_unpack_bits(valid_bands, bands),
            step=float(step),
            levels=tuple(levels),
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
        payload: Range-coded deltas and symbols.
    """

    KIND: ClassVar[int] = 1

    model: bytes
    tile_id: bytes
    patch_row: int
    patch_col: int
    step_offset: int
    mask: bytes
    payload: bytes

    def __post_init__(self) -> None:
        _require(len(self.model) == MODEL_NAME_BYTES, "model name", self.model)
        _require(len(self.tile_id) == TILE_ID_BYTES, "tile id", self.tile_id)
        for name in ("patch_row", "patch_col"):
            _require(0 <= (value := getattr(self, name)) < MAX_EDGE_PX, name, value)
        _require(-128 <= self.step_offset <= 127, "step_offset", self.step_offset)

    def pack(self) -> bytes:
        """Return the frame's bytes."""
        header = [self.model, self.tile_id, self.patch_row, self.patch_col, self.step_offset]
        return _pack(self.KIND, [*header, self.mask], self.payload)

    @classmethod
    def _from_fields(cls, fields: list[Any], payload: bytes) -> PatchFrame:
        model, tile_id, row, col, step_offset, mask = _typed(fields, _PATCH_TYPES)
        return cls(
            model=model,
            tile_id=tile_id,
            patch_row=row,
            patch_col=col,
            step_offset=step_offset,
            mask=mask,
            payload=payload,
        )


Frame = SideFrame | PatchFrame

_NUMBER: Final = (int, float)
_NONE: Final = type(None)
_SIDE_TYPES: Final = (
    *(bytes, str, str, int, int, int, _NUMBER, _NUMBER, (int, float, _NONE)),
    *((bytes, _NONE), (list, _NONE), int, list, int, (bytes, _NONE), _NUMBER, list),
)
_PATCH_TYPES: Final = (bytes, bytes, int, int, int, bytes)


def parse(raw: bytes) -> Frame:
    """Read one frame, and nothing but one frame.

    Raises:
        TruncatedError: If bytes are missing.
        ChecksumError: If the CRC32C does not match.
        FrameVersionError: If a later build wrote it.
        FrameFieldError: If a field is missing, of another type or out of range.
    """
    smallest = _LEAD.size + _CRC.size
    if len(raw) < smallest:
        raise TruncatedError(smallest, len(raw))
    version, kind, header_bytes = _LEAD.unpack_from(raw)
    if version != VERSION:
        raise FrameVersionError(f"frame version {version}, this build reads {VERSION}")
    if len(raw) < smallest + header_bytes:
        raise TruncatedError(smallest + header_bytes, len(raw))
    body = raw[: -_CRC.size]
    if _CRC.unpack(raw[-_CRC.size :])[0] != google_crc32c.value(body):
        raise ChecksumError(f"the CRC32C of a frame of {len(raw)} bytes does not match")
    fields = _unpack_header(body[_LEAD.size : _LEAD.size + header_bytes])
    payload = body[_LEAD.size + header_bytes :]
    try:
        if kind == SideFrame.KIND:
            return SideFrame._from_fields(fields, payload)
        if kind == PatchFrame.KIND:
            return PatchFrame._from_fields(fields, payload)
    except TileError as error:
        raise FrameFieldError(str(error)) from None
    raise FrameFieldError(f"unknown kind of frame {kind}")


def _pack(kind: int, header: list[Any], payload: bytes) -> bytes:
    try:
        packed: bytes = msgpack.packb(header)
    except UnicodeEncodeError as error:  # a name from a file system need not be text
        raise TileError(f"the tile's description is no text: {error}") from None
    if len(packed) > 0xFFFF:
        raise TileError(f"the tile's description takes {len(packed)} bytes, 65535 fit in a frame")
    body = _LEAD.pack(VERSION, kind, len(packed)) + packed + payload
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


def _unpack_bits(packed: bytes | None, count: int) -> NDArray[np.bool_]:
    if packed is None:
        return np.ones(count, dtype=np.bool_)
    _require(len(packed) == -(-count // 8), "length of a bit mask", len(packed))
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count).astype(np.bool_)


def _pack_wavelengths(wavelengths_nm: tuple[float, ...]) -> bytes | None:
    """Second differences of 0.01 nm, little-endian int32, deflated: about 1.5 bytes per band."""
    if not wavelengths_nm:
        return None
    units = np.rint(np.array(wavelengths_nm) / _WAVELENGTH_UNIT_NM).astype("<i4")
    return zlib.compress(np.diff(units, n=2, prepend=[0, 0]).astype("<i4").tobytes(), 9)


def _unpack_wavelengths(packed: bytes | None, bands: int) -> tuple[float, ...]:
    if packed is None:
        return ()
    raw = inflate(packed, bands * 4)
    _require(len(raw) == bands * 4, "wavelengths", len(raw))
    units = np.cumsum(np.cumsum(np.frombuffer(raw, dtype="<i4"), dtype=np.int64))
    return tuple(round(unit * _WAVELENGTH_UNIT_NM, 2) for unit in units.tolist())


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
