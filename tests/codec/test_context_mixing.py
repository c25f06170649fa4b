"""Rules of `codec.context_mixing`: tables no machine rounds otherwise, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest

from codec.context_coder import ContextCoder, untrained_contexts
from codec.context_mixing import BANDS, COUNT_MASK, EXACT, LEARNED, code_subbands
from codec.subbands import SUBBANDS


@pytest.mark.parametrize("name", EXACT)
def test_every_machine_rounds_alike(name: str) -> None:
    """No value that is rounded lies so near a half that a last bit of a float decides."""
    away = np.abs(EXACT[name] % 1 - 0.5)
    assert away.min() > 1e-5


def test_no_step_goes_past_its_goal() -> None:
    """A state moves by less than all of what it is away, and the slower the more it has seen."""
    assert LEARNED.max() < 1 << 16
    assert (np.diff(LEARNED) <= 0).all()
    assert LEARNED.min() > 0
    assert LEARNED.size == COUNT_MASK + 1


@pytest.mark.parametrize("value", [0, 1, -1, 5])
def test_states_stay_within_their_bits(value: int) -> None:
    """However long all decisions go one way, no state becomes negative or certain."""
    shapes = np.array([(40, *band.shape(64, 64)) for band in SUBBANDS])
    symbols = np.full(40 * 64 * 64, value, dtype=np.int32)
    tensors = untrained_contexts()
    scales = np.full((40, BANDS), 31, dtype=np.int32)
    nothing, nowhere = np.empty(0, np.int16), np.empty(0, np.uint8)
    args = symbols, nothing, shapes, scales, tensors["states"], tensors["weights"], nowhere
    for _ in range(3):
        code_subbands(False, *args, COUNT_MASK)
    coder = ContextCoder(**tensors)  # refuses what is negative
    assert (coder.states >> 10).max() < 1 << 21
    assert np.abs(coder.weights.astype(np.int64)).max() < 1 << 24
