"""Sets of numbers as ranges: what is done of millions of frames is a handful of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A set of numbers, kept as ranges that neither touch nor overlap.

    Args:
        most: Ranges kept; a number that would make one more is not taken.
    """

    def __init__(self, most: int = 1 << 16) -> None:
        self._most = most
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._stops[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each range, rising: its first number, and the one after its last."""
        return iter(zip(self._starts, self._stops, strict=True))

    @property
    def below(self) -> int:
        """The lowest number from 0 on that is not in it."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, start: int, stop: int) -> bool:
        """Take the numbers from `start` to before `stop`; False if there is no room for them."""
        if start >= stop:
            return True
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first == last and len(self._starts) >= self._most:
            return False
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        return True

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """What is not in it from `start` to before `stop`, as ranges, rising."""
        for place in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[place] >= stop:
                break
            if self._starts[place] > start:
                yield start, self._starts[place]
            start = self._stops[place]
        if start < stop:
            yield start, stop
