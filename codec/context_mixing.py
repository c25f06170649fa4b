"""Binary decisions, each under a mix of adaptive contexts: the compiled part of `context_coder`.

Subbands go from coarse to fine, in each the components by falling variance, and a component's
subband row by row. A symbol is a few decisions: whether its magnitude has another bit, for each bit
it may have; then the bits below the first; then the sign. What is known when it is its turn:

    own       . . 2 . .     the magnitudes before it in its own subband, weighted
              . 2 7 3 .
              2 7 ?
    far       the parent (the same place one level up) and the sibling subbands already coded
    before    the same place in all components before, the last ones weighted most
    kin       how these same neighbors and this place went together in the components before, sign
              against sign: an edge that turned up in some turns up in the next
    trend     what foretells it best, of all weighted sums of ten neighbors, by the rows before it:
              linear prediction, which finds stripes and whatever else a sensor repeats
    scale     of the symbol's group, which the encoder sends

Six contexts made of these each give a chance; their mix, weighted in the logistic domain, is what
the range coder uses; then the decision itself corrects the chances and the weights. A sign's chance
is mixed of what kin and trend expect. Where all neighbors are zero one chance does. All of it is
integers: every machine decides alike.

It is one file, long as it is: see `codec.compiled`.

The encoder alone knows how far a latent lies from its symbol. A magnitude of 0, 1 or 2 that could
as well be the next is settled when it is its turn, by what either costs under the very chances of
that moment: the error, plus a bit's worth for each bit.

Sources: mixing, Mahoney, Florida Tech. CS-2005-16, 2005; binary decisions, Marpe, Schwarz &
Wiegand, IEEE TCSVT 13(7), 2003; weighted magnitudes, Wu, ECECOW, Asilomar 1997; linear prediction
from autocorrelation, Makhoul, Proc. IEEE 63(4), 1975; rounding by rate and distortion, Ramchandran
& Vetterli, IEEE TIP 3(5), 1994.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.compiled import compiled, kernel
from codec.quantize import SYMBOL_LIMIT
from codec.subbands import SUBBANDS

BANDS: Final = len(SUBBANDS)
CONTEXTS: Final = 6
SLOTS: Final = 16
"""Decisions of a symbol that contexts tell apart: "longer than 0, 1, … bits", then the bit below
the first in magnitudes of 2, 3, 4 and more bits."""
_LONGER: Final = 11

_RANKS: Final = 16
_SCALES: Final = 32
_LEVELS: Final = 16
_FINE_LEVELS: Final = 48
_SIZES: Final = (
    BANDS * _RANKS * _LEVELS,
    _SCALES * _LEVELS * _LEVELS,
    BANDS * _SCALES * _FINE_LEVELS,
    BANDS * _RANKS * _LEVELS,
    BANDS * _LEVELS * _LEVELS,
    BANDS * _LEVELS * _LEVELS,
)
_STARTS: Final = tuple(SLOTS * sum(_SIZES[:i]) for i in range(CONTEXTS + 1))
"""First state of each context; then follow those of single decisions:"""
_SILENT: Final = _STARTS[CONTEXTS]
_SIGNS: Final = _SILENT + BANDS * _SCALES
_SIGN_CLASSES: Final = 4
_SIGN_LEVELS: Final = 12
_TREND_SIGNS: Final = _SIGNS + BANDS * _SIGN_LEVELS * _SIGN_CLASSES
_LOW_BITS: Final = _TREND_SIGNS + BANDS * _SIGN_LEVELS * _SIGN_CLASSES
_LOW_PLACES: Final = 32
STATE_COUNT: Final = _LOW_BITS + 32 * _LOW_PLACES

COUNT_MASK: Final = (1 << 10) - 1
_CHANCE_BITS: Final = 21
"""A state is a chance [2⁻²¹] and, in its low ten bits, how many decisions it has seen. Like all
here it is signed: Numba makes floats of signed and unsigned integers together."""
LEARNED: Final = 327_680 // (5 * np.arange(COUNT_MASK + 1) + 8)
"""How far a state moves towards a decision after seeing n, 1/(n + 1.6) [2⁻¹⁶]."""

_LOUDEST: Final = 4095
_SUM_LIMIT: Final = 8191
_LOGITS: Final = 2048
EXACT: Final = {
    "loudness": 8 * np.log2(1 + np.arange(_LOUDEST + 1)),
    "level": 2.6 * np.log2(1 + np.arange(_SUM_LIMIT + 1) / 8),
    "fine level": 6 * np.log2(1 + np.arange(_SUM_LIMIT + 1) / 8),
    "stretched": 256 * np.log((2 * np.arange(4096) + 1) / (8191 - 2 * np.arange(4096))),
    "squashed": 65536 / (1 + np.exp(-np.arange(-_LOGITS, _LOGITS) / 256)),
}
"""What is rounded below. None lies within 10⁻⁵ of a half, so every machine rounds alike."""
_LOUDNESS: Final = np.rint(EXACT["loudness"]).astype(np.int8)
"""Of a magnitude [⅛ octave]."""
_LEVEL: Final = np.minimum(np.rint(EXACT["level"]), _LEVELS - 1).astype(np.int8)
_FINE_LEVEL: Final = np.minimum(np.rint(EXACT["fine level"]), _FINE_LEVELS - 1).astype(np.int8)
"""Of a sum of loudness."""
_STRETCHED: Final = np.clip(np.rint(EXACT["stretched"]), 1 - _LOGITS, _LOGITS - 1).astype(np.int16)
"""Log odds [1/256] of a chance [2⁻¹²]."""
_SQUASHED: Final = np.rint(EXACT["squashed"]).astype(np.int32)
"""Chance [2⁻¹⁶] of log odds [1/256]."""

_COST: Final = np.rint(-256 * np.log2((np.arange(4096) + 0.5) / 4096)).astype(np.int64)
"""Bits [1/256] that a decision of some chance [2⁻¹²] takes. The encoder's affair: rounding may
differ."""
_BIT_WORTH: Final = 118
"""Squared steps a bit is worth [1/1024], ln 2/6: see `codec.quantize.best_rounding`. A fifth more
or less costs 0.3 % of the bytes at equal PSNR."""
_SETTLED_BELOW, _SETTLED_UP_TO = 64, 115
"""Magnitudes up to 0.25 [1/256 step] are 0; of two candidates the larger one needs more than 0.45
above the smaller."""

_EVEN: Final = 1 << 15
_CAUTION: Final = 15
"""Weights move by 2⁻¹⁵ of what would mend a decision at once. 2⁻¹⁶ costs 0.3 % of the bytes."""
_HALF: Final = 1 << _CAUTION - 1
_MARGIN: Final = 2
"""Zeros around every plane."""
_NEAREST: Final = 1023
"""Larger symbols count as this among kin: sums over 512 components fit 32 bits."""
_MAX_BITS: Final = SYMBOL_LIMIT.bit_length()

TREND: Final = (
    *((0, 1), (1, 0), (1, 1), (1, -1), (0, 2)),
    *((2, 0), (1, 2), (1, -2), (2, 1), (2, -1)),
)
"""Neighbors of the trend: rows up and columns left. Six cost open water 1 to 2 % more; what lies
further away, or in parents and siblings, gains nothing on land."""
_LAG_ROWS, _LAG_COLS = 2, 4
"""How far two of them lie apart at most."""


def _lag(rows: int, cols: int) -> int:
    """Where products of symbols so far apart are summed; either way round they are the same."""
    if (rows, cols) < (0, 0):
        rows, cols = -rows, -cols
    return rows * (2 * _LAG_COLS + 1) + _LAG_COLS + cols


_LAGS: Final = _lag(_LAG_ROWS, _LAG_COLS) + 1
_TO_HERE: Final = np.array([_lag(*place) for place in TREND])
_BETWEEN: Final = np.array([[_lag(a - c, b - d) for c, d in TREND] for a, b in TREND])
RIDGE: Final = 50
"""Squares of symbols that speak against a trend before the first speaks for one."""
_STEEPEST: Final = 4 << 16
_TREND_UNIT: Final = 12
"""The least trend that counts is 2⁻⁴."""

SHORT: Final = -1
DAMAGED: Final = -2


class _Coder(NamedTuple):
    """A range coder; `at` holds low, high, what is being decoded, and the place in `coded`."""

    decoding: bool
    at: NDArray[np.int64]
    coded: NDArray[np.uint8]


class _Mix(NamedTuple):
    """States and weights, adapted in place.

    `chosen` holds the first state of each context, `stretched` the log odds they gave last;
    `signs` both for a sign: the states of kin and trend, then their log odds.
    """

    states: NDArray[np.int32]
    weights: NDArray[np.int32]
    trust: int
    chosen: NDArray[np.int64]
    stretched: NDArray[np.int64]
    signs: NDArray[np.int64]


class _Loudness(NamedTuple):
    """Loudness of all subbands: plane k of a subband begins at starts[band] + k · its size."""

    values: NDArray[np.int8]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]


class _Memory(NamedTuple):
    """What one subband's earlier components leave behind, place by place.

    `total` and `recent` are sums of loudness, `before` what contexts take of both, `usual` the
    level of its mean; `far` is a row's, of the component's other subbands; `near` holds the
    component's own symbols, `energy` the squares of those before, and `kin` their products with the
    six neighbors of `own`. `lags` holds products of symbols by how far they lie apart, and `trend`
    the weights of the neighbors [2⁻¹⁶].
    """

    total: NDArray[np.int64]
    recent: NDArray[np.int64]
    before: NDArray[np.int64]
    usual: NDArray[np.int8]
    far: NDArray[np.int64]
    near: NDArray[np.int32]
    energy: NDArray[np.int64]
    kin: NDArray[np.int32]
    lags: NDArray[np.int64]
    trend: NDArray[np.int64]


# ---- one decision ------------------------------------------------------------------------------


@kernel
def _decide(coder: _Coder, bit: int, chance: int) -> int:
    """Code one decision, whose chance to be 1 is given [2⁻¹⁶]; return it."""
    at, coded = coder.at, coder.coded
    low, high = int(at[0]), int(at[1])
    width = high - low
    middle = low + (width >> 16) * chance + (((width & 0xFFFF) * chance) >> 16)
    if coder.decoding:
        bit = 1 if at[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        if coder.decoding:
            following = np.int64(coded[at[3]]) if at[3] < coded.size else 0
            at[2] = ((at[2] << 8) & 0xFFFFFFFF) | following
        elif at[3] < coded.size:
            coded[at[3]] = high >> 24
        at[3] += 1
        low, high = (low << 8) & 0xFFFFFFFF, ((high << 8) & 0xFFFFFFFF) | 255
    at[0], at[1] = low, high
    return bit


@kernel
def _learn(states: NDArray[np.int32], place: int, bit: int, trust: int) -> None:
    """Move a state towards a decision."""
    # Numba looks whether a signed index is negative; that takes a twentieth of all time.
    at = np.uint64(place)
    state = int(states[at])
    count, chance = state & COUNT_MASK, state >> 10
    away = ((1 << _CHANCE_BITS) - 1 - chance) if bit else chance
    step = ((away >> 3) * int(LEARNED[np.uint64(count)])) >> 13
    chance += step if bit else -step
    states[at] = (chance << 10) | (count + 1 if count < trust else count)


@kernel
def _alone(coder: _Coder, mix: _Mix, bit: int, place: int) -> int:
    """Code a decision under one state."""
    chance = int(mix.states[place]) >> 15
    bit = _decide(coder, bit, min(max(chance, 32), 65504))
    _learn(mix.states, place, bit, mix.trust)
    return bit


@kernel
def _expect(mix: _Mix, band: int, slot: int) -> int:
    """Mix the contexts: the chance [2⁻¹⁶] that a decision is 1."""
    weights = mix.weights[band * SLOTS + slot]
    total = int(weights[CONTEXTS]) << 8
    for i in range(CONTEXTS):
        chance = mix.states[np.uint64(mix.chosen[i] + slot)] >> 19
        mix.stretched[i] = _STRETCHED[np.uint64(chance)]
        total += int(weights[i]) * int(mix.stretched[i])
    logit = min(max(total >> 16, 1 - _LOGITS), _LOGITS - 1)
    return int(_SQUASHED[logit + _LOGITS])


@kernel
def _mixed(coder: _Coder, mix: _Mix, bit: int, band: int, slot: int) -> int:
    """Code a decision under all contexts."""
    chance, weights = _expect(mix, band, slot), mix.weights[band * SLOTS + slot]
    bit = _decide(coder, bit, chance)
    error = (bit << 16) - chance
    for i in range(CONTEXTS):
        weights[i] += (mix.stretched[i] * error + _HALF) >> _CAUTION
        _learn(mix.states, mix.chosen[i] + slot, bit, mix.trust)
    weights[CONTEXTS] += ((error << 8) + _HALF) >> _CAUTION
    return bit


# ---- one symbol --------------------------------------------------------------------------------


@kernel
def _bits_of(value: int) -> int:
    bits = 0
    while value:
        bits += 1
        value >>= 1
    return bits


@kernel
def _magnitude(coder: _Coder, mix: _Mix, magnitude: int, band: int, least: int) -> int:
    """Code a magnitude known to have some bits at least."""
    bits, length = _bits_of(magnitude), least
    while length <= _MAX_BITS:
        longer = 1 if bits > length else 0
        if not _mixed(coder, mix, longer, band, min(length, _LONGER - 1)):
            break
        length += 1
    if length < 2:
        return length
    slot = _LONGER - 1 + min(length, SLOTS - _LONGER)
    found = 2 | _mixed(coder, mix, (magnitude >> (length - 2)) & 1, band, slot)
    for place in range(length - 3, -1, -1):
        below = length - 3 - place
        state = _LOW_BITS + length * _LOW_PLACES + 2 * min(below, 8)
        if below == 0:
            state += found & 1
        found = 2 * found | _alone(coder, mix, (magnitude >> place) & 1, state)
    return found


@kernel
def _expect_sign(mix: _Mix, band: int, magnitude: int, likeness: int, kin: int, trend: int) -> int:
    """Mix what kin and trend expect: the chance [2⁻¹⁶] that a sign is negative."""
    weights, total = mix.weights[BANDS * SLOTS + band], 0
    size = band * _SIGN_LEVELS * _SIGN_CLASSES + min(_bits_of(magnitude), _SIGN_CLASSES - 1)
    if likeness:
        mix.signs[0] = _SIGNS + size + min(kin, _SIGN_LEVELS - 1) * _SIGN_CLASSES
        odds = int(_STRETCHED[mix.states[mix.signs[0]] >> 19])
        mix.signs[2] = -odds if likeness < 0 else odds
        total += int(weights[0]) * mix.signs[2]
    if trend:
        level = min(_bits_of(abs(trend) >> _TREND_UNIT), _SIGN_LEVELS - 1)
        mix.signs[1] = _TREND_SIGNS + size + level * _SIGN_CLASSES
        odds = int(_STRETCHED[mix.states[mix.signs[1]] >> 19])
        mix.signs[3] = -odds if trend < 0 else odds
        total += int(weights[1]) * mix.signs[3]
    logit = min(max(total >> 16, 1 - _LOGITS), _LOGITS - 1)
    return int(_SQUASHED[logit + _LOGITS])


@kernel
def _is_negative(
    coder: _Coder,
    mix: _Mix,
    negative: int,
    band: int,
    magnitude: int,
    likeness: int,
    kin: int,
    trend: int,
) -> int:
    """Code a sign, as kin and trend expect it or not."""
    if likeness == 0 and trend == 0:
        return _decide(coder, negative, _EVEN)
    chance = _expect_sign(mix, band, magnitude, likeness, kin, trend)
    negative, weights = _decide(coder, negative, chance), mix.weights[BANDS * SLOTS + band]
    error = (negative << 16) - chance
    if likeness:
        weights[0] += (mix.signs[2] * error + _HALF) >> _CAUTION
        _learn(mix.states, mix.signs[0], negative ^ (1 if likeness < 0 else 0), mix.trust)
    if trend:
        weights[1] += (mix.signs[3] * error + _HALF) >> _CAUTION
        _learn(mix.states, mix.signs[1], negative ^ (1 if trend < 0 else 0), mix.trust)
    return negative


@kernel
def _cost(chance: int, bit: int) -> int:
    """Bits [1/256] of a decision of some chance [2⁻¹⁶] to be 1."""
    return int(_COST[(chance if bit else 65535 - chance) >> 4])


@kernel
def _settled(
    mix: _Mix, latent: int, band: int, silent: int, likeness: int, kin: int, trend: int
) -> int:
    """Round a latent [1/256 step] to one of the two magnitudes in doubt, by rate and distortion.

    `silent` is the state of the first decision where it is not mixed, else −1.
    """
    smaller = (abs(latent) - _SETTLED_BELOW) >> 8
    above = abs(latent) - (smaller << 8)
    if above <= _SETTLED_UP_TO:
        found = smaller
    else:
        chance = _expect(mix, band, smaller + 1)
        if smaller == 0:
            first = int(mix.states[silent]) >> 15 if silent >= 0 else _expect(mix, band, 0)
            bits = _cost(first, 1) - _cost(first, 0) + _cost(chance, 0)
            if likeness or trend:
                sign = _expect_sign(mix, band, 1, likeness, kin, trend)
                bits += _cost(sign, 1 if latent < 0 else 0)
            else:
                bits += 256
        else:
            first = _expect(mix, band, 1)
            bits = _cost(first, 1) - _cost(first, 0) + _cost(chance, 0)
            bits += _cost(_expect(mix, band, _LONGER + 1), 0)
        found = smaller + (1 if (2 * above - 256) << 10 > bits * _BIT_WORTH else 0)
    return found if latent > 0 else -found


@kernel
def _likeness(memory: _Memory, y: int, x: int) -> tuple[int, int]:
    """What kin expect here, signed, and its level."""
    near, energy, kin = memory.near, memory.energy, memory.kin[y, x]
    r, c = y + _MARGIN, x + _MARGIN
    expected = kin[0] * near[r, c - 1] + kin[1] * near[r - 1, c] + kin[2] * near[r - 1, c - 1]
    expected += kin[3] * near[r - 1, c + 1] + kin[4] * near[r, c - 2] + kin[5] * near[r - 2, c]
    if expected == 0:
        return 0, 0
    power = energy[r, c - 1] + energy[r - 1, c] + energy[r - 1, c - 1]
    power += energy[r - 1, c + 1] + energy[r, c - 2] + energy[r - 2, c]
    return int(expected), _bits_of(int(16 * abs(expected) // (2 * power + 8)))


@kernel
def _foreseen(memory: _Memory, y: int, x: int) -> int:
    """What the trend makes of the neighbors [2⁻¹⁶]."""
    near, weight, r, c = memory.near, memory.trend, y + _MARGIN, x + _MARGIN
    total = weight[0] * near[r, c - 1] + weight[4] * near[r, c - 2]
    total += weight[1] * near[r - 1, c] + weight[5] * near[r - 2, c]
    total += weight[2] * near[r - 1, c - 1] + weight[3] * near[r - 1, c + 1]
    total += weight[6] * near[r - 1, c - 2] + weight[7] * near[r - 1, c + 2]
    total += weight[8] * near[r - 2, c - 1] + weight[9] * near[r - 2, c + 1]
    return int(total)


@kernel
def _follow(memory: _Memory, y: int) -> None:
    """Learn the trend of a row: the normal equations, by a sweep of Gauss and Seidel."""
    near, lags, weights, r = memory.near, memory.lags, memory.trend, y + _MARGIN
    for rows in range(_LAG_ROWS + 1):
        for cols in range(-_LAG_COLS if rows else 0, _LAG_COLS + 1):
            start = _MARGIN + max(0, cols)
            end = near.shape[1] - _MARGIN + min(0, cols)
            here, there, total = near[r, start:end], near[r - rows, start - cols : end - cols], 0
            for x in range(here.size):
                total += int(here[x]) * int(there[x])
            lags[rows * (2 * _LAG_COLS + 1) + _LAG_COLS + cols] += total
    for i in range(weights.size):
        rest = lags[_TO_HERE[i]] << 16
        for j in range(weights.size):
            if j != i:
                rest -= lags[_BETWEEN[i, j]] * weights[j]
        found = rest // (lags[_LAG_COLS] + RIDGE)
        weights[i] = min(max(found, -_STEEPEST), _STEEPEST)


@kernel
def _choose(
    mix: _Mix,
    band: int,
    rank: int,
    scale: int,
    own: int,
    before: int,
    usual: int,
    kin: int,
    trend: int,
) -> None:
    """Choose the states of a symbol's contexts."""
    all_sum = min((13 * own + 10 * before) >> 4, _SUM_LIMIT)
    own_level, all_level = int(_LEVEL[min(own, _SUM_LIMIT)]), int(_LEVEL[all_sum])
    coarse_rank = rank if rank < 8 else min(7 + rank // 8, _RANKS - 1)
    place = (band * _RANKS + coarse_rank) * _LEVELS + all_level
    mix.chosen[0] = _STARTS[0] + place * SLOTS
    place = (scale * _LEVELS + usual) * _LEVELS + own_level
    mix.chosen[1] = _STARTS[1] + place * SLOTS
    place = (band * _SCALES + scale) * _FINE_LEVELS + int(_FINE_LEVEL[all_sum])
    mix.chosen[2] = _STARTS[2] + place * SLOTS
    place = (band * _RANKS + min(rank, _RANKS - 1)) * _LEVELS + usual
    mix.chosen[3] = _STARTS[3] + place * SLOTS
    place = (band * _LEVELS + min(kin, _LEVELS - 1)) * _LEVELS + own_level
    mix.chosen[4] = _STARTS[4] + place * SLOTS
    trend_level = min(_bits_of(abs(trend) >> _TREND_UNIT), _LEVELS - 1)
    place = (band * _LEVELS + trend_level) * _LEVELS + all_level
    mix.chosen[5] = _STARTS[5] + place * SLOTS


# ---- one subband -------------------------------------------------------------------------------


@kernel
def _plane(loudness: _Loudness, band: int, component: int) -> tuple[int, int]:
    """Where a plane's first coefficient lies, and how far apart its rows are."""
    pitch = int(loudness.shapes[band, 2]) + 2 * _MARGIN
    rows = component * (int(loudness.shapes[band, 1]) + 2 * _MARGIN) + _MARGIN
    return int(loudness.starts[band]) + rows * pitch + _MARGIN, pitch


@kernel
def _far(sums: NDArray[np.int64], loudness: _Loudness, band: int, component: int, y: int) -> None:
    """Sum the loudness of parent and siblings, and around them, along a row."""
    loud, shapes = loudness.values, loudness.shapes
    orientation = (band + 2) % 3 if band else 0  # HL, LH, HH; the low band stands alone
    parent = band - 3
    sums[:] = 0
    if parent > 0 and shapes[parent, 1] * shapes[parent, 2] > 0:
        first, pitch = _plane(loudness, parent, component)
        first += min(y >> 1, int(shapes[parent, 1]) - 1) * pitch
        weight, last = 2 if orientation == 2 else 4, int(shapes[parent, 2]) - 1
        for x in range(sums.size):
            at = first + min(x >> 1, last)
            beside = int(loud[at - 1]) + int(loud[at + 1])
            above = int(loud[at - pitch]) + int(loud[at + pitch])
            sums[x] += weight * int(loud[at]) + beside + above
    weight = 6 if band < 7 else 5 if orientation == 2 else 2
    for sibling in range(band - orientation, band):
        if y < shapes[sibling, 1]:
            first, pitch = _plane(loudness, sibling, component)
            first += y * pitch
            for x in range(min(sums.size, shapes[sibling, 2])):
                at = first + x
                beside = int(loud[at - 1]) + int(loud[at + 1])
                above = int(loud[at - pitch]) + int(loud[at + pitch])
                sums[x] += weight * int(loud[at]) + beside + 2 * above


@kernel
def _remember(memory: _Memory, loud: NDArray[np.int8], first: int, pitch: int, rank: int) -> None:
    """Add a component to what those after it see."""
    height, width = memory.total.shape
    for y in range(height):
        for x in range(width):
            heard = int(loud[first + y * pitch + x])
            memory.recent[y, x] = ((memory.recent[y, x] * 5) >> 3) + heard
            memory.total[y, x] += heard
            total = memory.total[y, x]
            if total:
                memory.before[y, x] = (8 * memory.recent[y, x] + 5 * total) >> 2
                memory.usual[y, x] = _LEVEL[min(4 * total // (rank + 2), _SUM_LIMIT)]
            near = int(memory.near[y + _MARGIN, x + _MARGIN])
            memory.energy[y + _MARGIN, x + _MARGIN] += near * near


@kernel
def _place_symbol(memory: _Memory, y: int, x: int, value: int) -> None:
    """Put a symbol where its neighbors see it, and note how it goes together with them."""
    near, kin, r, c = memory.near, memory.kin, y + _MARGIN, x + _MARGIN
    value = min(max(value, -_NEAREST), _NEAREST)
    near[r, c] = value
    kin[y, x, 0] += value * near[r, c - 1]
    kin[y, x, 1] += value * near[r - 1, c]
    kin[y, x, 2] += value * near[r - 1, c - 1]
    kin[y, x, 3] += value * near[r - 1, c + 1]
    kin[y, x, 4] += value * near[r, c - 2]
    kin[y, x, 5] += value * near[r - 2, c]


@kernel
def _code_component(
    coder: _Coder,
    mix: _Mix,
    loudness: _Loudness,
    memory: _Memory,
    symbols: NDArray[np.int32],
    errors: NDArray[np.int16],
    band: int,
    rank: int,
    scale: int,
) -> bool:
    """Code one component's subband, shape (h, w); return whether a symbol is too large."""
    height, width = symbols.shape
    loud, far = loudness.values, memory.far
    first, pitch = _plane(loudness, band, rank)
    beside = 3 if band < 7 else 4 if band % 3 == 0 else 7
    memory.near[:] = 0
    for y in range(height):
        _far(far, loudness, band, rank, y)
        some = False
        for x in range(width):
            at = first + y * pitch + x
            own = beside * (int(loud[at - 1]) + int(loud[at - pitch]))
            own += 2 * (int(loud[at - 2]) + int(loud[at - 2 * pitch]) + int(loud[at - pitch - 1]))
            own = (own + 3 * int(loud[at - pitch + 1]) + int(far[x])) >> 2
            before, value = int(memory.before[y, x]), int(symbols[y, x])
            usual, likeness, kin, trend = int(memory.usual[y, x]), 0, 0, 0
            silent = _SILENT + band * _SCALES + scale if own + before == 0 else -1
            if silent < 0:
                trend = _foreseen(memory, y, x)
                if memory.energy[y + _MARGIN, x + _MARGIN]:
                    likeness, kin = _likeness(memory, y, x)
            if errors.size and abs(value) < 3:
                latent = (value << 8) + int(errors[y, x])
                if _SETTLED_UP_TO < abs(latent) < _SETTLED_BELOW + 512:
                    _choose(mix, band, rank, scale, own, before, usual, kin, trend)
                    value = _settled(mix, latent, band, silent, likeness, kin, trend)
            if silent >= 0 and not _alone(coder, mix, 1 if value else 0, silent):
                continue
            _choose(mix, band, rank, scale, own, before, usual, kin, trend)
            magnitude = _magnitude(coder, mix, abs(value), band, 0 if silent < 0 else 1)
            if magnitude == 0:
                continue
            if magnitude > SYMBOL_LIMIT:
                return True
            negative = _is_negative(
                coder, mix, 1 if value < 0 else 0, band, magnitude, likeness, kin, trend
            )
            value = -magnitude if negative else magnitude
            if coder.decoding:
                symbols[y, x] = value
            loud[at] = _LOUDNESS[min(magnitude, _LOUDEST)]
            _place_symbol(memory, y, x, value)
            some = True
        if some:
            _follow(memory, y)
    for i in range(memory.lags.size):
        memory.lags[i] -= memory.lags[i] >> 2
    _remember(memory, loud, first, pitch, rank)
    return False


# ---- a patch -----------------------------------------------------------------------------------


@compiled
def code_subbands(
    decoding: bool,
    symbols: NDArray[np.int32],
    errors: NDArray[np.int16],
    shapes: NDArray[np.int64],
    scales: NDArray[np.int32],
    states: NDArray[np.int32],
    weights: NDArray[np.int32],
    coded: NDArray[np.uint8],
    trust: int,
) -> int:
    """Code all subbands, or decode them.

    Args:
        decoding: Whether `coded` is read and `symbols`, all zero, written.
        symbols: The subbands, one after another, shape (n,).
        errors: What each latent exceeds its symbol by [1/256 step], shape (n,), and small symbols
            are rounded anew; or empty, and they are coded as they are.
        shapes: (components, h, w) of each, shape (BANDS, 3).
        scales: Of the groups, shape (components, BANDS); where one is 0 nothing is coded.
        states: Adapted in place, shape (STATE_COUNT,).
        weights: Adapted in place, shape (BANDS · SLOTS, CONTEXTS + 1).
        coded: The bytes.
        trust: Decisions after which a state moves no slower.

    Returns:
        Bytes written, or read: the decoder looks four ahead of those that count. SHORT if `coded`
        is too small, DAMAGED if a decoded magnitude is beyond `SYMBOL_LIMIT`.
    """
    coder = _Coder(decoding, np.array([0, 0xFFFFFFFF, 0, 0]), coded)
    if decoding:
        for place in range(4):
            coder.at[2] = coder.at[2] << 8 | (np.int64(coded[place]) if place < coded.size else 0)
        coder.at[3] = 4
    chosen, stretched = np.zeros(CONTEXTS, np.int64), np.zeros(CONTEXTS, np.int64)
    mix = _Mix(states, weights, trust, chosen, stretched, np.zeros(4, np.int64))
    starts = np.zeros(BANDS + 1, np.int64)
    for band in range(BANDS):
        count, height, width = shapes[band]
        starts[band + 1] = starts[band] + count * (height + 2 * _MARGIN) * (width + 2 * _MARGIN)
    loudness, end = _Loudness(np.zeros(starts[BANDS], np.int8), starts, shapes), 0
    for band in range(BANDS):
        count, height, width = shapes[band]
        bordered = height + 2 * _MARGIN, width + 2 * _MARGIN
        memory = _Memory(
            np.zeros((height, width), np.int64),
            np.zeros((height, width), np.int64),
            np.zeros((height, width), np.int64),
            np.zeros((height, width), np.int8),
            np.zeros(width, np.int64),
            np.zeros(bordered, np.int32),
            np.zeros(bordered, np.int64),
            np.zeros((height, width, 6), np.int32),
            np.zeros(_LAGS, np.int64),
            np.zeros(len(TREND), np.int64),
        )
        for k in range(count):
            start, end = end, end + height * width
            scale = min(int(scales[k, band]), _SCALES - 1)
            if scale > 0:
                plane = symbols[start:end].reshape(height, width)
                error = errors[start:end].reshape(plane.shape if errors.size else (0, 0))
                if _code_component(coder, mix, loudness, memory, plane, error, band, k, scale):
                    return DAMAGED
    return _finish(coder)


@kernel
def _finish(coder: _Coder) -> int:
    """Write the fewest bytes that lead into what is left of the range."""
    at, coded = coder.at, coder.coded
    if coder.decoding:
        return int(at[3])
    if at[0] > 0:
        for count in range(1, 5):
            rest = (1 << (32 - 8 * count)) - 1
            value = (int(at[0]) + rest) & ~rest
            if value <= at[1]:
                for byte in range(count):
                    if at[3] < coded.size:
                        coded[at[3]] = (value >> (24 - 8 * byte)) & 0xFF
                    at[3] += 1
                break
    return int(at[3]) if at[3] <= coded.size else SHORT
