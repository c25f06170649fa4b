"""Rules of `codec.quantize`: the one place that says how a latent becomes an integer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codec.quantize import (
    ROUNDING,
    SYMBOL_LIMIT,
    best_rounding,
    dequantize,
    quantize,
    rounding_errors,
)


def test_rounding_leans_towards_zero() -> None:
    """A magnitude m·step becomes the whole part of m + 0.42, whatever its sign."""
    latents = np.array([0, 0.57, 0.59, -0.57, -0.59, 1.57, 1.59, -1.59], dtype=np.float32)
    assert quantize(latents * 4, 4.0).tolist() == [0, 0, 1, 0, -1, 1, 2, -2]


@given(
    arrays(np.float32, 20, elements=st.floats(-1000, 1000, width=32)),
    st.sampled_from([0.25, 1.0, 37.5]),
)
def test_the_error_is_bounded(latents: NDArray[Any], step: float) -> None:
    """No latent is restored further away than 0.58 steps."""
    restored = dequantize(quantize(latents, step), step)
    assert np.abs(restored - latents).max() <= (1 - ROUNDING) * step * 1.001


@given(arrays(np.int32, 20, elements=st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)))
def test_symbols_are_fixed_points(symbols: NDArray[Any]) -> None:
    """A restored latent quantizes to the symbol it came from, up to the limit."""
    assert np.array_equal(quantize(dequantize(symbols, 0.5), 0.5), symbols)


@pytest.mark.parametrize(
    ("latent", "symbol"),
    [(1e30, SYMBOL_LIMIT), (-1e30, -SYMBOL_LIMIT), (3e38, SYMBOL_LIMIT), (np.inf, SYMBOL_LIMIT)],
)
def test_symbols_end_at_the_limit(latent: float, symbol: int) -> None:
    """What is too large stays at the limit; no integer overflows and nothing warns."""
    assert quantize(np.array([latent], dtype=np.float32), 0.5).tolist() == [symbol]


def test_nan_is_a_symbol_in_range() -> None:
    """Garbage from the network is garbage in the bytes, never an undefined cast."""
    symbols = quantize(np.array([np.nan, 1.0], dtype=np.float32), 1.0)
    assert np.abs(symbols).tolist() == [SYMBOL_LIMIT, 1]


def test_the_latents_are_left_alone() -> None:
    """Quantizing makes a new array."""
    latents = np.array([1.5, -2.5], dtype=np.float32)
    quantize(latents, 1.0)
    assert latents.tolist() == [1.5, -2.5]


def test_sparse_groups_round_later() -> None:
    """The rarer a symbol, the more it costs, and the more it has to save."""
    offsets = best_rounding(np.array([100.0, 1.0, 0.1, 0.01, 0.0]))
    assert (np.diff(offsets[:4]) < 0).all()
    assert offsets == pytest.approx([0.499, 0.427, 0.250, 0.096, 0.096], abs=0.001)


@pytest.mark.parametrize("mean", [0.1, 1.0, 5.0])
def test_the_best_rounding_is_where_both_symbols_cost_the_same(mean: float) -> None:
    """At the threshold the distortion saved is worth the bits paid, under the codec's tables."""
    threshold = 1 - float(best_rounding(np.array(mean)))
    ratio = np.exp(-np.arcsinh(1 / mean))
    paid = np.log(2) / 6 * -np.log2(ratio)
    assert threshold**2 == pytest.approx((1 - threshold) ** 2 + paid)


def test_every_channel_has_its_own_rounding() -> None:
    """Offsets broadcast over the positions of a channel."""
    latents = np.full((2, 1, 3), 0.7, dtype=np.float32)
    offsets = np.array([0.42, 0.2], dtype=np.float32)[:, None, None]
    assert quantize(latents, 1.0, offsets).tolist() == [[[1, 1, 1]], [[0, 0, 0]]]


def test_rounding_errors_are_what_was_left() -> None:
    """In 1/256 step, signed, from the symbol to the latent; what is out of range is limited."""
    latents = np.array([0.0, 1.0, -1.5, 8.0, 1e20, np.nan], dtype=np.float32)
    symbols = np.array([0, 0, -1, 1, SYMBOL_LIMIT, 0], dtype=np.int32)
    errors = rounding_errors(latents, symbols, 4.0)
    assert errors.dtype == np.int32
    assert errors.tolist()[:5] == [0, 64, 160, 256, 256]
    assert abs(errors[5]) <= 256
