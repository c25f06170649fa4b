"""Rules of `codec.tables`: integer counts, none zero, of one frozen sum."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codec.errors import BundleError
from codec.tables import (
    ALPHABET_LIMIT,
    ENTRIES,
    PRECISION_BITS,
    TABLE_COUNT,
    FrequencyTables,
    laplace_tables,
    normalize,
    scale_of,
)


@given(
    arrays(np.float64, ENTRIES, elements=st.floats(0, 1e12, allow_subnormal=False)).filter(
        lambda weights: weights.sum() > 0
    )
)
def test_normalized_counts_fit_the_coder(weights: NDArray[Any]) -> None:
    """Whatever the weights, every count is positive and the sum is 2^24 exactly."""
    counts = normalize(weights)
    assert counts.dtype == np.uint32
    assert counts.min() >= 1
    assert counts.sum() == 1 << PRECISION_BITS


def test_counts_follow_weights() -> None:
    """A heavier entry has at least the count of a lighter one."""
    weights = np.geomspace(1e-9, 1, ENTRIES)
    assert (np.diff(normalize(weights).astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("index", [1, 17, 25, 33, TABLE_COUNT])
def test_a_table_has_its_mean_magnitude(index: int) -> None:
    """Table t codes symbols whose mean magnitude is `scale_of(t)`."""
    probabilities = laplace_tables().probabilities(index)
    magnitude = np.abs(np.arange(-ALPHABET_LIMIT, ALPHABET_LIMIT + 1))
    inside = (probabilities[:-1] * magnitude).sum()
    escaped = probabilities[-1] * (ALPHABET_LIMIT + scale_of(index))
    # In the narrowest table the rule that no count is zero adds six percent.
    assert inside + escaped == pytest.approx(scale_of(index), rel=0.07 if index == 1 else 0.01)


def test_probabilities_are_exact() -> None:
    """A probability is a multiple of 2⁻²⁴, so their sum is 1 without rounding."""
    for index in range(1, TABLE_COUNT + 1):
        probabilities = laplace_tables().probabilities(index)
        assert math.fsum(probabilities) == probabilities.sum() == 1.0
        assert np.array_equal(probabilities * 2**24 % 1, np.zeros(ENTRIES))


def spoiled(row: int, entry: int, count: int) -> NDArray[Any]:
    """Counts with one changed."""
    counts = laplace_tables().counts.copy()
    counts[row, entry] = count
    return counts


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(spoiled(3, 7, 0), id="zero count"),
        pytest.param(spoiled(3, 7, 1 << 23), id="wrong sum"),
        pytest.param(laplace_tables().counts[1:], id="a table too few"),
        pytest.param(laplace_tables().counts.astype(np.int64), id="type"),
    ],
)
def test_damaged_tables_are_refused(counts: NDArray[Any]) -> None:
    """Tables that would desynchronize a decoder do not exist."""
    with pytest.raises(BundleError, match="table"):
        FrequencyTables(counts)


def test_tables_of_symmetric_laws_are_symmetric() -> None:
    """Positive and negative symbols cost the same, but for the rounding of the largest count."""
    counts = laplace_tables().counts[:, :-1]
    assert np.array_equal(counts, counts[:, ::-1])


def test_the_widest_table_rarely_escapes() -> None:
    """At the widest table's scale fewer than one symbol in a thousand is escaped."""
    assert laplace_tables().probabilities(TABLE_COUNT)[-1] < 1e-3


def test_the_counts_are_integers_of_the_bundle() -> None:
    """Equal tables have equal bytes: the analytic ones are made once, then frozen in a bundle."""
    first, second = laplace_tables().counts, laplace_tables().counts
    assert sha256(first.tobytes()).digest() == sha256(second.tobytes()).digest()
