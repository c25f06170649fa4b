"""Rules of `codec.lifting`: compiled, the transform is the one the ground inverts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec.lifting import direct_latents, inverse_wavelet, wavelet
from codec.shortcut import Dct, Wavelet


@given(st.integers(0, 3), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32))
def test_it_is_the_wavelet(count: int, rows: int, cols: int, seed: int) -> None:
    """Any number of components of any size: as PyTorch's, but for float32's last bits."""
    images = np.random.default_rng(seed).normal(0, 100, (count, rows, cols)).astype(np.float32)
    expected = Wavelet.forward(torch.from_numpy(images)[None])[0].numpy()
    assert wavelet(images) == pytest.approx(expected, abs=1e-3)


@given(st.integers(0, 3), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32))
def test_so_is_its_inverse(count: int, rows: int, cols: int, seed: int) -> None:
    """To the last bit: what the ground restores does not depend on who computes it."""
    shape = 64 * count, -(-rows // 8), -(-cols // 8)
    latents = np.random.default_rng(seed).normal(0, 100, shape).astype(np.float32)
    expected = Wavelet.inverse(torch.from_numpy(latents)[None], (rows, cols))[0].numpy()
    assert np.array_equal(inverse_wavelet(latents, rows, cols), expected)


def test_what_goes_in_stays() -> None:
    """Components are read, and may be a view."""
    images = np.random.default_rng(0).normal(size=(2, 40, 48)).astype(np.float32)
    before = images.copy()
    again = wavelet(images[:, ::2, ::3])
    assert np.array_equal(images, before)
    assert np.array_equal(again, wavelet(before[:, ::2, ::3].copy()))


def test_the_other_shortcut_is_the_dct() -> None:
    """A bundle may have either."""
    images = np.random.default_rng(0).normal(size=(2, 20, 16)).astype(np.float32)
    expected = Dct.forward(torch.from_numpy(images)[None])[0].numpy()
    assert np.array_equal(direct_latents("dct", images), expected)
