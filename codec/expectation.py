"""What a wavelet symbol's surroundings tell of it, compiled: the arithmetic of `codec.restoration`.

Many places are computed at once, the last axis of every array: `lanes`, whole rows of a subband.
Sums go over four components, or four terms, at a time, since what takes time is to fetch and store
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from codec.compiled import approximate

FEATURES: Final = 17
"""What the network sees of a coefficient."""
MARGIN: Final = 2
"""Zeros that frame a subband's image."""
_LANES: Final = 256
"""Places computed at once, at most, unless a row has more."""
_TOGETHER: Final = 4
"""Components that are summed at a time; of a number of them that this divides."""

NEAR: Final = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
FAR: Final = ((0, 2), (0, -2), (2, 0), (-2, 0))
_BESIDE: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
_PLACES: Final = np.array(
    [
        *((0, *place) for place in NEAR),
        *((source, *place) for source in (1, 2) for place in _BESIDE),
        (3, 0, 0),
        *((0, *place) for place in FAR),
    ]
)
"""Neighbors: of which plane (own, two siblings, parent), rows down, columns right."""
_REGRESSED: Final = len(_PLACES) - len(FAR)
"""Of these, the first so many enter kin and the local sum; all of its own plane the global one."""
OWN: Final = np.flatnonzero(_PLACES[:, 0] == 0)
RIDGE: Final = 4.0
"""Squares of symbols that speak against a weighted sum before the first speaks for one."""
_LEAST_LEFT: Final = 0.05
"""Of a component that its own symbols explain wholly, what counts as left to the others."""

_ONE_BITS: Final = 0x3F800000
_HALF_ROOT_BITS: Final = 0x3F3504F3
"""Of 1 and of √½, as float32."""
_LN_2: Final = np.float32(np.log(2))


class Layers(NamedTuple):
    """A network of linear layers and PReLUs.

    Attributes:
        weights: Shape (layers, most outputs, most inputs + 2): a row's weights, zeros, its bias,
            and its PReLU's slope; 1 for the last layer, which has none.
        sizes: Inputs of each layer and outputs of the last, shape (layers + 1,).
    """

    weights: NDArray[np.float32]
    sizes: NDArray[np.int64]


class Rows(NamedTuple):
    """What the network sees of one subband's coefficients; the others have nothing to go by.

    Attributes:
        features: Shape (n, FEATURES), float32.
        signs: What the network's answers are multiplied with, shape (n,), float32.
        places: Where the coefficients are in the subband's image, flat, shape (n,).
    """

    features: NDArray[np.float32]
    signs: NDArray[np.float32]
    places: NDArray[np.int64]


class Work(NamedTuple):
    """Room for the arithmetic of some places at once, the last axis of all of it.

    `near` holds the neighbors of four components, `here` their symbols; `active` numbers those that
    have any. `gram` holds the neighbors' products with each other, summed
    over components, then their Cholesky factor, and `sums` those with the symbols; `divided` is by
    that factor what `sums` is, and `local` what `near` is. `loud` sums magnitudes, `energy` squares
    of neighbors. `expected` holds kin, local and global, the energy of the other components, and
    the four sums these are made of. `seen` is what the network sees and `hidden` what its layers
    make of it in turn, with the bits of its logarithms' arguments in `bits`, alike in memory with
    `mantissa`; `sign` is the symbols', or what is expected of it.
    """

    active: NDArray[np.int64]
    near: NDArray[np.float32]
    here: NDArray[np.float32]
    gram: NDArray[np.float32]
    sums: NDArray[np.float32]
    divided: NDArray[np.float32]
    local: NDArray[np.float32]
    loud: NDArray[np.float32]
    energy: NDArray[np.float32]
    expected: NDArray[np.float32]
    sign: NDArray[np.float32]
    seen: NDArray[np.float32]
    hidden: NDArray[np.float32]
    mantissa: NDArray[np.float32]
    bits: NDArray[np.int32]


