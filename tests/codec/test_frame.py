"""Rules of `codec.frame`: every field checked, every break reported, version 5 frozen."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import zlib
from dataclasses import fields, replace
from typing import Any

import google_crc32c
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import golomb
from codec.errors import (
    BitstreamError,
    ChecksumError,
    FrameFieldError,
    FrameVersionError,
    TileError,
    TruncatedError,
)
from codec.frame import PatchFrame, SideFrame, inflate, parse
from codec.tile import FIRST_UTC_S, LAST_UTC_S, Georeference, TileInfo

INFO = TileInfo(
    sensor="EnMAP",
    scene="L2A-1",
    tile_row=3,
    tile_col=1,
    sequence=2**40,
    start_utc_s=1_700_000_000.25,
    nodata=-32768.0,
    georeference=Georeference(crs="EPSG:32632", transform=(30.0, 0.0, 6e5, 0.0, -30.0, 5.2e6)),
)
SIDE = SideFrame(
    model=bytes(range(8)),
    info=INFO,
    dtype="int16",
    shape=(3, 200, 100),
    patch_px=128,
    valid_bands=np.array([True, False, True]),
    step=64.0,
    levels=(40, -12),
    payload=b"side",
)
PATCH = PatchFrame(
    model=bytes(range(8)),
    tile_id=bytes(range(8, 16)),
    patch_row=1,
    patch_col=300,
    step_offset=-4,
    mask=b"",
    payload=b"patch",
)
GOLDEN_SIDE = bytes.fromhex(
    "05000062dc0012c4080001020304050607a5456e4d4150a54c32412d310301cf0000010000000000cb41d954"
    "fc40100000cd2710d18000c097aa455053473a33323633321e00ce000927c000e2ce004f5880009303ccc864"
    "cc80930101014002c404ff09fc7873696465c46341bc"
)
GOLDEN_PATCH = bytes.fromhex(
    "0501001c96c4080001020304050607c40808090a0b0c0d0e0f01cd012cfcc400706174636868d48c74"
)


def same(one: object, other: object) -> bool:
    """Whether two frames agree in every field."""
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        if isinstance(getattr(one, f.name), np.ndarray)
        else getattr(one, f.name) == getattr(other, f.name)
        for f in fields(one)  # type: ignore[arg-type]  # both are dataclasses
    )


def framed(kind: int, header: object, payload: bytes = b"", version: int = 5) -> bytes:
    """A frame of any header, with a right checksum."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    body = struct.pack(">BBH", version, kind, len(packed)) + packed + payload
    return body + struct.pack(">I", google_crc32c.value(body))


def header_of(frame: SideFrame | PatchFrame) -> list[Any]:
    """The header's fields as they travel."""
    raw = frame.pack()
    (size,) = struct.unpack_from(">H", raw, 2)
    unpacked: list[Any] = msgpack.unpackb(raw[4 : 4 + size])
    return unpacked


# ---- round trip


@st.composite
def side_frames(draw: st.DrawFn) -> SideFrame:
    """Any side frame."""
    valid_bands = draw(st.lists(st.booleans(), min_size=1, max_size=20))
    edge = st.integers(1, 65_536)
    return SideFrame(
        model=draw(st.binary(min_size=8, max_size=8)),
        info=TileInfo(
            sensor=draw(st.text(max_size=9)),
            scene=draw(st.text(max_size=9)),
            tile_row=draw(st.integers(0, 2**32 - 1)),
            tile_col=draw(st.integers(0, 2**32 - 1)),
            sequence=draw(st.integers(0, 2**64 - 1)),
            start_utc_s=draw(st.floats(FIRST_UTC_S, LAST_UTC_S)),
            reflectance_scale=draw(st.floats(1e-6, 1e12)),
            nodata=draw(st.none() | st.integers(0, 32767).map(float)),
        ),
        dtype=draw(st.sampled_from(["int16", "uint16", "float32"])),
        shape=(len(valid_bands), draw(edge), draw(edge)),
        patch_px=draw(st.sampled_from([8, 128, 256])),
        valid_bands=np.array(valid_bands),
        step=draw(st.floats(1e-6, 1e8)),
        levels=tuple(draw(st.lists(st.integers(-128, 255), max_size=sum(valid_bands)))),
        payload=draw(st.binary(max_size=30)),
    )


@given(side_frames())
def test_side_round_trip(side: SideFrame) -> None:
    """Everything said of a tile comes back, bit for bit."""
    again = parse(side.pack())
    assert same(side, again)
    assert again.tile_id == side.info.tile_id


