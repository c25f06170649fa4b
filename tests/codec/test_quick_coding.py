"""Rules of `codec.quick_coding`: every machine rounds alike, and means are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from codec.quick_coding import EXACT, mean_magnitudes


@pytest.mark.parametrize("name", EXACT)
def test_every_machine_rounds_alike(name: str) -> None:
    """No value that is rounded lies so near a half that a last bit of a float decides."""
    away = np.abs(EXACT[name] % 1 - 0.5)
    assert away.min() > 1e-5


def test_the_means_are_those_of_symbols_rounded_at_once() -> None:
    """Magnitudes from 0.58 steps on count; what is no number counts as the largest symbol."""
    latents = np.array([[0.5, -0.6, 3.0, -2.5], [0, 0, 0, 0.25], [np.nan, 0, 0, 0]], np.float32)
    assert mean_magnitudes(latents, np.float32(1)).tolist() == [6 / 4, 0, 2**24 / 4]
    assert mean_magnitudes(latents[:2], np.float32(4)).tolist() == [26 / 4, 1 / 4]
