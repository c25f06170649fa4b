"""Rules of `codec.backends.device_rounding`: the same integers as of `codec.quantize`."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
import torch

from codec import quantize
from codec.backends.device_rounding import (
    best_rounding,
    narrowed,
    round_off,
    rounding_errors,
    shares,
)
from fakes.bundles import klt_bundle

RNG: Final = np.random.default_rng(0)
SCALES: Final = klt_bundle().scales
LATENTS: Final = (
    RNG.laplace(size=(3 * 64, 4, 5)) * RNG.lognormal(0, 3, size=(3 * 64, 1, 1))
).astype(np.float32)
STEP: Final = 0.7
PER_STEP: Final = torch.full((3 * 64, 1, 1), 1 / STEP)


def test_rounding_is_the_hosts() -> None:
    """To the last symbol."""
    found = round_off(torch.from_numpy(LATENTS), PER_STEP)
    assert np.array_equal(found.int().numpy(), quantize.quantize(LATENTS, STEP))


def test_garbage_is_a_large_symbol() -> None:
    """As on the host: in range, whatever comes."""
    bad = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).reshape(4, 1, 1)
    found = round_off(torch.from_numpy(bad), torch.ones(4, 1, 1)).numpy()
    assert np.array_equal(found.astype(np.int32), quantize.quantize(bad, 1.0))


def test_each_group_is_rounded_as_is_best_for_it() -> None:
    """As on the host, but for the last bit of a logarithm."""
    symbols = quantize.quantize(LATENTS, STEP)
    expected = quantize.best_rounding(SCALES.channel_means(symbols))
    found = best_rounding(torch.from_numpy(symbols).float(), shares(SCALES))
    assert found.shape == (3 * 64, 1, 1)
    assert np.allclose(found.flatten().numpy(), expected, rtol=0, atol=1e-6)
    assert best_rounding(torch.zeros(0, 2, 2), shares(SCALES)).shape == (0, 1, 1)


def test_what_rounding_leaves_is_the_hosts() -> None:
    """In 256ths of a step, and nothing of what is no number."""
    latents = LATENTS.copy()
    latents[0, 0, 0] = np.nan
    symbols = quantize.quantize(latents, STEP)
    found = rounding_errors(torch.from_numpy(latents), torch.from_numpy(symbols).float(), PER_STEP)
    assert found.dtype == torch.int16
    assert np.array_equal(found.numpy(), quantize.rounding_errors(latents, symbols, STEP))


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, "int16"), (32_767, "int16"), (-32_768, "int32"), (1 << 24, "int32")]
)
def test_symbols_take_as_few_bytes_as_they_need(largest: int, dtype: str) -> None:
    """Two each where all fit."""
    found = narrowed(torch.tensor([1.0, float(largest), -1.0])).numpy()
    assert (found.dtype.name, found.tolist()) == (dtype, [1, largest, -1])
