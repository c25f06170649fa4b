"""The order in which packets came, whatever the sequences of their records."""

from __future__ import annotations

from bisect import bisect_right


class Arrivals:
    """Counts what comes, and tells its place by the sequence that it has in a log.

    A write that fails uses sequences up, so what waits in memory meanwhile is written under higher
    ones, and keeps its place: from each base on a sequence is the base and the place. Below the
    first base is what an earlier process left, which came before all else.
    """

    def __init__(self) -> None:
        self._came = 0
        self._bases = list[int]()

    def come(self, count: int) -> range:
        """The places of so many packets that come now."""
        first, self._came = self._came, self._came + count
        return range(first, self._came)

    def begin(self, base: int, newest: int) -> None:
        """Have records written from now on above all that are or may be there.

        Args:
            base: Above every sequence that was used.
            newest: The highest of a record that is there, or -1.
        """
        while len(self._bases) > 1 and self._bases[-1] > newest:
            self._bases.pop()  # of no record; the first stays, as places of what was found are told
        self._bases.append(base)

    def sequence_of(self, order: int) -> int:
        """The sequence that a packet is to be written under."""
        return self._bases[-1] + order

    def order_of(self, sequence: int) -> int:
        """The place of a packet that has this sequence."""
        return sequence - self._bases[max(0, bisect_right(self._bases, sequence) - 1)]