@given(
    st.builds(
        PatchFrame,
        model=st.binary(min_size=8, max_size=8),
        tile_id=st.binary(min_size=8, max_size=8),
        patch_row=st.integers(0, 65_535),
        patch_col=st.integers(0, 65_535),
        step_offset=st.integers(-128, 127),
        mask=st.binary(max_size=20),
        payload=st.binary(max_size=20),
    )
)
def test_patch_round_trip(patch: PatchFrame) -> None:
    """A patch frame comes back, bit for bit."""
    assert same(patch, parse(patch.pack()))


@pytest.mark.parametrize("bands", [1, 2, 3, 224])
def test_wavelengths_come_back(bands: int) -> None:
    """Wavelengths travel to 0.01 nm in about half a byte each."""
    wavelengths = tuple((418.24 + 6.5 * k + 0.011 * k * k) for k in range(bands))
    bare = replace(SIDE, shape=(bands, 8, 8), valid_bands=np.ones(bands, bool), levels=())
    side = replace(bare, info=replace(INFO, wavelengths_nm=wavelengths))
    raw = side.pack()
    again = parse(raw)
    assert isinstance(again, SideFrame)
    assert again.info.wavelengths_nm == pytest.approx(wavelengths, abs=0.00501)
    assert len(raw) - len(bare.pack()) < 12 + bands / 2


@pytest.mark.parametrize(
    "crs",
    [
        pytest.param("", id="empty"),
        pytest.param("EPSG:32632", id="code"),
        pytest.param('PROJCS["ü",' + 'AUTHORITY["EPSG","9001"],' * 20, id="WKT beyond ASCII"),
        pytest.param('PROJCS["x",' + 'AUTHORITY["EPSG","9001"],' * 20, id="WKT"),
    ],
)
def test_places_come_back(crs: str) -> None:
    """CRS and transform come back as they were, a page of WKT in a fraction of its length."""
    geo = Georeference(crs=crs, transform=(30.5, 0.0, 1e300, -0.1, -30.0, 2.0**40))
    side = replace(SIDE, info=replace(INFO, georeference=geo))
    again = parse(side.pack())
    assert isinstance(again, SideFrame)
    assert again.info.georeference == geo
    if crs.isascii() and len(crs) > 100:
        assert len(side.pack()) < len(SIDE.pack()) + len(crs) / 3


def test_a_side_header_is_small() -> None:
    """What a tile pays beside names, wavelengths, place and payload; levels at five bits each."""
    levels = tuple(range(40, -15, -5))
    side = replace(
        SIDE,
        info=TileInfo(nodata=-32768.0, start_utc_s=1_700_000_000.25),
        shape=(224, 128, 128),
        valid_bands=np.ones(224, bool),
        levels=levels,
        payload=b"",
    )
    assert len(side.pack()) - len(replace(side, levels=()).pack()) <= 3 + len(levels) * 5 / 8
    assert len(replace(side, levels=()).pack()) <= 58


# ---- frozen bytes


def test_the_side_bytes_are_frozen() -> None:
    """The layout of version 5 never changes, on any machine."""
    assert SIDE.pack() == GOLDEN_SIDE
    assert same(parse(GOLDEN_SIDE), SIDE)


def test_the_patch_bytes_are_frozen() -> None:
    """The layout of version 5 never changes, on any machine."""
    assert PATCH.pack() == GOLDEN_PATCH
    assert same(parse(GOLDEN_PATCH), PATCH)


def test_a_quick_patch_is_of_version_6() -> None:
    """A ground of before refuses it by its version; a side frame has none but 5."""
    raw = replace(PATCH, quick=True).pack()
    assert (raw[0], raw[4:-4]) == (6, GOLDEN_PATCH[4:-4])
    assert same(parse(raw), replace(PATCH, quick=True))
    with pytest.raises(FrameFieldError, match="kind of frame 0, version 6"):
        parse(framed(0, header_of(SIDE), version=6))


def test_a_patch_header_is_small() -> None:
    """What a patch pays beside its payload: lead, header and checksum in 34 bytes."""
    first = replace(PATCH, patch_row=0, patch_col=0, step_offset=0, payload=b"")
    assert len(first.pack()) == 34


# ---- broken bytes


@pytest.mark.parametrize("golden", [GOLDEN_SIDE, GOLDEN_PATCH], ids=["side", "patch"])
def test_any_cut_is_reported(golden: bytes) -> None:
    """A frame cut anywhere is an error; cut in the header it says how much was missing."""
    (header_bytes,) = struct.unpack_from(">H", golden, 2)
    for length in range(len(golden)):
        with pytest.raises((TruncatedError, ChecksumError)) as caught:
            parse(golden[:length])
        if length < 8 + header_bytes:
            assert isinstance(caught.value, TruncatedError)
            assert caught.value.got_bytes == length


