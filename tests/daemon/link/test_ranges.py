"""Ranges are a set of numbers, whatever is put in, in whatever order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemon.link.ranges import Ranges

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


@given(SPANS, st.integers(0, 60), st.integers(0, 60))
def test_it_is_a_set(spans: list[tuple[int, int]], start: int, stop: int) -> None:
    """Membership, gaps and the lowest that is missing are those of a set of numbers."""
    ranges, numbers = Ranges(), set[int]()
    for first, length in spans:
        assert ranges.add(first, first + length)
        numbers |= set(range(first, first + length))

    assert {n for n in range(70) if n in ranges} == numbers
    assert ranges.below == next(n for n in range(70) if n not in numbers)
    gaps = [set(range(first, last)) for first, last in ranges.gaps(start, stop)]
    assert all(gaps)
    assert set().union(*gaps) == set(range(start, stop)) - numbers
    kept = list(ranges)
    assert all(first < last for first, last in kept)
    assert all(last < first for (_, last), (first, _) in pairwise(kept))


def test_its_memory_is_bounded() -> None:
    """What would need one range too many is not taken, and said so; what joins others is."""
    ranges = Ranges(most=2)
    assert ranges.add(0, 1)
    assert ranges.add(5, 6)
    assert not ranges.add(10, 11)
    assert ranges.add(1, 5)
    assert list(ranges) == [(0, 6)]
    assert 10 not in ranges


def test_spans_of_any_length_cost_nothing() -> None:
    """A hostile beacon may name four billion frames."""
    ranges = Ranges()
    ranges.add(7, 2**32)
    assert ranges.below == 0
    assert list(ranges.gaps(0, 2**32)) == [(0, 7)]
