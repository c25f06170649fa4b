"""Rules of `codec.context_coder`: exact, self-contained, and cheaper the more it has learned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.context_coder import CONTEXT_TENSORS, ContextCoder, forget, untrained_contexts
from codec.context_mixing import BANDS, COUNT_MASK
from codec.errors import BundleError, PayloadError
from codec.quantize import SYMBOL_LIMIT
from codec.subbands import SUBBANDS
from fakes.bundles import context_tensors

CODER = ContextCoder(**context_tensors())
UNTRAINED = ContextCoder(**untrained_contexts())
SIZE = 64, 48
SHAPES = [band.shape(*SIZE) for band in SUBBANDS]


def drawn(
    seed: int, components: int = 4, *, alike: bool = False
) -> tuple[list[NDArray[np.int32]], NDArray[np.int32]]:
    """Subbands of Laplacian symbols, louder in the middle, and a scale for each group.

    With `alike` all components are the same, up to sign.
    """
    rng = np.random.default_rng(seed)
    images = []
    for height, width in SHAPES:
        loud = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
        shape = (1 if alike else components, height, width)
        image = np.rint(rng.laplace(0, 1, shape) * 3 * loud)
        signs = rng.choice([-1, 1], (components, 1, 1))
        images.append((image * signs if alike else image).astype(np.int32))
    scales = np.full((components, BANDS), 12, dtype=np.int32)
    scales[[[not image[k].any() for image in images] for k in range(components)]] = 0
    return images, scales


def same(found: list[NDArray[np.int32]], images: list[NDArray[np.int32]]) -> bool:
    """Whether all subbands came back."""
    return all(np.array_equal(a, b) for a, b in zip(found, images, strict=True))


@pytest.mark.parametrize("components", [0, 1, 20])
def test_round_trip(components: int) -> None:
    """Any number of components comes back, beyond the ranks that contexts tell apart."""
    images, scales = drawn(0, components)
    assert same(CODER.decode(CODER.encode(images, scales), SHAPES, scales), images)


def test_a_patch_leaves_nothing_behind() -> None:
    """What one patch taught is forgotten: frames decode in any order, equal ones are equal."""
    first, second = drawn(1), drawn(2)
    before = CODER.states.copy(), CODER.weights.copy()
    alone = CODER.encode(*second)
    CODER.encode(*first)
    assert CODER.encode(*second) == alone
    assert np.array_equal(CODER.states, before[0])
    assert np.array_equal(CODER.weights, before[1])


def test_groups_of_zeros_cost_nothing() -> None:
    """A group whose scale is 0 is skipped, and comes back as zeros."""
    images, scales = drawn(3)
    for image in images:
        image[1] = 0
    without = CODER.encode([np.delete(image, 1, axis=0) for image in images], scales[[0, 2, 3]])
    scales[1] = 0
    coded = CODER.encode(images, scales)
    assert abs(len(coded) - len(without)) < 40  # ranks move by one, and contexts with them
    assert same(CODER.decode(coded, SHAPES, scales), images)


def test_symbols_beyond_the_first_guess_of_room() -> None:
    """Random symbols of 24 bits take a larger buffer than is tried first, and come back."""
    rng = np.random.default_rng(0)
    shapes = [(2, *shape) for shape in SHAPES]
    images = [rng.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT, s, dtype=np.int32) for s in shapes]
    scales = np.full((2, BANDS), 31, dtype=np.int32)
    coded = CODER.encode(images, scales)
    assert len(coded) > 2 * sum(image.size for image in images) + 64
    assert same(CODER.decode(coded, SHAPES, scales), images)


def test_a_flat_patch_teaches_as_it_goes() -> None:
    """Contexts that know nothing adapt: a patch of one value takes next to no bytes."""
    images = [np.full((3, *shape), 1, dtype=np.int32) for shape in SHAPES]
    scales = np.full((3, BANDS), 13, dtype=np.int32)
    assert len(UNTRAINED.encode(images, scales)) * 8 < sum(image.size for image in images) / 2


def test_training_pays() -> None:
    """A coder that has coded patches codes others like them in fewer bytes, the small ones most."""
    tensors = untrained_contexts()
    coder = ContextCoder(**tensors)
    for seed in range(8):
        coder.learn(*drawn(seed), None, 1023)
    forget(tensors["states"], 90)
    images, scales = drawn(100, 1)
    trained = coder.encode(images, scales)
    assert len(trained) < 0.93 * len(UNTRAINED.encode(images, scales))
    assert same(coder.decode(trained, SHAPES, scales), images)


def test_components_that_go_together_are_foreseen() -> None:
    """Signs cost little once components turn out to be one another's images, whatever the sign."""
    apart, together = drawn(7, 8), drawn(7, 8, alike=True)
    assert len(CODER.encode(*together)) < 0.8 * len(CODER.encode(*apart))


