"""Rules of `codec.projection`: in bytes or in floats, what comes out is the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codec import projection
from codec.projection import ByteProjection, FloatProjection, projection_of

_SEED = 20261127
_LAYOUTS = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


def _laid_out(samples: NDArray[Any], interleave: str) -> NDArray[Any]:
    """The same samples as a view of memory in another order."""
    order = _LAYOUTS[interleave]
    return np.ascontiguousarray(samples.transpose(order)).transpose(np.argsort(order))


def _case(
    dtype: str, shape: tuple[int, int], components: int
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Samples over all of their type, some bands of them, and a basis with a zero row."""
    rng = np.random.default_rng(_SEED)
    bands = np.array([0, 1, 2, 5, 6, 9, 10, 11], dtype=np.int64)
    if dtype == "float32":
        samples = rng.normal(0, 5000, (12, *shape)).astype(np.float32)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        samples = rng.integers(low, high, (12, *shape), endpoint=True).astype(dtype)
        samples[0, 0, 0], samples[0, 0, -1] = low, high
    weights = np.linalg.qr(rng.normal(size=(8, 8)))[0][:components].astype(np.float32) / 50
    if components:
        weights[-1] = 0
    return samples, bands, weights, samples[bands].mean(axis=(1, 2)).astype(np.float32)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 600), (33, 128), (2, 1500)])
@pytest.mark.parametrize("interleave", _LAYOUTS)
def test_components_are_the_product(
    interleave: str,
    shape: tuple[int, int],
    dtype: str,
    quick: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever type, order and size, and whether or not the machine is quick at bytes."""
    monkeypatch.setattr(projection, "multiplies_bytes_fast", lambda: quick)
    for count in (0, 1, 6):
        samples, bands, weights, mean = _case(dtype, shape, count)
        samples = _laid_out(samples, interleave)
        samples.flags.writeable = False  # as views of a message are
        found = np.full((count, *shape), np.nan, dtype=np.float32)
        projection_of(weights, mean, bands, samples).project(samples, found)
        centered = samples[bands].astype(np.float64) - mean[:, None, None]
        exact = np.einsum("kb,bhw->khw", weights.astype(np.float64), centered)
        # Half a unit of each rounded entry, and what float32 loses with the mean off at the end.
        unit = np.abs(weights).max(axis=1, initial=0) / (127 * 256)
        bound = unit[:, None, None] / 2 * np.abs(centered).sum(axis=0) + 0.005
        assert (np.abs(found - exact) <= bound).all()


def test_bytes_are_taken_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers in the machine's order, with pixels of a row side by side; all else is floats."""
    monkeypatch.setattr(projection, "multiplies_bytes_fast", lambda: True)
    samples, bands, weights, mean = _case("int16", (4, 8), 2)

    def kind(samples: NDArray[Any]) -> type:
        return type(projection_of(weights, mean, bands, samples))

    assert kind(samples) is kind(_laid_out(samples, "bil")) is ByteProjection
    assert kind(_laid_out(samples, "bip")) is FloatProjection
    assert kind(samples.astype(">i2")) is FloatProjection
    assert kind(samples.astype(np.float32)) is FloatProjection
    monkeypatch.setattr(projection, "multiplies_bytes_fast", lambda: False)
    assert kind(samples) is FloatProjection


def test_fine_steps_are_projected_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding entries leaves of a strong component in a weak one would be seen there."""
    monkeypatch.setattr(projection, "multiplies_bytes_fast", lambda: True)
    samples, bands, weights, mean = _case("int16", (4, 8), 2)
    assert isinstance(projection_of(weights, mean, bands, samples, 4000.0), ByteProjection)
    assert isinstance(projection_of(weights, mean, bands, samples, 4200.0), FloatProjection)


def test_in_bytes_a_pixel_is_the_same_whatever_lies_beside_it() -> None:
    """Integer sums have no order: a patch alone gives the bits that it gives in its tile."""
    samples, bands, weights, mean = _case("int16", (40, 90), 6)
    in_bytes = ByteProjection.of(weights, mean, bands, samples.dtype)
    whole, part = np.empty((6, 40, 90), np.float32), np.empty((6, 7, 30), np.float32)
    in_bytes.project(samples, whole)
    in_bytes.project(samples[:, 11:18, 50:80], part)
    assert np.array_equal(whole[:, 11:18, 50:80], part)
