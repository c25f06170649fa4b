"""Wavelet latents ↔ bytes in a fraction of the time: the compiled part of `quick_coder`.

First go the scales of the groups, then the symbols; subbands, components and rows in the order of
`codec.context_mixing`. Here a symbol is coded at once, under the table of the mean magnitude that
symbols in its place had before. Its class says which these are:

    level     of the subband
    scale     of the symbol's group, which the encoder sends
    near      the magnitudes around it: in its own subband, at its place in parent and siblings, and
              at its place in the components before, the last ones weighted most

Latents are rounded when it is their turn, each by the mean of its class: see
`codec.quantize.best_rounding`. All that a decoder follows is integers.

Sources: an adaptive mean for each context, Weinberger, Seroussi & Sapiro, LOCO-I, IEEE TIP 9(8),
2000; the range coder, Martin, Video & Data Recording Conference, 1979.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.compiled import compiled, kernel
from codec.contexts import MAX_INDEX, MAX_SCALE, TABLES_PER_SCALE
from codec.quantize import ROUNDING, SYMBOL_LIMIT
from codec.range_coder import ESCAPE, LENGTH_BITS, LOW_BITS, PLAIN_BITS
from codec.subbands import SUBBANDS
from codec.tables import (
    ALPHABET_LIMIT,
    ENTRIES,
    PRECISION_BITS,
    SMALLEST_OCTAVE,
    TABLE_COUNT,
    TABLES_PER_OCTAVE,
)

BANDS: Final = len(SUBBANDS)
_LEVEL_OF: Final = np.array([SUBBANDS[0].level + 1 - band.level for band in SUBBANDS])
"""Subbands of a level share their classes: 0 for the low band, and 1 for the details beside it."""
_LEVEL_OF[0] = 0
_LEVELS: Final = int(_LEVEL_OF.max()) + 1
_FIRST: Final = np.array([band.first for band in SUBBANDS])
_SPLIT: Final = np.array([band.split for band in SUBBANDS])
"""Where a subband's channels begin, and how many of its coefficients a position has along an axis.
"""
_SCALES: Final = 32
_NEAR: Final = 24

_LOUDEST: Final = 4095
_SUM_LIMIT: Final = 8191
EXACT: Final = {
    "loudness": 8 * np.log2(1 + np.arange(_LOUDEST + 1)),
    "near": 3 * np.log2(1 + np.arange(_SUM_LIMIT + 1) / 8),
    "edges": 1024 * 2.0 ** ((np.arange(MAX_INDEX + 1) - 1.5) / TABLES_PER_OCTAVE + SMALLEST_OCTAVE),
    "middles": 1024 * 2.0 ** ((np.arange(MAX_INDEX + 1) - 1) / TABLES_PER_OCTAVE + SMALLEST_OCTAVE),
}
"""What is rounded below. None lies within 10⁻⁵ of a half, so every machine rounds alike."""
_LOUDNESS: Final = np.rint(EXACT["loudness"]).astype(np.int8)
"""Of a magnitude [⅛ octave]."""
_NEAR_CLASS: Final = np.minimum(np.rint(EXACT["near"]), _NEAR - 1).astype(np.int8)
"""Of a sum of loudness."""
_EDGES: Final = np.rint(EXACT["edges"]).astype(np.int64)
"""Mean magnitude [2⁻¹⁰] above which a scale index is better than the one before."""
_MIDDLES: Final = np.rint(EXACT["middles"]).astype(np.int64)
"""Mean magnitude [2⁻¹⁰] of a scale index."""

_FIRST_SCALE: Final = _LEVELS * (_SCALES + 1) * _NEAR
"""First of the classes of scales, one for each group."""
_SCALE_INDEX: Final = 24
"""Scale index expected of these."""
_PRIOR: Final = 12
"""Symbols that what is expected of a class before its first one counts as."""
_PRIOR_REACH: Final = 12
"""Scale indices that a class is expected to differ from its group's, at most."""
_REFRESHED: Final = 8
"""Symbols of a class after which its table is chosen anew."""
_REMEMBERED: Final = 256
"""Symbols after which half of them are forgotten. What is exact stays: sums fit 64 bits."""
_MARGIN: Final = 2
"""Zeros around every plane."""