def test_stripes_are_foreseen() -> None:
    """What repeats from place to place costs little, in whatever component, at any slant."""
    rng, scales = np.random.default_rng(4), np.full((3, BANDS), 12, dtype=np.int32)
    striped, shuffled = [], []
    for height, width in SHAPES:
        y, x = np.mgrid[:height, :width]
        lines = rng.integers(-2, 3, (3, height + 2 * width))
        image = lines[:, y + 2 * x].astype(np.int32)
        striped.append(image)
        shuffled.append(rng.permuted(image.reshape(3, -1), axis=1).reshape(image.shape))
    coded = CODER.encode(striped, scales)
    assert len(coded) < 0.75 * len(CODER.encode(shuffled, scales))
    assert same(CODER.decode(coded, SHAPES, scales), striped)


def test_forgetting_keeps_chances() -> None:
    """Only how much a state has seen is cut, never what it expects."""
    states = context_tensors()["states"]
    kept = states.copy()
    forget(kept, 50)
    assert np.array_equal(kept >> 10, states >> 10)
    assert np.array_equal(kept & COUNT_MASK, np.minimum(states & COUNT_MASK, 50))


def test_threads_do_not_disturb_each_other() -> None:
    """The coder runs in many threads at once, outside of Python's lock, to the same bytes."""
    patches = [drawn(seed) for seed in range(6)]
    expected = [CODER.encode(*patch) for patch in patches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda patch: CODER.encode(*patch), patches)) == expected


# ---- rounding by rate and distortion


def rounded(seed: int) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int32]], Any, Any]:
    """Latents of Laplacian law, their symbols by plain rounding, scales, and errors [1/256]."""
    rng = np.random.default_rng(seed)
    latents = [rng.laplace(0, 0.8, (4, *shape)) for shape in SHAPES]
    symbols = [np.rint(latent).astype(np.int32) for latent in latents]
    errors = [
        np.rint(256 * (latent - symbol)).astype(np.int32)
        for latent, symbol in zip(latents, symbols, strict=True)
    ]
    return latents, symbols, np.full((4, BANDS), 12, dtype=np.int32), errors


def test_rounding_anew_pays() -> None:
    """Error plus a bit's worth for every bit is less than with plain rounding, as is the rate."""
    latents, symbols, scales, errors = rounded(0)
    costs = []
    for left in (None, errors):
        coded = CODER.encode(symbols, scales, left)
        again = CODER.decode(coded, SHAPES, scales)
        error = sum(np.square(a - b).sum() for a, b in zip(again, latents, strict=True))
        costs.append((len(coded), error + np.log(2) / 6 * 8 * len(coded)))
    assert costs[1][0] < 0.95 * costs[0][0]
    assert costs[1][1] < 0.98 * costs[0][1]


def test_only_small_symbols_in_doubt_are_rounded_anew() -> None:
    """A magnitude from 3 on stays, and none ends up further from its latent than 1.25."""
    latents, symbols, scales, errors = rounded(1)
    again = CODER.decode(CODER.encode(symbols, scales, errors), SHAPES, scales)
    for found, symbol, latent in zip(again, symbols, latents, strict=True):
        assert np.array_equal(found[np.abs(symbol) > 2], symbol[np.abs(symbol) > 2])
        assert np.abs(found - latent).max() <= 1.25 + 1 / 256
    assert any((a != b).any() for a, b in zip(again, symbols, strict=True))


# ---- damage


def test_bytes_left_over_are_refused() -> None:
    """A payload longer than its symbols is damaged or not meant for them."""
    images, scales = drawn(4)
    with pytest.raises(PayloadError, match="left over"):
        CODER.decode(CODER.encode(images, scales) + bytes(5), SHAPES, scales)


def test_missing_bytes_are_refused() -> None:
    """A payload that is cut says how many bytes there were, even if what is left would decode."""
    tensors = context_tensors()
    tensors["states"] = np.full_like(tensors["states"], 100)  # no bit is expected to be 1
    surprised, shapes = ContextCoder(**tensors), [band.shape(1, 1) for band in SUBBANDS]
    images = [np.full((1, *shape), SYMBOL_LIMIT - 1, dtype=np.int32) for shape in shapes]
    scales = np.full((1, BANDS), 12, dtype=np.int32)
    coded = surprised.encode(images, scales)
    said = set()
    for length in range(len(coded) - 4):
        try:
            surprised.decode(coded[:length], shapes, scales)
        except PayloadError as error:
            said.add(str(error).replace(str(length), "N"))
    assert said == {"a symbol is out of range", "N bytes end before the last symbol"}


def test_a_symbol_out_of_range_is_refused() -> None:
    """A magnitude no encoder can mean is not handed to the network."""
    beyond = [np.full((1, *shape), 2 * SYMBOL_LIMIT - 1, dtype=np.int32) for shape in SHAPES]
    scales = np.full((1, BANDS), 12, dtype=np.int32)
    with pytest.raises(PayloadError, match="out of range"):
        CODER.decode(CODER.encode(beyond, scales), SHAPES, scales)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        pytest.param("states", np.zeros(3, np.int32), id="shape"),
        pytest.param("weights", np.zeros(CONTEXT_TENSORS["weights"][1]), id="type"),
        pytest.param("states", np.full(CONTEXT_TENSORS["states"][1], -1, np.int32), id="negative"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(name: str, broken: NDArray[Any]) -> None:
    """Type, shape and sign are checked when a coder is made."""
    with pytest.raises(BundleError, match=f"contexts.{name}"):
        ContextCoder(**{**context_tensors(), name: broken})
