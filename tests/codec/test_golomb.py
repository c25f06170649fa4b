"""Rules of `codec.golomb`: integers of any size come back, small ones in few bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import FrameFieldError
from codec.golomb import pack, unpack

VALUES = [0, 1, -1, 2, 300, -2, 0, 5, -70_000, 0, 0, 1]
GOLDEN = bytes.fromhex("065fff14 6067ffff 845a8008")


@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-(2**39), 2**39)), max_size=40))
def test_round_trip(values: list[int]) -> None:
    """What is packed is what is unpacked."""
    assert unpack(pack(values), len(values)) == values


def test_the_bytes_are_frozen() -> None:
    """The code of frame version 5, for ever."""
    assert pack(VALUES) == GOLDEN
    assert unpack(GOLDEN, len(VALUES)) == VALUES


def test_small_values_are_cheap_again_after_a_jump() -> None:
    """Zeros end at a bit each, and an outlier among them costs what it says and little more."""
    zeros, jump = [0] * 160, [0] * 80 + [50_000] + [0] * 79
    assert len(pack(zeros)) <= 22
    assert len(pack(jump)) <= len(pack(zeros)) + 8


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_any_cut_is_reported(length: int) -> None:
    """Bytes that end early say that they do not hold as many integers."""
    with pytest.raises(FrameFieldError, match="do not hold 12"):
        unpack(GOLDEN[:length], len(VALUES))


@pytest.mark.parametrize("rest", [b"\x00", b"\x01"])
def test_nothing_may_follow(rest: bytes) -> None:
    """A list has one form: bytes behind it are refused, were they zero."""
    with pytest.raises(FrameFieldError, match="something follows"):
        unpack(GOLDEN + rest, len(VALUES))


def test_bits_that_fill_the_last_byte_are_zero() -> None:
    """A list has one form: the bits that fill its last byte say nothing."""
    assert pack([0]) == b"\x00"
    with pytest.raises(FrameFieldError, match="something follows"):
        unpack(b"\x01", 1)


@given(st.binary(max_size=40), st.integers(0, 30))
def test_any_bytes_are_integers_or_refused(packed: bytes, count: int) -> None:
    """Damaged bytes are a `FrameFieldError` or integers of bounded size."""
    try:
        values = unpack(packed, count)
    except FrameFieldError:
        return
    assert len(values) == count


def test_a_giant_is_refused() -> None:
    """A prefix of ones cannot ask for an integer of any length."""
    with pytest.raises(FrameFieldError):
        unpack(b"\xff" * 8 + b"\x00" * 40, 1)