def rows_together(height: int, width: int) -> int:
    """How many rows of a subband are computed at once."""
    return max(1, min(height, _LANES // max(1, width)))


def room_for(lanes: int, components: int, network: Layers) -> Work:
    """Room for so many places of as many components."""
    size = _REGRESSED  # lanes are no constant: a compiler would unroll every loop over them

    def room(*shape: int) -> NDArray[np.float32]:
        return np.zeros((*shape, max(1, lanes)), np.float32)

    mantissa = room()
    return Work(
        active=np.zeros(components, np.int64),
        near=room(_TOGETHER, len(_PLACES) + 4),  # eight rows are read from the far ones on
        here=room(_TOGETHER),
        gram=room(size, size),
        sums=room(size),
        divided=room(size),
        local=room(size),
        loud=room(),
        energy=room(),
        expected=room(8),
        sign=room(),
        seen=room(_eights(FEATURES)),
        hidden=room(2, _eights(int(network.sizes.max(initial=1)))),
        mantissa=mantissa,
        bits=mantissa.view(np.int32),
    )


def layers_of(network: Sequence[nn.Module] | nn.Sequential) -> Layers:
    """Pack a network of linear layers, each but the last before a PReLU; without any, nothing."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    slopes = [layer.weight.numpy() for layer in network if isinstance(layer, nn.PReLU)]
    sizes = [layer.in_features for layer in linear] + [layer.out_features for layer in linear[-1:]]
    most = max(sizes, default=0)
    weights = np.zeros((len(linear), most, _eights(most) + 2), np.float32)
    for packed, layer in zip(weights, linear, strict=True):
        packed[: layer.out_features, : layer.in_features] = layer.weight.numpy()
        packed[: layer.out_features, -2] = layer.bias.numpy()
        packed[:, -1] = 1
    for packed, slope in zip(weights, slopes, strict=False):
        packed[: slope.size, -1] = slope
    return Layers(weights, np.array(sizes, np.int64))


def _eights(count: int) -> int:
    return -(-count // 8) * 8


@approximate
def walk(
    work: Work,
    sources: NDArray[np.float32],
    weights: NDArray[np.float32],
    means: NDArray[np.float32],
    network: Layers,
    image: NDArray[np.float32],
    rows: Rows,
) -> int:
    """Restore a subband, or write what a network would see of it; return how many rows these are.

    Args:
        work: As of `room_for`, for t = `rows_together` rows.
        sources: Own plane, siblings, parent, with margins, and rows of zeros up to a multiple of t,
            shape (4, k, ≥ h + 4, w + 4).
        weights: Of the neighbors in the own plane, for the global expectation, shape (16,).
        means: Mean magnitude of each component's subband, shape (k,).
        network: Whose answers are added to the image; if it has no layers, rows are written.
        image: Shape (≥ k, h · w).
        rows: Room for k · h · w.
    """
    lanes, restores, found = work.sign.size, network.sizes.size > 0, 0
    width = sources.shape[3] - 2 * MARGIN
    for start in range(0, image.shape[1], lanes):
        y, inside = start // width, min(lanes, image.shape[1] - start)
        active = _sum_all(work, sources, means, y)
        if active:
            _factor(work)
        for which in range(active):
            k = work.active[which]
            _gather(work.near[0], work.here[0], sources[:, k], y)
            _expect(work, weights)
            _describe(work, means[k])
            _describe_expected(work)
            if restores:
                answers, to = work.hidden[_answer(work, network), 0], image[k, start:]
                for lane in range(inside):
                    to[lane] += answers[lane] * work.sign[lane]
            else:
                for lane in range(inside):
                    if work.sign[lane] != 0:
                        for i in range(FEATURES):
                            rows.features[found, i] = work.seen[i, lane]
                        rows.signs[found] = work.sign[lane]
                        rows.places[found] = k * image.shape[1] + start + lane
                        found += 1
    return found


@approximate
def _sum_all(work: Work, sources: NDArray[np.float32], means: NDArray[np.float32], y: int) -> int:
    """Number the components with symbols here or around, and sum their products."""
    work.gram[:], work.sums[:], work.loud[:] = 0, 0, 0
    found = together = 0
    for k in range(means.size):
        near, here = work.near[together], work.here[together]
        _gather(near, here, sources[:, k], y)
        if means[k] > 0 and _speaks(near, here):
            work.active[found] = k
            found, together = found + 1, together + 1
            if together == _TOGETHER:
                _sum_products(work)
                together = 0
    if together:
        work.near[together:], work.here[together:] = 0, 0
        _sum_products(work)
    return found


@approximate
def _speaks(near: NDArray[np.float32], here: NDArray[np.float32]) -> bool:
    """Whether there is any symbol; most often the first rows tell."""
    for lane in range(here.size):
        if here[lane] != 0:
            return True
    for i in range(len(_PLACES)):
        row = near[i]
        for lane in range(row.size):
            if row[lane] != 0:
                return True
    return False


@approximate
def _gather(
    near: NDArray[np.float32], here: NDArray[np.float32], sources: NDArray[np.float32], y: int
) -> None:
    """Gather a component's symbols and their neighbors in the rows from y on."""
    _copy(here, sources[0], y, 0)
    for i in range(len(_PLACES)):
        _copy(near[i], sources[_PLACES[i, 0]], y + _PLACES[i, 1], _PLACES[i, 2])


@approximate
def _copy(to: NDArray[np.float32], plane: NDArray[np.float32], y: int, x: int) -> None:
    """Copy as many rows as there is room for, within the plane's margins."""
    width = plane.shape[1] - 2 * MARGIN
    for row in range(to.size // width):
        # Sliced first: indices that may be negative are compiled to loads one by one.
        line = plane[MARGIN + y + row]
        part, into = line[MARGIN + x : MARGIN + x + width], to[row * width : (row + 1) * width]
        for lane in range(width):
            into[lane] = part[lane]


@approximate
def _sum_products(work: Work) -> None:
    """Add four components' products."""
    near = work.near
    h0, h1, h2, h3 = work.here[0], work.here[1], work.here[2], work.here[3]
    for i in range(_REGRESSED):
        a0, a1, a2, a3 = near[0, i], near[1, i], near[2, i], near[3, i]
        _add_four(work.sums[i], a0, h0, a1, h1, a2, h2, a3, h3)
        for j in range(i + 1):
            to = work.gram[i, j]
            _add_four(to, a0, near[0, j], a1, near[1, j], a2, near[2, j], a3, near[3, j])
    for lane in range(h0.size):
        work.loud[lane] += abs(h0[lane]) + abs(h1[lane]) + abs(h2[lane]) + abs(h3[lane])


@approximate
def _factor(work: Work) -> None:
    """Regress: `gram` becomes the Cholesky factor L of itself and the ridge, `divided` L⁻¹·sums.

    The diagonal of L is kept as its reciprocal.
    """
    gram, ridge, one = work.gram, np.float32(RIDGE), np.float32(1)
    work.energy[:] = 0
    for i in range(_REGRESSED):
        pivot, divided, sums = gram[i, i], work.divided[i], work.sums[i]
        for lane in range(pivot.size):
            work.energy[lane] += pivot[lane]
        for j in range(i):
            row, scale = gram[i, j], gram[j, j]
            _subtract_products(row, gram[i], gram[j], j)
            for lane in range(row.size):
                row[lane] *= scale[lane]
        _subtract_products(pivot, gram[i], gram[i], i)
        for lane in range(pivot.size):
            # Rounding may take more than there is; the ridge was there before.
            pivot[lane] = one / np.sqrt(max(pivot[lane] + ridge, ridge / np.float32(2)))
        for lane in range(pivot.size):
            divided[lane] = sums[lane]
        _subtract_products(divided, gram[i], work.divided, i)
        for lane in range(pivot.size):
            divided[lane] *= pivot[lane]


@approximate
def _expect(work: Work, weights: NDArray[np.float32]) -> None:
    """Expect a component's symbols, each without looking at itself."""
    here, near, local, expected = work.here[0], work.near[0], work.local, work.expected
    for i in range(_REGRESSED):
        to, beside, pivot = local[i], near[i], work.gram[i, i]
        for lane in range(here.size):
            to[lane] = beside[lane]
        _subtract_products(to, work.gram[i], local, i)
        for lane in range(here.size):
            to[lane] *= pivot[lane]
    kin, regressed, trend, others = expected[0], expected[1], expected[2], expected[3]
    leverage, fit, own, together = expected[4], expected[5], expected[6], expected[7]
    expected[:] = 0
    _subtract_products(leverage, local, local, _REGRESSED)
    _subtract_products(fit, local, work.divided, _REGRESSED)
    _subtract_products(own, near, near, _REGRESSED)
    _subtract_products(together, near, work.sums, _REGRESSED)
    _add_weighted(trend, weights, near)
    _add_weighted(trend, weights[8:], near[_REGRESSED:])
    for lane in range(here.size):
        others[lane] = work.energy[lane] + own[lane]
    for lane in range(here.size):
        kin[lane] = here[lane] * own[lane] - together[lane]
    for lane in range(here.size):
        kin[lane] /= others[lane] + np.float32(2)
    for lane in range(here.size):
        regressed[lane] = leverage[lane] * here[lane] - fit[lane]
    for lane in range(here.size):
        regressed[lane] /= max(np.float32(1) + leverage[lane], np.float32(_LEAST_LEFT))


@approximate
def _subtract_products(
    to: NDArray[np.float32], one: NDArray[np.float32], two: NDArray[np.float32], count: int
) -> None:
    """Subtract the sum of the products of two arrays' first rows."""
    fours = count - count % 4
    for m in range(0, fours, 4):
        a0, a1, a2, a3 = one[m], one[m + 1], one[m + 2], one[m + 3]
        b0, b1, b2, b3 = two[m], two[m + 1], two[m + 2], two[m + 3]
        for lane in range(to.size):
            products = a0[lane] * b0[lane] + a1[lane] * b1[lane]
            to[lane] -= products + a2[lane] * b2[lane] + a3[lane] * b3[lane]
    for m in range(fours, count):
        a0, b0 = one[m], two[m]
        for lane in range(to.size):
            to[lane] -= a0[lane] * b0[lane]


@approximate
def _add_four(
    to: NDArray[np.float32],
    a0: NDArray[np.float32],
    b0: NDArray[np.float32],
    a1: NDArray[np.float32],
    b1: NDArray[np.float32],
    a2: NDArray[np.float32],
    b2: NDArray[np.float32],
    a3: NDArray[np.float32],
    b3: NDArray[np.float32],
) -> None:
    for lane in range(to.size):
        products = a0[lane] * b0[lane] + a1[lane] * b1[lane]
        to[lane] += products + a2[lane] * b2[lane] + a3[lane] * b3[lane]


@approximate
def _describe(work: Work, mean: np.float32) -> None:
    """Write what the network sees but for expectations: the symbol, how busy the place is."""
    near, here, seen, sign = work.near[0], work.here[0], work.seen, work.sign
    kin, regressed, trend = work.expected[0], work.expected[1], work.expected[2]
    for lane in range(sign.size):
        told = kin[lane] + regressed[lane] + trend[lane]
        told = here[lane] if here[lane] != 0 else told
        sign[lane] = np.float32(told > 0) - np.float32(told < 0)
    magnitude = seen[4]
    for lane in range(sign.size):
        magnitude[lane] = abs(here[lane])
    for level in range(3):
        is_level = seen[level]
        for lane in range(sign.size):
            is_level[lane] = np.float32(magnitude[lane] == np.float32(level))
    is_more, beside, behind, parent = seen[3], seen[5], seen[6], seen[7]
    for lane in range(sign.size):
        is_more[lane] = np.float32(magnitude[lane] > np.float32(2))
    beside[:], behind[:], parent[:] = 0, 0, 0
    for i in range(4):
        _add_magnitudes(beside, near[i], np.float32(1))
        _add_magnitudes(behind, near[4 + i], np.float32(0.5))
        _add_magnitudes(behind, near[_REGRESSED + i], np.float32(0.5))
    _add_magnitudes(parent, near[_REGRESSED - 1], np.float32(4))
    others, energy, log_mean = seen[8], seen[9], np.log(mean + np.float32(1e-3))
    for lane in range(sign.size):
        others[lane] = work.loud[lane] - magnitude[lane]
    for lane in range(sign.size):
        energy[lane] = work.expected[3, lane]
    seen[10] = log_mean
    for i in range(4, 10):
        _logarithm(seen[i], work.mantissa, work.bits, np.float32(1))


@approximate
def _describe_expected(work: Work) -> None:
    """Write what is expected of the symbol, were it positive."""
    seen, sign = work.seen, work.sign
    for i in range(3):
        log, limited, expected = seen[11 + i], seen[14 + i], work.expected[i]
        for lane in range(sign.size):
            expected[lane] *= sign[lane]
        for lane in range(sign.size):
            limited[lane] = min(max(expected[lane], np.float32(-2)), np.float32(2))
        for lane in range(sign.size):
            log[lane] = abs(expected[lane])
        _logarithm(log, work.mantissa, work.bits, np.float32(4))
        for lane in range(sign.size):
            log[lane] = log[lane] if expected[lane] >= 0 else -log[lane]


@approximate
def _add_magnitudes(
    to: NDArray[np.float32], values: NDArray[np.float32], weight: np.float32
) -> None:
    for lane in range(to.size):
        to[lane] += weight * abs(values[lane])


@approximate
def _logarithm(
    values: NDArray[np.float32],
    mantissa: NDArray[np.float32],
    bits: NDArray[np.int32],
    factor: np.float32,
) -> None:
    """Make of each value v ≥ 0 the logarithm of 1 + factor · v, by the series of artanh.

    1 + factor · v is 2ᵉ · m with m from √½ to √2, and ln m = 2 artanh((m - 1) / (m + 1)).
    """
    one = np.float32(1)
    for lane in range(values.size):
        mantissa[lane] = one + factor * values[lane]
    for lane in range(values.size):
        exponent = (bits[lane] - np.int32(_HALF_ROOT_BITS)) >> np.int32(23)
        values[lane] = np.float32(exponent) * _LN_2
    for lane in range(values.size):
        exponent = (bits[lane] - np.int32(_HALF_ROOT_BITS)) >> np.int32(23)
        bits[lane] -= np.int32(exponent << np.int32(23))
    for lane in range(values.size):
        part = (mantissa[lane] - one) / (mantissa[lane] + one)
        square = part * part
        series = np.float32(1 / 7) + square * np.float32(1 / 9)
        series = np.float32(1 / 3) + square * (np.float32(1 / 5) + square * series)
        values[lane] += np.float32(2) * part * (one + square * series)


@approximate
def _answer(work: Work, network: Layers) -> int:
    """Let the network make of `seen` what it does; return which half of `hidden` begins with it."""
    into = work.seen
    for layer in range(len(network.weights)):
        out, packed = work.hidden[layer % 2], network.weights[layer]
        inputs = network.sizes[layer]
        for i in range(network.sizes[layer + 1]):
            to, weights = out[i], packed[i]
            bias, slope = weights[weights.size - 2], weights[weights.size - 1]
            for lane in range(to.size):
                to[lane] = bias
            for j in range(0, inputs, 8):
                _add_weighted(to, weights[j:], into[j:])
            for lane in range(to.size):
                to[lane] = max(to[lane], np.float32(0)) + slope * min(to[lane], np.float32(0))
        into = out
    return (len(network.weights) - 1) % 2


@approximate
def _add_weighted(
    to: NDArray[np.float32], weights: NDArray[np.float32], rows: NDArray[np.float32]
) -> None:
    """Add the weighted sum of eight rows."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    w4, w5, w6, w7 = weights[4], weights[5], weights[6], weights[7]
    x0, x1, x2, x3 = rows[0], rows[1], rows[2], rows[3]
    x4, x5, x6, x7 = rows[4], rows[5], rows[6], rows[7]
    for lane in range(to.size):
        half = w0 * x0[lane] + w1 * x1[lane] + w2 * x2[lane] + w3 * x3[lane]
        other = w4 * x4[lane] + w5 * x5[lane] + w6 * x6[lane] + w7 * x7[lane]
        to[lane] += half + other