@pytest.mark.parametrize("golden", [GOLDEN_SIDE, GOLDEN_PATCH], ids=["side", "patch"])
def test_no_flipped_bit_decodes(golden: bytes) -> None:
    """One wrong bit, anywhere, is an error."""
    for bit in range(8 * len(golden)):
        broken = bytearray(golden)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((TruncatedError, ChecksumError, FrameVersionError)):
            parse(bytes(broken))


@pytest.mark.parametrize("golden", [GOLDEN_SIDE, GOLDEN_PATCH], ids=["side", "patch"])
def test_nothing_may_follow(golden: bytes) -> None:
    """A frame with something behind it is not a frame."""
    with pytest.raises(ChecksumError):
        parse(golden + b"\x00")


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 7, 255])
def test_another_version_is_refused(version: int) -> None:
    """A version this build does not read, older or later, is an error and not a guess."""
    raw = framed(1, header_of(PATCH), version=version)
    with pytest.raises(FrameVersionError, match=f"version {version}, this build reads 5 and 6"):
        parse(raw)


def test_an_unknown_kind_is_refused() -> None:
    """There are side frames and patch frames."""
    with pytest.raises(FrameFieldError, match="kind of frame 2"):
        parse(framed(2, []))


@given(st.binary(max_size=60), st.sampled_from([0, 1]))
def test_any_header_parses_or_is_refused(header: bytes, kind: int) -> None:
    """Bytes with a right checksum and any header are a frame or a `BitstreamError`."""
    try:
        parse(framed(kind, header))
    except BitstreamError:
        return


@pytest.mark.parametrize("depth", [1, 900, 1010, 30_000])
def test_nested_headers_are_refused(depth: int) -> None:
    """A header nested to any depth is an error, not a recursion."""
    with pytest.raises(FrameFieldError):
        parse(framed(0, b"\x91" * depth + b"\xc0"))


SIDE_FIELDS = (
    *("model", "sensor", "scene", "tile_row", "tile_col", "sequence", "start", "scale"),
    *("nodata", "wavelengths", "georeference", "dtype", "shape", "patch_px", "valid_bands"),
    *("step", "components", "levels"),
)


@pytest.mark.parametrize("position", range(18), ids=SIDE_FIELDS)
@pytest.mark.parametrize(
    "value", [True, {}, [1], -1, 2**64 - 1, math.nan, "x" * 9, b"9 bytes !"], ids=repr
)
def test_wrong_side_fields_are_refused(position: int, value: object) -> None:
    """A field of another type or out of range is an error that is typed."""
    header = header_of(SIDE)
    header[position] = value
    accepted = [
        *((1, "x" * 9), (2, "x" * 9), (5, 2**64 - 1), (6, -1), (8, -1)),
    ]
    if any(position == where and value == what for where, what in accepted):
        parse(framed(0, header))
        return
    with pytest.raises(BitstreamError):
        parse(framed(0, header))


@pytest.mark.parametrize(
    ("position", "value"),
    [
        pytest.param(0, b"short", id="model"),
        pytest.param(7, 0.0, id="scale"),
        pytest.param(8, 0.5, id="nodata that no int16 is"),
        pytest.param(8, 1e6, id="nodata beyond int16"),
        pytest.param(9, b"", id="wavelengths, empty"),
        pytest.param(9, 0, id="wavelengths of another instrument"),
        pytest.param(10, ["EPSG:1", *[1.0] * 5], id="five numbers of a transform"),
        pytest.param(10, ["EPSG:1", *[1.0] * 5, math.inf], id="infinite transform"),
        pytest.param(10, [b"EPSG:1", *[1.0] * 6], id="CRS, not deflated"),
        pytest.param(10, [zlib.compress(b"\xff"), *[1.0] * 6], id="CRS, no ASCII"),
        pytest.param(10, [zlib.compress(bytes(70_000)), *[1.0] * 6], id="CRS, a bomb"),
        pytest.param(11, 3, id="unknown sample type"),
        pytest.param(12, [0, 8, 8], id="no bands"),
        pytest.param(12, [4097, 8, 8], id="too many bands"),
        pytest.param(12, [3, 65_537, 8], id="too many rows"),
        pytest.param(12, [3, 8], id="two axes"),
        pytest.param(13, 12, id="patch of no whole latents"),
        pytest.param(13, 264, id="patch too large"),
        pytest.param(13, 0, id="no patch"),
        pytest.param(14, [1, 1, 2], id="runs of more bands"),
        pytest.param(14, [], id="no runs"),
        pytest.param(14, [4, -1], id="negative run"),
        pytest.param(14, [1, 0, 2], id="run of nothing"),
        pytest.param(14, [1.0, 2.0], id="runs of another type"),
        pytest.param(15, 0.0, id="no step"),
        pytest.param(15, math.inf, id="infinite step"),
        pytest.param(16, 4, id="more components than bands"),
        pytest.param(16, 1, id="fewer components than levels"),
        pytest.param(17, golomb.pack([-256, 0]), id="level out of range"),
        pytest.param(17, golomb.pack([0, 129]), id="level below the range"),
        pytest.param(17, [1, 2], id="levels of another type"),
    ],
)
def test_side_fields_out_of_range_are_refused(position: int, value: object) -> None:
    """Each bound of a side frame is checked when it is read."""
    header = header_of(SIDE)
    header[position] = value
    with pytest.raises(BitstreamError):
        parse(framed(0, header))


