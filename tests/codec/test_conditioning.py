"""Rules of `codec.conditioning`: what the paper's network sees of samples, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec.conditioning import ConditionerSpec, Conditioning, centered_samples, fit_minmax
from codec.errors import BundleError, TileError


def test_minmax_is_the_papers() -> None:
    """[low, high] becomes [0, 1], in reflectance, whatever the sample unit."""
    spec = ConditionerSpec(kind="minmax", components=2, low=0.0, high=0.5)
    samples = np.array([[[0, 50]], [[100, -50]]], dtype=np.int16)
    way = fit_minmax(spec, np.ones(2, bool), sample_unit=100.0, step=0.1)
    conditioned = way.condition(samples, None)
    assert conditioned.ravel().tolist() == pytest.approx([0, 1, 2, -1])
    assert way.restore(conditioned).ravel().tolist() == pytest.approx([0, 50, 100, -50])


def test_minmax_clips_only_if_it_says_so() -> None:
    """Clipping is a choice of the bundle, not a habit of the code."""
    spec = ConditionerSpec(kind="minmax", components=1, clip=True)
    samples = np.array([[[-100, 5000, 20_000]]], dtype=np.int16)
    way = fit_minmax(spec, np.ones(1, bool), sample_unit=1.0, step=0.1)
    assert way.condition(samples, None).ravel().tolist() == pytest.approx([0, 0.5, 1])


def test_minmax_takes_its_bands() -> None:
    """A network with one input per band refuses another number of bands."""
    with pytest.raises(TileError, match="takes 2 bands, the tile has 3"):
        fit_minmax(ConditionerSpec(kind="minmax", components=2), np.ones(3, bool), 1.0, 0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "pca", "components": 3},
        {"kind": "klt", "components": 0},
        {"kind": "minmax", "components": 3, "low": 1.0, "high": 1.0},
        {"kind": "minmax", "components": 3, "low": math.nan},
    ],
)
def test_a_damaged_spec_is_refused(fields: dict[str, object]) -> None:
    """A conditioner that conditions nothing is a bundle error."""
    with pytest.raises(BundleError):
        ConditionerSpec(**fields)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("one_band", [False, True])
def test_gaps_are_bridged_not_kept(one_band: bool) -> None:
    """An invalid sample becomes the mean of the valid ones beside it, or the band's mean."""
    samples = np.full((2, 4, 4), 100, dtype=np.int16)
    samples[:, 0, 0], samples[:, 1, 1] = 130, 160
    valid = np.ones((2, 4, 4), dtype=np.bool_)
    valid[:, 0, 1] = valid[:, 2:, 2:] = False
    if one_band:
        valid[1] = True
    samples[~valid] = -9999
    mean = np.full(2, 100, dtype=np.float32)
    first, second = centered_samples(samples, np.arange(2), mean, valid, 1.0).numpy()
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 1], expected[0, 1] = 30, 60, (30 + 60 + 0) / 3
    assert first.reshape(4, 4).tolist() == expected.tolist()
    assert one_band or np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (130, 9), (3, 700)])
def test_a_patch_without_gaps_is_projected_in_parts(dtype: str, shape: tuple[int, int]) -> None:
    """Rows at a time and the mean last: what comes out is the plain product, whatever the size."""
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 4000, (9, *shape)).astype(dtype)
    way = Conditioning(
        bands=np.array([0, 1, 2, 4, 5, 6, 8]),
        basis=np.linalg.qr(rng.normal(size=(7, 3)))[0].astype(np.float32),
        mean=rng.uniform(500, 2500, 7).astype(np.float32),
        levels=np.zeros(3, np.int32),
        sample_unit=0.5,
        component_unit=32.0,
        latent_step=1.0,
    )
    assert way.basis is not None
    centered = samples[way.bands].reshape(7, -1) * 0.5 - way.mean[:, None]
    expected = (way.basis.T @ centered / 32).reshape(3, *shape)
    # Half a unit of each entry in two bytes, see `test_projection`: at most 7 · 4000 / 2¹⁷ / 64.
    assert way.condition(samples, None) == pytest.approx(expected, abs=3.4e-3)
    all_valid = np.ones((7, *shape), bool)
    assert way.condition(samples, all_valid) == pytest.approx(expected, abs=1e-3)
