"""The wavelet of `codec.shortcut`, compiled, both ways: for what flies, and what has to keep up.

PyTorch's operations pass over all components once for each step of lifting; here a component is
transformed while it lies in the cache.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.compiled import compiled, kernel
from codec.patch_grid import LATENT_PX
from codec.shortcut import CHANNELS, GAIN, LEVELS, PLANE_LEVELS, PREDICT_UPDATE, Dct

_STEPS: Final = np.array(PREDICT_UPDATE, dtype=np.float32)
_LOW, _HIGH = np.float32(GAIN), np.float32(1 / GAIN)
_DEPTH: Final = LEVELS + PLANE_LEVELS


def direct_latents(shortcut: str, components: NDArray[np.float32]) -> NDArray[np.float32]:
    """What goes past the branch.

    Args:
        shortcut: "wavelet" or "dct".
        components: Shape (k, r, c).

    Returns:
        Shape (64·k, ⌈r/8⌉, ⌈c/8⌉).
    """
    if shortcut == "wavelet":
        return wavelet(components)
    found: NDArray[np.float32] = Dct.forward(torch.from_numpy(components[None]))[0].numpy()
    return found


def wavelet(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform images of shape (k, r, c) to (64·k, ⌈r/8⌉, ⌈c/8⌉), as `Wavelet.forward` does."""
    count, rows, cols = images.shape
    latents = np.zeros(
        (count, CHANNELS, -(-rows // LATENT_PX), -(-cols // LATENT_PX)), dtype=np.float32
    )
    # One layout is compiled, and not one more when the first wide tile comes.
    _transform(np.ascontiguousarray(images), latents)
    return latents.reshape(-1, *latents.shape[2:])


def compiled_wavelet(images: Tensor) -> Tensor:
    """As `wavelet`, of tensors in the host's memory."""
    return torch.from_numpy(wavelet(images.numpy()))


def inverse_wavelet(latents: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    """Transform latents of shape (64·k, ⌈r/8⌉, ⌈c/8⌉) to (k, r, c), as `Wavelet.inverse` does."""
    channels = latents.reshape(-1, CHANNELS, *latents.shape[1:])
    images = np.empty((len(channels), rows, cols), dtype=np.float32)
    _restore(np.ascontiguousarray(channels), images)
    return images


@compiled
def _transform(images: NDArray[np.float32], latents: NDArray[np.float32]) -> None:
    count, rows, cols = images.shape
    image, other = np.empty((rows, cols), np.float32), np.empty((rows, cols), np.float32)
    line = np.empty(cols, np.float32)
    plane = latents[:, 0, : _halved(rows, LEVELS), : _halved(cols, LEVELS)]
    for k in range(count):
        image[:] = images[k]
        for level in range(1, _DEPTH + 1):
            height, width = _halved(rows, level - 1), _halved(cols, level - 1)
            _split_rows(image, height, width, line)
            _split_cols(image, other, height, width)
            if level <= LEVELS:
                _move_details(False, image[:height, :width], latents[k], level)
        plane[k] = image[: plane.shape[1], : plane.shape[2]]


@compiled
def _restore(latents: NDArray[np.float32], images: NDArray[np.float32]) -> None:
    count, rows, cols = images.shape
    image, other = np.empty((rows, cols), np.float32), np.empty((rows, cols), np.float32)
    line = np.empty(cols, np.float32)
    plane = latents[:, 0, : _halved(rows, LEVELS), : _halved(cols, LEVELS)]
    for k in range(count):
        image[: plane.shape[1], : plane.shape[2]] = plane[k]
        for level in range(_DEPTH, 0, -1):
            height, width = _halved(rows, level - 1), _halved(cols, level - 1)
            if level <= LEVELS:
                _move_details(True, image[:height, :width], latents[k], level)
            _join_cols(image, other, height, width)
            _join_rows(image, height, width, line)
        images[k] = image


@kernel
def _halved(edge: int, times: int) -> int:
    """Edge of the low band after so many levels."""
    return (edge + (1 << times) - 1) >> times


@kernel
def _move_details(
    back: bool, image: NDArray[np.float32], latents: NDArray[np.float32], level: int
) -> None:
    """Spread the details of a level over their channels, or collect them from there."""
    low_rows, low_cols = (image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2
    first, step = 4 ** (LEVELS - level), LATENT_PX >> level
    _move(back, image[:low_rows, low_cols:], latents, first, step)
    _move(back, image[low_rows:, :low_cols], latents, 2 * first, step)
    _move(back, image[low_rows:, low_cols:], latents, 3 * first, step)


@kernel
def _move(
    back: bool, part: NDArray[np.float32], latents: NDArray[np.float32], first: int, step: int
) -> None:
    height, width = part.shape
    for y in range(height):
        for across in range(step):
            row = latents[first + (y % step) * step + across, y // step]
            count = (width - across + step - 1) // step
            if back:
                for place in range(count):
                    part[y, place * step + across] = row[place]
            else:
                for place in range(count):
                    row[place] = part[y, place * step + across]


# ---- along rows --------------------------------------------------------------------------------


@kernel
def _split_rows(
    image: NDArray[np.float32], height: int, width: int, line: NDArray[np.float32]
) -> None:
    """Split every row of the upper left part into its low and its high half."""
    if width < 2:
        return
    even, odd = line[: (width + 1) // 2], line[(width + 1) // 2 : width]
    for y in range(height):
        row = image[y]
        for i in range(odd.size):
            even[i], odd[i] = row[2 * i], row[2 * i + 1]
        if width % 2:
            even[even.size - 1] = row[width - 1]
        for step in range(0, 4, 2):
            _lift_odd(odd, even, _STEPS[step])
            _lift_even(even, odd, _STEPS[step + 1])
        for i in range(even.size):
            row[i] = even[i] * _LOW
        for i in range(odd.size):
            row[even.size + i] = odd[i] * _HIGH


@kernel
def _join_rows(
    image: NDArray[np.float32], height: int, width: int, line: NDArray[np.float32]
) -> None:
    """Inverse of `_split_rows`."""
    if width < 2:
        return
    even, odd = line[: (width + 1) // 2], line[(width + 1) // 2 : width]
    for y in range(height):
        row = image[y]
        for i in range(even.size):
            even[i] = row[i] / _LOW
        for i in range(odd.size):
            odd[i] = row[even.size + i] * _LOW
        for step in range(3, 0, -2):
            _lift_even(even, odd, -_STEPS[step])
            _lift_odd(odd, even, -_STEPS[step - 1])
        for i in range(odd.size):
            row[2 * i], row[2 * i + 1] = even[i], odd[i]
        if width % 2:
            row[width - 1] = even[even.size - 1]


@kernel
def _lift_odd(odd: NDArray[np.float32], even: NDArray[np.float32], weight: np.float32) -> None:
    """Add to each odd sample `weight` times the even ones beside it."""
    for i in range(even.size - 1):
        odd[i] += weight * (even[i] + even[i + 1])
    if even.size == odd.size:  # beyond the end the signal is mirrored
        odd[odd.size - 1] += weight * (even[even.size - 1] + even[even.size - 1])


@kernel
def _lift_even(even: NDArray[np.float32], odd: NDArray[np.float32], weight: np.float32) -> None:
    """Add to each even sample `weight` times the odd ones beside it."""
    even[0] += weight * (odd[0] + odd[0])
    for i in range(1, odd.size):
        even[i] += weight * (odd[i - 1] + odd[i])
    if even.size > odd.size:
        even[even.size - 1] += weight * (odd[odd.size - 1] + odd[odd.size - 1])


# ---- along columns: rows are what is added, so many columns go at once ---------------------------


@kernel
def _split_cols(
    image: NDArray[np.float32], other: NDArray[np.float32], height: int, width: int
) -> None:
    """Split the columns likewise."""
    if height < 2:
        return
    low = (height + 1) // 2
    for y in range(height):
        row, place = image[y], other[y // 2 + (low if y % 2 else 0)]
        for x in range(width):
            place[x] = row[x]
    for step in range(0, 4, 2):
        _lift_high(other, height, width, _STEPS[step])
        _lift_low(other, height, width, _STEPS[step + 1])
    for y in range(height):
        gain = _LOW if y < low else _HIGH
        for x in range(width):
            image[y, x] = other[y, x] * gain


@kernel
def _join_cols(
    image: NDArray[np.float32], other: NDArray[np.float32], height: int, width: int
) -> None:
    """Inverse of `_split_cols`."""
    if height < 2:
        return
    low = (height + 1) // 2
    for y in range(height):
        row, place = image[y], other[y]
        if y < low:
            for x in range(width):
                place[x] = row[x] / _LOW
        else:
            for x in range(width):
                place[x] = row[x] * _LOW
    for step in range(3, 0, -2):
        _lift_low(other, height, width, -_STEPS[step])
        _lift_high(other, height, width, -_STEPS[step - 1])
    for y in range(height):
        row, place = image[y], other[y // 2 + (low if y % 2 else 0)]
        for x in range(width):
            row[x] = place[x]


@kernel
def _lift_high(split: NDArray[np.float32], height: int, width: int, weight: np.float32) -> None:
    """Add to each row of the high half `weight` times those of the low half beside it."""
    low = (height + 1) // 2
    for i in range(height - low):
        _add(split[low + i], split[i], split[min(i + 1, low - 1)], weight, width)


@kernel
def _lift_low(split: NDArray[np.float32], height: int, width: int, weight: np.float32) -> None:
    """Add to each row of the low half `weight` times those of the high half beside it."""
    low = (height + 1) // 2
    for i in range(low):
        above, below = split[low + max(i - 1, 0)], split[low + min(i, height - low - 1)]
        _add(split[i], above, below, weight, width)


@kernel
def _add(
    to: NDArray[np.float32],
    one: NDArray[np.float32],
    two: NDArray[np.float32],
    weight: np.float32,
    width: int,
) -> None:
    for x in range(width):
        to[x] += weight * (one[x] + two[x])