@pytest.mark.parametrize(
    ("position", "value"),
    [
        *((0, b"short"), (1, b"short"), (2, -1), (2, 65_536), (3, 65_536), (3, None)),
        *((4, 128), (4, -129), (4, 0.0), (5, None), (5, "text")),
    ],
)
def test_patch_fields_out_of_range_are_refused(position: int, value: object) -> None:
    """Each bound of a patch frame is checked when it is read."""
    header = header_of(PATCH)
    header[position] = value
    with pytest.raises(FrameFieldError):
        parse(framed(1, header))


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("frame", [SIDE, PATCH], ids=["side", "patch"])
def test_a_field_too_many_or_too_few(frame: SideFrame | PatchFrame, change: int) -> None:
    """A header has exactly the fields of its version."""
    header = header_of(frame)
    header = [*header, 0] if change > 0 else header[:-1]
    with pytest.raises(FrameFieldError, match="fields of given types"):
        parse(framed(frame.KIND, header))


def test_widths_are_one_more_field() -> None:
    """Behind all others, and only where they are known: earlier builds read frames without."""
    frame = replace(SIDE, info=replace(INFO, fwhm_nm=(6.5, 6.53, 6.0)))
    *before, widths = header_of(frame)

    assert before == header_of(SIDE)
    assert widths == bytes.fromhex("3ffe41d7fd20")
    assert same(parse(frame.pack()), frame)
    for wrong in (0, b"", widths[:-1], "text"):
        with pytest.raises(FrameFieldError):
            parse(framed(0, [*before, wrong]))
    with pytest.raises(FrameFieldError, match="fwhm_nm"):
        replace(SIDE, info=replace(INFO, fwhm_nm=(6.5,)))


def test_inflate_stops_at_its_limit() -> None:
    """The limit holds exactly: as many bytes pass, one more does not."""
    packed = zlib.compress(b"\x00" * 100)
    assert inflate(packed, 100) == b"\x00" * 100
    with pytest.raises(BitstreamError, match="within 99 bytes"):
        inflate(packed, 99)


@pytest.mark.parametrize("length", [0, 1, 0x8000, 0x8001, 500_000])
def test_a_mask_of_any_length(length: int) -> None:
    """A mask comes back whatever its length; one beyond 32,768 bytes is no part of the header."""
    frame = replace(PATCH, mask=b"m" * length)
    raw = frame.pack()
    assert same(parse(raw), frame)
    assert (struct.unpack_from(">H", raw, 2)[0] < 100) == (length in {0, 1, 0x8001, 500_000})


@pytest.mark.parametrize("length", [-1, 6, 2**40])
def test_a_mask_longer_than_its_frame(length: int) -> None:
    """The length of a mask in front of the payload is held against what is there."""
    with pytest.raises(FrameFieldError, match="mask length"):
        parse(framed(1, [*header_of(PATCH)[:5], length], PATCH.payload))


# ---- what cannot be sent


def test_a_long_description_is_refused() -> None:
    """A header that does not fit its length field is an error of the tile, not a broken frame."""
    with pytest.raises(TileError, match="65535 fit"):
        replace(SIDE, info=replace(INFO, scene="x" * 70_000)).pack()


def test_a_name_that_is_no_text_is_refused() -> None:
    """A name from a file system need not be UTF-8; the error is the tile's."""
    with pytest.raises(TileError, match="no text"):
        replace(SIDE, info=replace(INFO, scene="\udcff")).pack()


def test_frames_are_read_without_torch() -> None:
    """A tool that only reads frames starts fast: torch is not loaded."""
    code = "import sys, codec.frame; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
