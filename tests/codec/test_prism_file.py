"""The frame file: frozen bytes, round trips, and an error for every way it can be broken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BitstreamError, FrameVersionError, TruncatedError
from codec.prism_file import pack, unpack

GOLDEN = b"PRISM\x01\x00\x00\x00\x03\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x00\x00\x01\xff"
FRAMES = [b"abc", b"", b"\xff"]


def read(raw: bytes) -> list[bytes]:
    """All frames of a file."""
    return list(unpack(raw))


def test_the_bytes_are_frozen() -> None:
    """Files written today must be readable for ever: never change these to please a test."""
    assert pack(FRAMES) == GOLDEN
    assert read(GOLDEN) == FRAMES


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_what_is_packed_is_unpacked(frames: list[bytes]) -> None:
    """Any frames, also none, in their order."""
    assert read(pack(frames)) == frames


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_every_truncation_is_told(length: int) -> None:
    """Also between two frames; the error says how many bytes there would have to be."""
    with pytest.raises(TruncatedError) as caught:
        read(GOLDEN[:length])

    assert caught.value.got_bytes == length < caught.value.needed_bytes <= len(GOLDEN)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_as_such(version: int) -> None:
    """Before anything behind it is looked at."""
    with pytest.raises(FrameVersionError, match=f"version {version}, this build reads 1"):
        read(b"PRISM" + bytes([version]))


@pytest.mark.parametrize("raw", [b"prism\x01", b"II*\0", b"PRISN", b"\0" * 100])
def test_another_kind_of_file_is_refused_as_such(raw: bytes) -> None:
    """By its first bytes."""
    with pytest.raises(BitstreamError, match="does not begin with PRISM"):
        read(raw)


def test_bytes_after_the_last_frame_are_refused() -> None:
    """They are no frame anyone promised."""
    with pytest.raises(BitstreamError, match="2 bytes follow the last frame"):
        read(GOLDEN + b"\0\0")


def test_hostile_numbers_allocate_nothing() -> None:
    """A count or length beyond the file is a truncation, told at once."""
    with pytest.raises(TruncatedError):
        read(b"PRISM\x01" + b"\xff" * 4)
    with pytest.raises(TruncatedError):
        read(b"PRISM\x01\0\0\0\x01" + b"\xff" * 4)


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_frames_or_an_error_of_ours(raw: bytes, headed: bool) -> None:
    """Nothing else comes out."""
    raw = b"PRISM\x01" * headed + raw
    with contextlib.suppress(BitstreamError):
        assert pack(read(raw)) == raw
