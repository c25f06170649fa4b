"""Restores wavelet coefficients on the ground: what rounding took, as far as others tell.

A symbol stands for a whole bin of latents. Where in it the latent lay is not known, but not unknown
either: an edge that shows in some components runs on in the others, and a place whose neighbors go
together in those goes together with them in this one. Three expectations of a symbol are made of
the 23 symbols around it, those of its own component's parent and siblings included, none of which
looks at the symbol itself:

    kin       how this place and each neighbor went together in the other components
    local     the neighbors' weighted sum that is best at this place for the other components, by
              ridge regression (leaving one component out has a closed form)
    global    the neighbors' weighted sum that is best for the whole subband: stripes, blur

A small network, the same for every coefficient of every component, makes of these and of how busy
the place is what to add to the symbol. It sees the symbol's sign as positive: no sign is preferred.
Nothing of this is on board, and no symbol depends on it, so floats do.

Sources: leave-one-out ridge regression, Allen's PRESS, Technometrics 16(1), 1974; reconstruction
points by conditional mean, Sullivan, IEEE Trans. IT 42(5), 1996.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from codec.compiled import kernel
from codec.subbands import to_images, to_symbols
from codec.threads import Each

FEATURES: Final = 17
"""What the network sees of a coefficient."""

_MARGIN: Final = 2
_NEAR: Final = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_FAR: Final = ((0, 2), (0, -2), (2, 0), (-2, 0))
_BESIDE: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
_PLACES: Final = np.array(
    [
        *((0, *place) for place in _NEAR),
        *((source, *place) for source in (1, 2) for place in _BESIDE),
        (3, 0, 0),
        *((0, *place) for place in _FAR),
    ]
)
"""Neighbors: of which plane (own, two siblings, parent), rows down, columns right."""
_REGRESSED: Final = len(_PLACES) - len(_FAR)
"""Of these, the first so many enter kin and the local sum; all of its own plane the global one."""
_OWN: Final = np.flatnonzero(_PLACES[:, 0] == 0)
_RIDGE: Final = 4.0
"""Squares of symbols that speak against a weighted sum before the first speaks for one."""
_LEAST_LEFT: Final = 0.05
"""Of a component that its own symbols explain wholly, what counts as left to the others."""
_LANES: Final = 64
"""Places of a row that are computed at once, at most."""
_ROWS_TOLD: Final = 16
"""Rows of a subband that the global sum is found from, at least, if it has so many."""
_RESTORED: Final = 32
"""Leading components. With all 86 or 104 of two land scenes at step 48 it gained 0.003 dB more."""
_LARGEST: Final = 1023
"""Larger symbols count as this."""


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


def restorer(widths: Sequence[int]) -> nn.Sequential:
    """Build the network, with hidden layers of these widths; it starts by adding nothing."""
    layers: list[nn.Module] = []
    sizes = FEATURES, *widths
    for size, width in pairwise(sizes):
        layers += [nn.Linear(size, width), nn.PReLU(width)]
    last = nn.Linear(sizes[-1], 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def restore(
    symbols: NDArray[np.int32],
    rows: int,
    cols: int,
    network: nn.Sequential,
    each: Each = map,
) -> NDArray[np.float32]:
    """Return latents in steps, shape as of the symbols: (64 · k, ⌈rows/8⌉, ⌈cols/8⌉).

    Args:
        symbols: As the coder gives them back.
        rows: Rows of the patch [px].
        cols: Columns of the patch [px].
        network: What `restorer` builds, trained.
        each: Goes over subbands; none needs another, so threads may.
    """
    if not any(parameter.any() for parameter in network[-1].parameters()):
        return symbols.astype(np.float32)
    images = to_images(symbols, rows, cols)
    planes = _planes(images)

    def restored(band: int) -> NDArray[np.float32]:
        image, seen = images[band].astype(np.float32), _seen(planes, band)
        with torch.inference_mode():
            answers = network(torch.from_numpy(seen.features))[:, 0].numpy()
        image.ravel()[seen.places] += answers * seen.signs
        return image

    last_first = range(len(images))[::-1]  # the largest first: threads then end together
    return to_symbols([*each(restored, last_first)][::-1], rows, cols)


def seen_rows(symbols: NDArray[np.int32], rows: int, cols: int) -> Iterator[Rows]:
    """Yield what the network sees of each subband, in their order."""
    planes = _planes(to_images(symbols, rows, cols))
    yield from (_seen(planes, band) for band in range(len(planes)))


def _planes(images: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    return [np.clip(image, -_LARGEST, _LARGEST).astype(np.float32) for image in images]


def _seen(planes: Sequence[NDArray[np.float32]], band: int) -> Rows:
    plane, sources = planes[band], _sources(planes, band)
    means = np.abs(plane).mean(axis=(1, 2)) if plane.size else np.zeros(len(plane), np.float32)
    features = np.empty((plane.size, FEATURES), np.float32)
    signs, places = np.empty(plane.size, np.float32), np.empty(plane.size, np.int64)
    weights = _global_weights(sources[0], *plane.shape[1:])
    room = _room(plane.shape[2])
    found = _fill(room, sources, weights, means, features, signs, places)
    _compress(features[:found])
    return Rows(features[:found], signs[:found], places[:found])


def _sources(planes: Sequence[NDArray[np.float32]], band: int) -> NDArray[np.float32]:
    """A subband, its siblings and its parent, each where it belongs, framed by zeros."""
    own = planes[band]
    count, height, width = own.shape
    framed = height + 2 * _MARGIN, width + 2 * _MARGIN + _LANES
    sources = np.zeros((4, count, *framed), np.float32)
    inner = sources[:, :, _MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
    inner[0] = own
    if band:
        first = band - (band - 1) % 3
        others = [other for other in range(first, first + 3) if other != band]
        for place, other in enumerate(others, start=1):
            part = planes[other][:, :height, :width]
            inner[place, :, : part.shape[1], : part.shape[2]] = part
    if band > 3 and (parent := planes[band - 3]).size:
        down = np.minimum(np.arange(height) // 2, parent.shape[1] - 1)
        right = np.minimum(np.arange(width) // 2, parent.shape[2] - 1)
        inner[3] = parent[:, down[:, None], right]
    return sources


def _global_weights(own: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Weighted sum of the neighbors in its own plane that is best for a subband."""
    thin = max(1, height // _ROWS_TOLD)
    shifted = [
        own[:, _MARGIN + y : _MARGIN + y + height : thin, _MARGIN + x : _MARGIN + x + width]
        for y, x in ((0, 0), *_NEAR, *_FAR)
    ]
    flat = np.stack(shifted).reshape(len(shifted), -1)
    products = (flat @ flat.T).astype(np.float64)
    ridge = _RIDGE * np.eye(len(_OWN))
    return np.linalg.solve(products[1:, 1:] + ridge, products[1:, 0]).astype(np.float32)


def _compress(features: NDArray[np.float32]) -> None:
    """Take logarithms of what spans orders of magnitude, in place."""
    features[:, 4:10] = np.log(1 + features[:, 4:10])
    features[:, 10] = np.log(features[:, 10] + np.float32(1e-3))
    expected = features[:, 11:14]
    features[:, 11:14] = np.copysign(np.log(1 + 4 * np.abs(expected)), expected)


class _Work(NamedTuple):
    """Room for the arithmetic of some places of a row at once, the last axis of all of it.

    `near` holds the neighbors of one component, `here` its symbols, and `busy` what all of them
    amount to; `gram` the neighbors' products with each other, summed over components, then their
    Cholesky factor, and `sums` those with the symbols; `divided` is by that factor what `sums` is,
    and `local` what `near` is. `loud` sums magnitudes, `energy` squares of neighbors. `expected`
    holds kin, local and global, the energy of the other components, and the four sums these are
    made of.
    """

    near: NDArray[np.float32]
    here: NDArray[np.float32]
    busy: NDArray[np.float32]
    gram: NDArray[np.float32]
    sums: NDArray[np.float32]
    divided: NDArray[np.float32]
    local: NDArray[np.float32]
    loud: NDArray[np.float32]
    energy: NDArray[np.float32]
    expected: NDArray[np.float32]


def _room(width: int) -> _Work:
    """Room for subbands of some width."""
    # Lanes are no constant of the compiled code, or its compiler would unroll every loop over them.
    lanes, size = max(1, min(_LANES, width)), _REGRESSED

    def room(*shape: int) -> NDArray[np.float32]:
        return np.zeros((*shape, lanes), np.float32)

    return _Work(
        near=room(len(_PLACES)),
        here=room(),
        busy=room(),
        gram=room(size, size),
        sums=room(size),
        divided=room(size),
        local=room(size),
        loud=room(),
        energy=room(),
        expected=room(8),
    )


@kernel
def _fill(
    work: _Work,
    sources: NDArray[np.float32],
    weights: NDArray[np.float32],
    means: NDArray[np.float32],
    features: NDArray[np.float32],
    signs: NDArray[np.float32],
    places: NDArray[np.int64],
) -> int:
    """Write the rows of a subband; return how many there are.

    Args:
        work: As of `_room`.
        sources: Own plane, siblings, parent, with margins and lanes to spare on the right, shape
            (4, k, h + 4, ≥ w + 4).
        weights: As of `_global_weights`.
        means: Mean magnitude of each component's subband, shape (k,).
        features: Rows, shape (k · h · w, FEATURES).
        signs: As of `Rows`.
        places: As of `Rows`.
    """
    count, height = min(sources.shape[1], _RESTORED), sources.shape[2] - 2 * _MARGIN
    lanes = work.here.size
    width, found = sources.shape[3] - 2 * _MARGIN - _LANES, 0
    for y in range(height):
        for x in range(0, width, lanes):
            work.gram[:], work.sums[:], work.loud[:] = 0, 0, 0
            for k in range(count):
                if means[k] > 0 and _gather(work, sources, k, y, x):
                    _sum_products(work)
            _factor(work)
            for k in range(count):
                if means[k] > 0 and _gather(work, sources, k, y, x):
                    _expect(work, weights)
                    for lane in range(min(lanes, width - x)):
                        value = work.here[lane]
                        sign = np.sign(value) if value else np.sign(work.expected[:3, lane].sum())
                        if sign:
                            _describe(features[found], work, lane, sign)
                            features[found, 10] = means[k]
                            signs[found] = sign
                            places[found] = (k * height + y) * width + x + lane
                            found += 1
    return found


@kernel
def _gather(work: _Work, sources: NDArray[np.float32], k: int, y: int, x: int) -> bool:
    """Gather a component's symbols and their neighbors in some places; whether there are any."""
    here, busy, row, left = work.here, work.busy, sources[0, k, y + _MARGIN], x + _MARGIN
    for lane in range(here.size):
        here[lane] = row[left + lane]
        busy[lane] = abs(here[lane])
    for i in range(len(_PLACES)):
        near, left = work.near[i], x + _MARGIN + _PLACES[i, 2]
        row = sources[_PLACES[i, 0], k, y + _MARGIN + _PLACES[i, 1]]
        for lane in range(here.size):
            near[lane] = row[left + lane]
            busy[lane] += abs(near[lane])
    loudest = np.float32(0)
    for lane in range(here.size):
        loudest = max(loudest, busy[lane])
    return bool(loudest > 0)


@kernel
def _sum_products(work: _Work) -> None:
    """Add a component's products."""
    here = work.here
    for i in range(_REGRESSED):
        first, sums = work.near[i], work.sums[i]
        for lane in range(here.size):
            sums[lane] += first[lane] * here[lane]
        for j in range(i + 1):
            second, gram = work.near[j], work.gram[i, j]
            for lane in range(here.size):
                gram[lane] += first[lane] * second[lane]
    for lane in range(here.size):
        work.loud[lane] += abs(here[lane])


@kernel
def _factor(work: _Work) -> None:
    """Regress: `gram` becomes the Cholesky factor L of itself and the ridge, `divided` L⁻¹·sums.

    The diagonal of L is kept as its reciprocal.
    """
    work.energy[:] = 0
    for i in range(_REGRESSED):
        pivot, divided, sums = work.gram[i, i], work.divided[i], work.sums[i]
        for lane in range(pivot.size):
            divided[lane] = sums[lane]
            work.energy[lane] += pivot[lane]
            pivot[lane] += np.float32(_RIDGE)
        for j in range(i):
            row, scale, before = work.gram[i, j], work.gram[j, j], work.divided[j]
            for m in range(j):
                first, second = work.gram[i, m], work.gram[j, m]
                for lane in range(row.size):
                    row[lane] -= first[lane] * second[lane]
            for lane in range(pivot.size):
                row[lane] *= scale[lane]
                pivot[lane] -= row[lane] * row[lane]
                divided[lane] -= row[lane] * before[lane]
        for lane in range(pivot.size):
            # Rounding may take more than there is; the ridge was there before.
            pivot[lane] = 1 / np.sqrt(max(pivot[lane], np.float32(_RIDGE / 2)))
            divided[lane] *= pivot[lane]


@kernel
def _expect(work: _Work, weights: NDArray[np.float32]) -> None:
    """Expect a component's symbols, each without looking at itself."""
    here, expected = work.here, work.expected
    expected[:] = 0
    trend, leverage, fit = expected[2], expected[4], expected[5]
    own, together = expected[6], expected[7]
    for i in range(_REGRESSED):
        near, local, pivot = work.near[i], work.local[i], work.gram[i, i]
        divided, sums = work.divided[i], work.sums[i]
        for lane in range(here.size):
            local[lane] = near[lane]
        for j in range(i):
            factor, before = work.gram[i, j], work.local[j]
            for lane in range(here.size):
                local[lane] -= factor[lane] * before[lane]
        for lane in range(here.size):
            local[lane] *= pivot[lane]
            leverage[lane] += local[lane] * local[lane]
            fit[lane] += local[lane] * divided[lane]
            own[lane] += near[lane] * near[lane]
            together[lane] += near[lane] * sums[lane]
    for i in range(len(_OWN)):
        near, weight = work.near[_OWN[i]], weights[i]
        for lane in range(here.size):
            trend[lane] += weight * near[lane]
    for lane in range(here.size):
        others = work.energy[lane] - own[lane]
        left = max(1 - leverage[lane], np.float32(_LEAST_LEFT))
        expected[0, lane] = (together[lane] - here[lane] * own[lane]) / (others + 2)
        expected[1, lane] = (fit[lane] - leverage[lane] * here[lane]) / left
        expected[3, lane] = others


@kernel
def _describe(row: NDArray[np.float32], work: _Work, lane: int, sign: float) -> None:
    """Write a row: the symbol, how busy the place is, and what is expected of it."""
    near, magnitude = work.near, abs(work.here[lane])
    beside, behind = np.float32(0), np.float32(0)
    for i in range(4):
        beside += abs(near[i, lane])
        behind += abs(near[4 + i, lane]) + abs(near[_REGRESSED + i, lane])
    row[:4] = 0
    row[min(int(magnitude), 3)] = 1
    row[4] = magnitude
    row[5], row[6] = beside, behind / 2
    row[7] = 4 * abs(near[_REGRESSED - 1, lane])
    row[8], row[9] = work.loud[lane] - magnitude, work.expected[3, lane]
    for i in range(3):
        expected = work.expected[i, lane] * sign
        row[11 + i] = expected
        row[14 + i] = min(max(expected, np.float32(-2)), np.float32(2))
