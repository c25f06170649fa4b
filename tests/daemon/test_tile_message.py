"""Rules of `daemon.tile_message`: round trip, frozen bytes, broken bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from codec.tile import FIRST_UTC_S, LAST_UTC_S, SAMPLE_DTYPES, Georeference, Tile, TileInfo
from daemon.errors import (
    MessageFieldError,
    MessageSizeError,
    MessageTruncatedError,
    MessageVersionError,
    TileMessageError,
)
from daemon.tile_message import INTERLEAVES, MAX_HEADER_BYTES, TileLimits, TileMessage

GOLDEN = Path(__file__).parents[1] / "golden" / "tile_message_v1.hex"
LIMITS = TileLimits()
TILE = Tile(
    samples=np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 5,
    info=TileInfo(
        sensor="EnMAP",
        scene="ENMAP01-____L2A-DT0000004950",
        tile_row=1,
        tile_col=2,
        sequence=2**64 - 2,
        start_utc_s=1_667_492_678.5,
        reflectance_scale=10_000.0,
        nodata=-32768.0,
        wavelengths_nm=(418.24, 902.257),
        georeference=Georeference(
            crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0)
        ),
    ),
)
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), max_size=40)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLACES = st.builds(
    Georeference, crs=st.text(st.characters(codec="utf-8"), max_size=40),
    transform=st.tuples(*[FINITE] * 6),
)  # fmt: skip


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    """Any small tile of any type."""
    dtype = np.dtype(draw(st.sampled_from(SAMPLE_DTYPES)))
    samples = draw(stn.arrays(dtype, stn.array_shapes(min_dims=3, max_dims=3, max_side=5)))
    bands = samples.shape[0]
    info = TileInfo(
        sensor=draw(NAMES),
        scene=draw(NAMES),
        tile_row=draw(st.integers(0, 2**32 - 1)),
        tile_col=draw(st.integers(0, 2**32 - 1)),
        sequence=draw(st.integers(0, 2**64 - 1)),
        start_utc_s=draw(st.floats(FIRST_UTC_S, LAST_UTC_S)),
        reflectance_scale=draw(st.floats(1e-3, 1e9)),
        nodata=draw(st.none() | st.integers(0, 32767).map(float)),
        wavelengths_nm=draw(st.just(()) | st.tuples(*[st.floats(1, 1e5)] * bands)),
        georeference=draw(st.none() | PLACES),
    )  # fmt: skip
    return Tile(samples=samples, info=info)


def golden() -> dict[str, bytes]:
    """The frozen parts by name."""
    lines = [line for line in GOLDEN.read_text().splitlines() if line and line[0] != "#"]
    return {name: bytes.fromhex(text) for name, text in (line.split(": ") for line in lines)}


def parts_with(**fields: object) -> list[bytes | memoryview]:
    """The golden message with other fields in its header; None's type is a field left out."""
    topic, header, samples = TileMessage.pack(TILE)
    changed = msgpack.unpackb(bytes(header)) | fields
    return [topic, msgpack.packb({k: v for k, v in changed.items() if v is not Ellipsis}), samples]


@given(tile=tiles(), interleave=st.sampled_from(list(INTERLEAVES)))
def test_round_trip(tile: Tile, interleave: str) -> None:
    """What is packed is what is unpacked, for every type and interleave."""
    parts = [bytes(part) for part in TileMessage.pack(tile, interleave)]
    got = TileMessage.unpack(parts, LIMITS)

    assert got.info == tile.info
    assert got.samples.dtype == tile.samples.dtype
    assert got.samples.tobytes() == tile.samples.tobytes()


@pytest.mark.parametrize("interleave", list(INTERLEAVES))
def test_the_bytes_are_frozen(interleave: str) -> None:
    """The layout of version 1 never changes, on any machine."""
    frozen = golden()
    topic, header, samples = (bytes(part) for part in TileMessage.pack(TILE, interleave))

    assert topic == frozen["topic"]
    assert header == frozen[f"header {interleave}"]
    assert samples == frozen[f"samples {interleave}"]


