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
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from codec.expectation import (
    FAR,
    FEATURES,
    MARGIN,
    NEAR,
    OWN,
    RIDGE,
    Layers,
    Rows,
    layers_of,
    room_for,
    rows_together,
    walk,
)
from codec.subbands import to_images, to_symbols

_ROWS_TOLD: Final = 16
"""Rows of a subband that the global sum is found from, at least, if it has so many."""
_RESTORED: Final = 32
"""Leading components. With all 86 or 104 of two land scenes at step 48 it gained 0.003 dB more."""
_LARGEST: Final = 1023
"""Larger symbols count as this."""
_NO_LAYERS: Final = layers_of([])


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
) -> NDArray[np.float32]:
    """Return latents in steps, shape as of the symbols: (64 · k, ⌈rows/8⌉, ⌈cols/8⌉).

    Args:
        symbols: As the coder gives them back.
        rows: Rows of the patch [px].
        cols: Columns of the patch [px].
        network: What `restorer` builds, trained.
    """
    if not any(parameter.any() for parameter in network[-1].parameters()):
        return symbols.astype(np.float32)
    images = [image.astype(np.float32) for image in to_images(symbols, rows, cols)]
    planes, layers = _planes(images), layers_of(network)
    for band, image in enumerate(images):
        _walk(planes, band, layers, image, _room_for_rows(0))
    return to_symbols(images, rows, cols)


def seen_rows(symbols: NDArray[np.int32], rows: int, cols: int) -> Iterator[Rows]:
    """Yield what the network sees of each subband, in their order."""
    planes = _planes(to_images(symbols, rows, cols))
    for band, plane in enumerate(planes):
        seen = _room_for_rows(plane.size)
        found = _walk(planes, band, _NO_LAYERS, plane, seen)
        yield Rows(seen.features[:found], seen.signs[:found], seen.places[:found])


def _room_for_rows(count: int) -> Rows:
    features = np.empty((count, FEATURES), np.float32)
    return Rows(features, np.empty(count, np.float32), np.empty(count, np.int64))


def _planes(images: Sequence[NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    return [
        np.clip(image[:_RESTORED], -_LARGEST, _LARGEST).astype(np.float32, copy=False)
        for image in images
    ]


def _walk(
    planes: Sequence[NDArray[np.float32]],
    band: int,
    layers: Layers,
    image: NDArray[np.float32],
    seen: Rows,
) -> int:
    plane, sources = planes[band], _sources(planes, band)
    means = np.abs(plane).mean(axis=(1, 2)) if plane.size else np.zeros(len(plane), np.float32)
    weights = _global_weights(sources[0], *plane.shape[1:])
    _, height, width = plane.shape
    work = room_for(rows_together(height, width) * width, len(plane), layers)
    flat = image.reshape(len(image), height * width)
    return walk(work, sources, weights, means, layers, flat, seen)


def _sources(planes: Sequence[NDArray[np.float32]], band: int) -> NDArray[np.float32]:
    """A subband, its siblings and its parent, framed by zeros."""
    own = planes[band]
    count, height, width = own.shape
    spare = -height % rows_together(height, width)
    framed = height + spare + 2 * MARGIN, width + 2 * MARGIN
    sources = np.zeros((4, count, *framed), np.float32)
    inner = sources[:, :, MARGIN : MARGIN + height, MARGIN : MARGIN + width]
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
        own[:, MARGIN + y : MARGIN + y + height : thin, MARGIN + x : MARGIN + x + width]
        for y, x in ((0, 0), *NEAR, *FAR)
    ]
    flat = np.stack(shifted).reshape(len(shifted), -1)
    products = (flat @ flat.T).astype(np.float64)
    ridge = RIDGE * np.eye(len(OWN))
    weights = np.linalg.solve(products[1:, 1:] + ridge, products[1:, 0])
    return np.pad(weights, (0, 16 - len(OWN))).astype(np.float32)