_WINDOW: Final = 56
_WORD: Final = _WINDOW - 16
"""Bytes go in pairs: the coder's range is above 2⁴⁰, so counts of 2⁻²⁴ lose nothing to it."""
LOOKAHEAD: Final = _WINDOW // 8 - 2
"""Bytes that the decoder has read beyond those that count."""

SHORT: Final = -1
DAMAGED: Final = -2


State = tuple[int, int, int]
"""A range coder: low (decoding, how far the code lies above it), range, place in the bytes. It is
handed on by value, so that it stays in registers."""


class _Classes(NamedTuple):
    """What is known of each class.

    `seen` is 2¹⁶ · the sum of magnitudes [2⁻¹⁰] + how many symbols they are of, 0 before the first;
    `indices` the scale index of their mean.
    """

    seen: NDArray[np.int64]
    indices: NDArray[np.int16]


class _Planes(NamedTuple):
    """Loudness of all subbands: plane k of a subband begins at starts[band] + k · its size."""

    loud: NDArray[np.int8]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]


class _Row(NamedTuple):
    """A row that is being coded: what is known around, and what goes in or comes out."""

    sums: NDArray[np.int32]
    latents: NDArray[np.float32]
    symbols: NDArray[np.int32]


# ---- the range coder ---------------------------------------------------------------------------


@kernel
def _put(coded: NDArray[np.uint8], state: State, start: int, count: int, bits: int) -> State:
    """Code an interval of 2^bits."""
    low, width, place = state
    unit = width >> bits
    low, width = low + unit * start, unit * count
    if low >> _WINDOW:
        low &= (1 << _WINDOW) - 1
        _carry(coded, place)
    while width <= 1 << _WORD:
        if place + 1 < coded.size:
            coded[np.uint64(place)] = low >> (_WORD + 8)
            coded[np.uint64(place + 1)] = (low >> _WORD) & 255
        low, width, place = (low & ((1 << _WORD) - 1)) << 16, width << 16, place + 2
    return low, width, place


@kernel
def _carry(coded: NDArray[np.uint8], place: int) -> None:
    """Add one to the bytes before a place; those beyond the room do not count."""
    back = min(place, coded.size) - 1
    while back > 0 and coded[back] == 255:
        coded[back] = 0
        back -= 1
    coded[back] += 1


@kernel
def _take(coded: NDArray[np.uint8], state: State, start: int, count: int, bits: int) -> State:
    """Leave an interval of 2^bits in which the code lies."""
    above, width, place = state
    unit = width >> bits
    width = unit * count
    # No encoder leads beyond the range, where what rounding leaves of it lies; a stranger might.
    above = min(above - unit * start, width - 1)
    while width <= 1 << _WORD:
        for _ in range(2):
            following = int(coded[np.uint64(place)]) if place < coded.size else 0
            above, place = (above << 8) | following, place + 1
        width <<= 16
    return above, width, place