def test_widths_are_an_optional_field() -> None:
    """The header has it only where they are known: earlier builds read messages without."""
    with_widths = Tile(samples=TILE.samples, info=replace(TILE.info, fwhm_nm=(6.5, 7.0)))
    parts = TileMessage.pack(with_widths)

    assert "fwhm_nm" not in msgpack.unpackb(bytes(TileMessage.pack(TILE)[1]))
    assert msgpack.unpackb(bytes(parts[1]))["fwhm_nm"] == [6.5, 7.0]
    assert TileMessage.unpack(parts, LIMITS).info == with_widths.info
    for wrong in ([6.5], [6.5, -1.0], ["a", "b"], 6.5):
        with pytest.raises(MessageFieldError, match="fwhm"):
            TileMessage.unpack(parts_with(fwhm_nm=wrong), LIMITS)


def test_samples_are_a_view() -> None:
    """The samples are those of the message: read-only, not copied, bands first."""
    topic, header, samples = TileMessage.pack(TILE, "bip")
    message = bytearray(samples)
    got = TileMessage.unpack([topic, header, memoryview(message)], LIMITS).samples
    message[0] ^= 0xFF

    assert got[0, 0, 0] != TILE.samples[0, 0, 0]
    assert got.shape == (2, 3, 4)
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0, 0] = 1


def test_packing_does_not_copy_a_tile_by_bands() -> None:
    """A tile in native order by bands is sent from where it lies."""
    assert np.shares_memory(np.frombuffer(TileMessage.pack(TILE)[2], np.uint8), TILE.samples)


def test_any_cut_is_reported() -> None:
    """A message cut anywhere in header or samples, or of fewer parts, says it is truncated."""
    parts = [bytes(part) for part in TileMessage.pack(TILE)]
    for index in (1, 2):
        for length in range(len(parts[index])):
            cut = [*parts[:index], parts[index][:length], *parts[index + 1 :]]
            with pytest.raises(MessageTruncatedError):
                TileMessage.unpack(cut, LIMITS)
    for count in range(3):
        with pytest.raises(MessageTruncatedError, match=f"{count} parts"):
            TileMessage.unpack(parts[:count], LIMITS)


