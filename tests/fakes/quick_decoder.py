"""The quick payload decoded as `docs/wire-format.md` says, slowly, from nothing but that page."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codec.subbands import SUBBANDS, to_symbols
from codec.tables import FrequencyTables

GROUPS = (0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
"""Of the subbands."""


class RangeDecoder:
    """The range coder, the other way round: `above` is the code less low."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self.place = raw, 0
        self.above, self.width = 0, 1 << 56
        for _ in range(7):
            self._next_byte()

    def _next_byte(self) -> None:
        following = self._raw[self.place] if self.place < len(self._raw) else 0
        self.above, self.place = self.above * 256 + following, self.place + 1

    def target(self, bits: int) -> int:
        """Where in 2^bits the code lies."""
        return min(self.above // (self.width >> bits), (1 << bits) - 1)

    def leave(self, start: int, count: int, bits: int) -> None:
        """Take an interval off."""
        unit = self.width >> bits
        self.above, self.width = self.above - unit * start, unit * count
        while self.width <= 1 << 40:
            self._next_byte()
            self._next_byte()
            self.width <<= 16

    def plain(self, bits: int) -> int:
        """A plain value."""
        value = 0
        for done in range(0, bits, 16):
            piece = min(16, bits - done)
            part = self.target(piece)
            self.leave(part, 1, piece)
            value += part << done
        return value

    def symbol(self, tables: FrequencyTables, index: int) -> int:
        """A value under a scale index."""
        low_bits = max(0, math.ceil((index - 41) / 4))
        counts = tables.counts[index - 4 * low_bits - 1].astype(int)
        ends, target = np.cumsum(counts), self.target(24)
        entry = int(np.searchsorted(ends, target, side="right"))
        self.leave(int(ends[entry] - counts[entry]), int(counts[entry]), 24)
        value = entry - 127
        if entry == 255:
            length, negative = self.plain(5), self.plain(1)
            excess = (1 << (length - 1)) + self.plain(length - 1) if length else 0
            value = -127 - excess if negative else 127 + excess
        return (value << low_bits) + self.plain(low_bits)


class Class:
    """An adaptive mean."""

    def __init__(self, index: int) -> None:
        self.index, self.count = index, 12
        self.sum = 12 * round(1024 * 2 ** ((index - 1) / 4 - 6))

    def learn(self, magnitude: int) -> None:
        """Count a magnitude."""
        self.sum, self.count = self.sum + 1024 * magnitude, self.count + 1
        if self.count % 8:
            return
        mean = self.sum // self.count
        while self.index < 137 and mean > round(1024 * 2 ** ((self.index - 0.5) / 4 - 6)):
            self.index += 1
        while self.index > 1 and mean <= round(1024 * 2 ** ((self.index - 1.5) / 4 - 6)):
            self.index -= 1
        if self.count >= 256:
            self.sum, self.count = self.sum // 2, self.count // 2


def decode(
    raw: bytes, tables: FrequencyTables, components: int, rows: int, cols: int
) -> NDArray[np.int32]:
    """Symbols, shape (64·components, ⌈rows/8⌉, ⌈cols/8⌉)."""
    coder, scales = RangeDecoder(raw), np.zeros((components, 10), int)
    for group in range(10):
        known = Class(24)
        for k in range(components):
            before = scales[k - 1, group] if k else scales[k, group - 1] if group else 0
            change = coder.symbol(tables, known.index)
            scales[k, group] = before + change
            known.learn(abs(change))
    classes: dict[tuple[int, int], list[Class]] = {}
    loud: defaultdict[tuple[int, int, int, int], int] = defaultdict(int)
    images = []
    for b, band in enumerate(SUBBANDS):
        height, width = band.shape(rows, cols)
        image, recent = (
            np.zeros((components, height, width), np.int32),
            np.zeros((height, width), int),
        )
        level = 0 if b == 0 else 6 - band.level
        for k in range(components):
            scale = int(scales[k, GROUPS[b]])
            if scale:
                start = [
                    Class(
                        min(max(min(max(4 * c // 3 + 8, 2 * scale - 13), 2 * scale + 11), 1), 137)
                    )
                    for c in range(24)
                ]
                group = classes.setdefault((level, min(scale, 32)), start)
                for y, x in product(range(height), range(width)):
                    around = _around(loud, (b, k, y, x), rows, cols) + 160 * int(recent[y, x])
                    near = min(around >> 6, 8191)
                    known = group[min(round(3 * math.log2(1 + near / 8)), 23)]
                    value = coder.symbol(tables, known.index)
                    known.learn(abs(value))
                    image[k, y, x] = value
                    loud[b, k, y, x] = round(8 * math.log2(1 + min(abs(value), 4095)))
            for y, x in product(range(height), range(width)):
                recent[y, x] = 5 * recent[y, x] // 8 + loud[b, k, y, x]
        images.append(image)
    if coder.place != len(raw) + 5:
        raise ValueError(f"{coder.place - 5} bytes, not {len(raw)}")
    return to_symbols(images, rows, cols)


def _around(
    loud: defaultdict[tuple[int, int, int, int], int],
    place: tuple[int, int, int, int],
    rows: int,
    cols: int,
) -> int:
    b, k, y, x = place
    is_hh = b > 0 and b % 3 == 0
    beside = 39 if b < 7 else 52 if is_hh else 91
    total = beside * (loud[b, k, y, x - 1] + loud[b, k, y - 1, x]) + 39 * loud[b, k, y - 1, x + 1]
    total += 26 * (loud[b, k, y, x - 2] + loud[b, k, y - 2, x] + loud[b, k, y - 1, x - 1])
    if b > 3:
        high, wide = SUBBANDS[b - 3].shape(rows, cols)
        if high and wide:
            parent = loud[b - 3, k, min(y // 2, high - 1), min(x // 2, wide - 1)]
            total += (26 if is_hh else 52) * parent
    siblings = (b + 2) % 3 if b else 0
    weight = 78 if b < 7 else 65 if is_hh else 26
    return total + weight * sum(loud[sibling, k, y, x] for sibling in range(b - siblings, b))