@kernel
def _target(state: State, bits: int) -> int:
    """Where in 2^bits the code lies."""
    return min(state[0] // (state[1] >> bits), (1 << bits) - 1)


@kernel
def _put_plain(coded: NDArray[np.uint8], state: State, value: int, bits: int) -> State:
    """Code bits that are even."""
    for done in range(0, bits, PLAIN_BITS):
        piece = min(bits - done, PLAIN_BITS)
        state = _put(coded, state, (value >> done) & ((1 << piece) - 1), 1, piece)
    return state


@kernel
def _take_plain(coded: NDArray[np.uint8], state: State, bits: int) -> tuple[State, int]:
    """Inverse of `_put_plain`."""
    value = 0
    for done in range(0, bits, PLAIN_BITS):
        piece = min(bits - done, PLAIN_BITS)
        part = _target(state, piece)
        state = _take(coded, state, part, 1, piece)
        value |= part << done
    return state, value


# ---- one symbol --------------------------------------------------------------------------------


@kernel
def _write(
    coded: NDArray[np.uint8], state: State, tables: NDArray[np.int32], index: int, symbol: int
) -> State:
    """Code a symbol under the table of a scale index."""
    low_bits = int(LOW_BITS[np.uint64(index)]) if index > TABLE_COUNT else 0
    value = symbol >> low_bits
    entry = value + ALPHABET_LIMIT if abs(value) <= ALPHABET_LIMIT else ESCAPE
    at = index * (ENTRIES + 1) + entry
    start, end = int(tables[np.uint64(at)]), int(tables[np.uint64(at + 1)])
    state = _put(coded, state, start, end - start, PRECISION_BITS)
    if entry == ESCAPE:  # the length of the excess, the sign, and the bits below the first
        excess, bits = abs(value) - ALPHABET_LIMIT, 0
        while excess >> bits:
            bits += 1
        state = _put_plain(coded, state, bits, LENGTH_BITS)
        state = _put_plain(coded, state, 1 if value < 0 else 0, 1)
        state = _put_plain(coded, state, excess, bits - 1)
    return _put_plain(coded, state, symbol, low_bits) if low_bits else state


@kernel
def _read(
    coded: NDArray[np.uint8], state: State, tables: NDArray[np.int32], index: int
) -> tuple[State, int]:
    """Inverse of `_write`."""
    first, target = index * (ENTRIES + 1), _target(state, PRECISION_BITS)
    at = first + ALPHABET_LIMIT  # sought from the middle outwards
    while target >= tables[np.uint64(at + 1)]:
        at += 1
    while target < tables[np.uint64(at)]:
        at -= 1
    start, end = int(tables[np.uint64(at)]), int(tables[np.uint64(at + 1)])
    state = _take(coded, state, start, end - start, PRECISION_BITS)
    value = at - first - ALPHABET_LIMIT
    if at - first == ESCAPE:
        state, bits = _take_plain(coded, state, LENGTH_BITS)
        state, negative = _take_plain(coded, state, 1)
        excess = 0
        if bits > 0:
            state, excess = _take_plain(coded, state, bits - 1)
            excess |= 1 << (bits - 1)
        value = -ALPHABET_LIMIT - excess if negative else ALPHABET_LIMIT + excess
    if index > TABLE_COUNT:
        low_bits = int(LOW_BITS[np.uint64(index)])
        state, below = _take_plain(coded, state, low_bits)
        value = (value << low_bits) | below
    return state, value


# ---- classes -----------------------------------------------------------------------------------


@kernel
def _expect(classes: _Classes, first: int, scale: int) -> None:
    """Say what a group's classes may be like before their first symbol."""
    own = TABLES_PER_SCALE * scale - 1
    for near in range(_NEAR):
        index = min(max((4 * near) // 3 + 8, own - _PRIOR_REACH), own + _PRIOR_REACH)
        index = min(max(index, 1), MAX_INDEX)
        classes.seen[first + near] = _PRIOR * _MIDDLES[index] << 16 | _PRIOR
        classes.indices[first + near] = index


@kernel
def _learn(classes: _Classes, place: int, magnitude: int) -> None:
    """Count a symbol, and choose the table of its class anew from time to time."""
    at = np.uint64(place)
    seen = int(classes.seen[at]) + (magnitude << 26) + 1
    if seen & (_REFRESHED - 1) == 0:
        count, index = seen & 0xFFFF, int(classes.indices[at])
        mean = (seen >> 16) // count
        while index < MAX_INDEX and mean > _EDGES[index + 1]:
            index += 1
        while index > 1 and mean <= _EDGES[index]:
            index -= 1
        classes.indices[at] = index
        if count >= _REMEMBERED:
            seen = seen >> 17 << 16 | count >> 1
    classes.seen[at] = seen


@kernel
def _code_scales(
    decoding: bool,
    coded: NDArray[np.uint8],
    state: State,
    classes: _Classes,
    tables: NDArray[np.int32],
    scales: NDArray[np.int32],
) -> tuple[State, bool]:
    """Code the scales, each by what it differs from the component before, or the group before."""
    for group in range(scales.shape[1]):
        place = _FIRST_SCALE + group
        classes.seen[place] = _PRIOR * _MIDDLES[_SCALE_INDEX] << 16 | _PRIOR
        classes.indices[place] = _SCALE_INDEX
        for k in range(len(scales)):
            before = int(scales[k - 1, group]) if k else int(scales[k, group - 1]) if group else 0
            index = int(classes.indices[place])
            if decoding:
                state, change = _read(coded, state, tables, index)
                scale = before + change
                if not 0 <= scale <= MAX_SCALE:
                    return state, False
                scales[k, group] = scale
            else:
                change = int(scales[k, group]) - before
                state = _write(coded, state, tables, index, change)
            _learn(classes, place, abs(change))
    return state, True


# ---- one subband -------------------------------------------------------------------------------


@kernel
def _beside(band: int) -> int:
    """Weight of the neighbors to the left and above, by level and orientation."""
    return 39 if band < 7 else 52 if band % 3 == 0 else 91


@kernel
def _place(planes: _Planes, band: int, component: int, y: int) -> int:
    """Where a row of a plane begins."""
    pitch = int(planes.shapes[band, 1]) + 2 * _MARGIN
    row = component * (int(planes.shapes[band, 0]) + 2 * _MARGIN) + y + _MARGIN
    return int(planes.starts[band]) + row * pitch + _MARGIN


@kernel
def _around(
    sums: NDArray[np.int32],
    planes: _Planes,
    recent: NDArray[np.int32],
    band: int,
    component: int,
    y: int,
) -> None:
    """Sum what is known of a row before its first symbol, weighted."""
    loud, shapes, width = planes.loud, planes.shapes, sums.size
    at, pitch, beside = _place(planes, band, component, y), width + 2 * _MARGIN, _beside(band)
    above = loud[at - 2 * pitch : at - 2 * pitch + width]
    here = loud[at - pitch - 1 : at - pitch + width + 1]
    before = recent[y]
    for x in range(width):
        sums[x] = beside * here[x + 1] + 26 * (here[x] + above[x]) + 39 * here[x + 2]
        sums[x] += 160 * before[x]
    orientation = (band + 2) % 3 if band else 0  # HL, LH, HH; the low band stands alone
    parent = band - 3
    if parent > 0 and shapes[parent, 0] * shapes[parent, 1] > 0:
        at = _place(planes, parent, component, min(y >> 1, int(shapes[parent, 0]) - 1))
        weight, last = 26 if orientation == 2 else 52, int(shapes[parent, 1]) - 1
        pairs = min(width >> 1, last + 1)
        for pair in range(pairs):
            more = weight * loud[at + pair]
            sums[2 * pair] += more
            sums[2 * pair + 1] += more
        for x in range(2 * pairs, width):
            sums[x] += weight * loud[at + min(x >> 1, last)]
    weight = 78 if band < 7 else 65 if orientation == 2 else 26
    for sibling in range(band - orientation, band):
        if y < shapes[sibling, 0]:
            at = _place(planes, sibling, component, y)
            known = loud[at : at + min(width, int(shapes[sibling, 1]))]
            for x in range(known.size):
                sums[x] += weight * known[x]


@kernel
def _remember(recent: NDArray[np.int32], planes: _Planes, band: int, component: int) -> None:
    """Add a component to what those after it see."""
    height, width = recent.shape
    for y in range(height):
        at = _place(planes, band, component, y)
        loud, before = planes.loud[at : at + width], recent[y]
        for x in range(width):
            before[x] = ((before[x] * 5) >> 3) + loud[x]


@kernel
def _class(sums: NDArray[np.int32], x: int, beside: int, west: int, west_west: int) -> int:
    """Class of a place, within its group, by all that is known around it."""
    near = (int(sums[np.uint64(x)]) + beside * west + 26 * west_west) >> 6
    return int(_NEAR_CLASS[np.uint64(min(near, _SUM_LIMIT))])


@kernel
def _loudness(magnitude: int) -> int:
    return int(_LOUDNESS[np.uint64(min(magnitude, _LOUDEST))])


@kernel
def _write_row(
    coded: NDArray[np.uint8],
    state: State,
    classes: _Classes,
    first: int,
    tables: NDArray[np.int32],
    rounding: NDArray[np.float32],
    scale: np.float32,
    row: _Row,
    loud: NDArray[np.int8],
    beside: int,
) -> State:
    """Scale, round and code a row."""
    west, west_west, sums, latents = 0, 0, row.sums, row.latents
    for x in range(sums.size):
        place = first + _class(sums, x, beside, west, west_west)
        index = int(classes.indices[np.uint64(place)])
        latent = latents[np.uint64(x)]
        size = abs(latent) * scale + rounding[np.uint64(index)]
        west_west = west
        if size < 1:  # a way of its own: the core foresees it, and begins the next one meanwhile
            at = np.uint64(index * (ENTRIES + 1) + ALPHABET_LIMIT)
            start, end = int(tables[at]), int(tables[at + np.uint64(1)])
            state = _put(coded, state, start, end - start, PRECISION_BITS)
            if index > TABLE_COUNT:
                state = _put_plain(coded, state, 0, int(LOW_BITS[np.uint64(index)]))
            _learn(classes, place, 0)
            west = 0
        else:
            # Garbage in (NaN) is a large symbol, never an undefined one.
            magnitude = int(size) if size < SYMBOL_LIMIT else SYMBOL_LIMIT
            state = _write(coded, state, tables, index, -magnitude if latent < 0 else magnitude)
            _learn(classes, place, magnitude)
            west = _loudness(magnitude)
        loud[np.uint64(x)] = west
    return state


@kernel
def _read_row(
    coded: NDArray[np.uint8],
    state: State,
    classes: _Classes,
    first: int,
    tables: NDArray[np.int32],
    row: _Row,
    loud: NDArray[np.int8],
    beside: int,
) -> tuple[State, bool]:
    """Inverse of `_write_row`; return whether symbols are in range, too."""
    west, west_west, sums, symbols = 0, 0, row.sums, row.symbols
    for x in range(sums.size):
        place = first + _class(sums, x, beside, west, west_west)
        index = int(classes.indices[np.uint64(place)])
        at = np.uint64(index * (ENTRIES + 1) + ALPHABET_LIMIT)
        start, end = int(tables[at]), int(tables[at + np.uint64(1)])
        above, unit = state[0], state[1] >> PRECISION_BITS
        west_west = west
        if unit * start <= above < unit * end and index <= TABLE_COUNT:  # as in `_write_row`
            state = _take(coded, state, start, end - start, PRECISION_BITS)
            symbols[np.uint64(x)] = west = 0
            _learn(classes, place, 0)
        else:
            state, symbol = _read(coded, state, tables, index)
            if abs(symbol) > SYMBOL_LIMIT:
                return state, False
            symbols[np.uint64(x)] = symbol
            _learn(classes, place, abs(symbol))
            west = _loudness(abs(symbol))
        loud[np.uint64(x)] = west
    return state, True


# ---- a patch -----------------------------------------------------------------------------------


@kernel
def _gather(
    row: NDArray[np.float32], latents: NDArray[np.float32], band: int, top: int, left: int, y: int
) -> None:
    """Collect a row of a subband from a component's channels, shape (64, r, c)."""
    step = int(_SPLIT[band])
    first, deep, size = int(_FIRST[band]) + (y % step) * step, top + y // step, row.size
    if step == 1:
        for x in range(size):
            row[x] = latents[first, deep, left + x]
    elif step == 2:
        one, two = latents[first, deep], latents[first + 1, deep]
        for place in range(size // 2):
            row[2 * place], row[2 * place + 1] = one[left + place], two[left + place]
    else:
        one, two = latents[first, deep], latents[first + 1, deep]
        three, four = latents[first + 2, deep], latents[first + 3, deep]
        for place in range(size // 4):
            row[4 * place], row[4 * place + 1] = one[left + place], two[left + place]
            row[4 * place + 2], row[4 * place + 3] = three[left + place], four[left + place]
    for x in range(size - size % step, size):
        row[x] = latents[first + x % step, deep, left + x // step]


@kernel
def _scatter(
    row: NDArray[np.int32], symbols: NDArray[np.int32], band: int, top: int, left: int, y: int
) -> None:
    """Inverse of `_gather`."""
    step = int(_SPLIT[band])
    first = int(_FIRST[band]) + (y % step) * step
    for across in range(step):
        target = symbols[first + across, top + y // step]
        for place in range((row.size - across + step - 1) // step):
            target[left + place] = row[place * step + across]


@compiled
def code_quickly(
    decoding: bool,
    latents: NDArray[np.float32],
    scale: np.float32,
    symbols: NDArray[np.int32],
    shapes: NDArray[np.int64],
    scales: NDArray[np.int32],
    groups: NDArray[np.int64],
    tables: NDArray[np.int32],
    rounding: NDArray[np.float32],
    coded: NDArray[np.uint8],
) -> int:
    """Round and code all subbands, or decode them.

    Args:
        decoding: Whether `coded` is read and `symbols`, all zero, written.
        latents: Shape (components, 64, r, c); when decoding, (components, 64, 0, 0).
        scale: Steps in a unit of these.
        symbols: Likewise, the other way round.
        shapes: Height, width and place in its channels' plane of each subband, shape (BANDS, 4).
        scales: Of the groups, shape (components, groups); where one is 0 nothing is coded. Written
            when decoding.
        groups: Group of each subband, shape (BANDS,).
        tables: Where each entry begins, and the end, of the table of each scale index, shape
            ((MAX_INDEX + 1) · (ENTRIES + 1),).
        rounding: What is added to a magnitude before it is cut off, by scale index.
        coded: The bytes.

    Returns:
        Bytes written, or read: the decoder looks `LOOKAHEAD` ahead. SHORT if `coded` is too small,
        DAMAGED if a decoded symbol or scale is out of range.
    """
    above = 0
    if decoding:
        for place in range(_WINDOW // 8):
            above = above << 8 | (int(coded[place]) if place < coded.size else 0)
    state = above, 1 << _WINDOW, _WINDOW // 8 if decoding else 0
    size = _FIRST_SCALE + scales.shape[1]
    classes = _Classes(np.zeros(size, np.int64), np.zeros(size, np.int16))
    state, good = _code_scales(decoding, coded, state, classes, tables, scales)
    if not good:
        return DAMAGED
    count, starts = len(scales), np.zeros(BANDS + 1, np.int64)
    for band in range(BANDS):
        bordered = (shapes[band, 0] + 2 * _MARGIN) * (shapes[band, 1] + 2 * _MARGIN)
        starts[band + 1] = starts[band] + count * bordered
    planes = _Planes(np.zeros(starts[BANDS], np.int8), starts, shapes)
    for band in range(BANDS):
        height, width = int(shapes[band, 0]), int(shapes[band, 1])
        recent = np.zeros((height, width), np.int32)
        row = _Row(
            np.zeros(width, np.int32), np.zeros(width, np.float32), np.zeros(width, np.int32)
        )
        for k in range(count):
            expected = int(scales[k, groups[band]])
            first = (int(_LEVEL_OF[band]) * (_SCALES + 1) + min(expected, _SCALES)) * _NEAR
            if expected > 0 and classes.seen[first] == 0:
                _expect(classes, first, expected)
            for y in range(height if expected > 0 else 0):
                _around(row.sums, planes, recent, band, k, y)
                at = _place(planes, band, k, y)
                loud = planes.loud[at : at + width]
                top, left, weight = int(shapes[band, 2]), int(shapes[band, 3]), _beside(band)
                if decoding:
                    state, good = _read_row(coded, state, classes, first, tables, row, loud, weight)
                    _scatter(row.symbols, symbols[k], band, top, left, y)
                else:
                    _gather(row.latents, latents[k], band, top, left, y)
                    state = _write_row(
                        *(coded, state, classes, first, tables, rounding, scale, row, loud, weight)
                    )
                if not good:
                    return DAMAGED
            _remember(recent, planes, band, k)
    return state[2] if decoding else _finish(coded, state)


@kernel
def _finish(coded: NDArray[np.uint8], state: State) -> int:
    """Write the two bytes that lead into what is left of the range, which is wider than that."""
    low, _, end = state
    low += -low & ((1 << _WORD) - 1)
    if low >> _WINDOW:
        _carry(coded, end)
    if end + 1 >= coded.size:
        return SHORT
    coded[end], coded[end + 1] = (low >> (_WORD + 8)) & 255, (low >> _WORD) & 255
    return end + 2


@compiled
def mean_magnitudes(latents: NDArray[np.float32], scale: np.float32) -> NDArray[np.float64]:
    """Mean magnitude of each channel's symbols, if they were rounded at once.

    Args:
        latents: Shape (channels, n).
        scale: Steps in a unit of these.

    Returns:
        Shape (channels,).
    """
    means = np.zeros(len(latents), np.float64)
    for channel in range(len(latents)):
        row, total = latents[channel], 0
        for i in range(row.size):
            size = abs(row[i]) * scale + np.float32(ROUNDING)
            total += int(size) if size < SYMBOL_LIMIT else SYMBOL_LIMIT
        means[channel] = total / max(1, row.size)
    return means