def test_any_flip_is_an_error_of_ours_or_a_tile() -> None:
    """A flipped byte of the header gives a tile or one of our errors, and nothing else."""
    topic, header, samples = (bytes(part) for part in TileMessage.pack(TILE))
    for place in range(len(header)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            flipped = header[:place] + bytes([header[place] ^ mask]) + header[place + 1 :]
            try:
                TileMessage.unpack([topic, flipped, samples], LIMITS)
            except TileMessageError as error:
                assert str(error)  # noqa: PT017  # either outcome is right


@given(parts=st.lists(st.binary(max_size=60), max_size=5))
def test_noise_is_an_error_of_ours(parts: list[bytes]) -> None:
    """Random parts are refused with one of our errors."""
    with pytest.raises(TileMessageError):
        TileMessage.unpack(parts, LIMITS)


def test_a_future_version_is_refused() -> None:
    """A later version is named, whatever else its header holds."""
    with pytest.raises(MessageVersionError, match="version 2, this build reads 1"):
        TileMessage.unpack(parts_with(version=2, sensor=..., polarization="H", extra=b"\1"), LIMITS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0), ("version", "1"), ("version", True), ("version", ...),
        ("sensor", 7), ("sensor", "a\nb"), ("scene", "x" * 257), ("scene", b"bytes"),
        ("tile_row", -1), ("tile_row", 2**32), ("tile_col", 1.0), ("sequence", -1),
        ("dtype", "float64"), ("dtype", "O"), ("dtype", ["int16"]), ("dtype", None),
        ("shape", [2, 3]), ("shape", [2, 3, 0]), ("shape", [2, 3, 2**63]), ("shape", "abc"),
        ("shape", [2, 3, 4.0]), ("shape", [True, 3, 4]), ("shape", {"bands": 2}),
        ("interleave", "BSQ"), ("interleave", ["bsq"]), ("interleave", None),
        ("nodata", "none"), ("nodata", 1e9), ("nodata", 0.5), ("nodata", float("nan")),
        ("start_utc_s", float("inf")), ("start_utc_s", None), ("reflectance_scale", 0),
        ("reflectance_scale", float("nan")), ("wavelengths_nm", [1.0] * 3),
        ("wavelengths_nm", [1.0, "x"]), ("wavelengths_nm", None), ("wavelengths_nm", [1.0, -1]),
        ("georeference", [1]), ("georeference", {}), ("georeference", {"crs": "x"}),
        ("georeference", {"crs": "x", "transform": [1, 2, 3, 4, 5]}),
        ("georeference", {"crs": "x", "transform": [1, 2, 3, 4, 5, float("nan")]}),
        ("georeference", {"crs": "x" * 16_385, "transform": [1, 2, 3, 4, 5, 6]}),
        ("extra", 1), ("scene", ...),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused(field: str, value: object) -> None:
    """A field of another type, out of range, missing or unknown is refused by its name."""
    other = {"georeference": "georeference|transform", "wavelengths_nm": "wavelengths"}
    name = other.get(field, field)
    with pytest.raises(MessageFieldError, match=name):
        TileMessage.unpack(parts_with(**{field: value}), LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x01", id="a number"),
        pytest.param(b"\x80", id="an empty map"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="a map of 2^32"),
        pytest.param(b"\x81\xa1a\xdd\xff\xff\xff\xff", id="an array of 2^32"),
        pytest.param(b"\x81\xa1a\xdb\xff\xff\xff\xff", id="a text of 2^32"),
        pytest.param(b"\x81\xa1a\xc6\xff\xff\xff\xff", id="a blob of 2^32"),
        pytest.param(b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", id="an extension of 2^32"),
        pytest.param(b"\x81\xa1a" + b"\x91" * 5000 + b"\xc0", id="nested 5000 deep"),
        pytest.param(b"\x81\xa1a\xa1\xff", id="not UTF-8"),
        pytest.param(b"\x81\x91\x01\x01", id="a list as a key"),
        pytest.param(b"\xc1", id="a byte MessagePack never uses"),
    ],
)
def test_a_hostile_header_is_refused(header: bytes) -> None:
    """Whatever the header is, nothing is allocated for it and the error is of ours."""
    with pytest.raises((MessageFieldError, MessageTruncatedError)):
        TileMessage.unpack([b"tile", header, b""], LIMITS)


def test_bytes_after_the_header_are_refused() -> None:
    """A header is one map and nothing else."""
    topic, header, samples = TileMessage.pack(TILE)
    with pytest.raises(MessageFieldError, match="1 bytes follow"):
        TileMessage.unpack([topic, bytes(header) + b"\x00", samples], LIMITS)


def test_limits() -> None:
    """What is above a limit is refused by the limit's name, before the samples are looked at."""
    topic, header, samples = TileMessage.pack(TILE)
    for name, what in (
        ("max_bands", "2 bands, at most 1"),
        ("max_rows", "3 rows, at most 1"),
        ("max_cols", "4 cols, at most 1"),
        ("max_bytes", "48 bytes, at most 1"),
    ):
        with pytest.raises(MessageSizeError, match=what):
            TileMessage.unpack([topic, header, b""], replace(LIMITS, **{name: 1}))
    for parts, what in (
        ([topic, header, samples, b""], "4 parts"),
        ([topic, header, bytes(samples) + b"\0"], "49 bytes, need 48"),
        ([b"x" * 65, header, samples], "topic of 65"),
        ([topic, b"\0" * (MAX_HEADER_BYTES + 1), samples], "header of 65537"),
    ):
        with pytest.raises(MessageSizeError, match=what):
            TileMessage.unpack(parts, LIMITS)
    with pytest.raises(MessageSizeError, match="max_rows must be positive, got 0"):
        TileLimits(max_rows=0)


def test_a_message_nobody_would_take_is_not_sent() -> None:
    """What a receiver would refuse, the sender refuses first."""
    tile = Tile(samples=TILE.samples, info=replace(TILE.info, scene="two\nlines"))
    with pytest.raises(MessageFieldError, match="scene"):
        TileMessage.pack(tile)
    with pytest.raises(MessageFieldError, match="interleave"):
        TileMessage.pack(TILE, "bqs")
