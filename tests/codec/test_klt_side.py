"""Rules of `codec.klt_side`: what travels of a tile's KLT, and what it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from codec.errors import PayloadError
from codec.klt_side import KltSide, entry_steps, mean_step
from codec.tables import laplace_tables

TABLES = laplace_tables()
SIDE = KltSide(
    levels=(40, 12),
    symbols=np.array([[900, 905, 911, 3], [-20, 14, 200, 0], [0, 1, -1, 0]], dtype=np.int32),
)


def test_round_trip() -> None:
    """What is packed is what is unpacked."""
    again = KltSide.unpack(SIDE.levels, SIDE.pack(TABLES), 4, TABLES)
    assert again.levels == SIDE.levels
    assert np.array_equal(again.symbols, SIDE.symbols)


def test_another_number_of_levels_is_refused() -> None:
    """The rows follow from the levels; bytes of more rows do not pass for fewer."""
    with pytest.raises(PayloadError):
        KltSide.unpack((40,), SIDE.pack(TABLES), 4, TABLES)


def test_strong_components_are_told_more_finely() -> None:
    """An error in an eigenvector costs as its component's variance: an octave, half the step."""
    steps = entry_steps(np.array([16, 8, 0], dtype=np.int32), 256)
    assert steps.tolist() == [1 / 64, 1 / 32, 1 / 16]
    assert entry_steps(np.array([192], dtype=np.int32), 2**30) == [2.0**-22]
    assert mean_step(8.0, 256) == 0.5
    assert mean_step(8.0, 2**30) == 8.0 / 256


def test_a_dependent_column_carries_nothing() -> None:
    """What rounding left of a dependent eigenvector is noise, and machines differ in noise."""
    vectors = [[3, 1, 2, 0], [3, 1, 2, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    symbols = np.array([[0, 0, 0, 0], *vectors], dtype=np.int32)
    side = KltSide(levels=(8, 8, 8, 8), symbols=symbols)
    basis = side.conditioning(np.arange(4), 64, 1.0, 1.0).basis
    assert basis is not None
    assert np.allclose(np.linalg.norm(basis, axis=0), [1, 0, 0, 1])
