"""Calibration predicts what the encoder really codes."""

from __future__ import annotations

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.contexts import scale_index
from codec.encoder import Encoder
from codec.tables import ALPHABET_LIMIT, PRECISION_BITS, laplace_tables
from fakes.bundles import branch_bundle, klt_bundle
from training.calibrate import calibrate, measure_ranges, measure_tables
from training.coded import CodedPatch, coded_patches
from training.config import CalibrateSettings
from training.scenes import Split

OCTAVES = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Return the linear codec."""
    return klt_bundle(step=16.0)


def made_patch(rng: np.random.Generator, mean: float) -> CodedPatch:
    """Draw two-sided symbols of a given mean magnitude, one component."""
    symbols = np.rint(rng.laplace(size=(64, 64, 64)) * mean).astype(np.int32)
    components = np.zeros((1, 512, 512), dtype=np.float32)
    return CodedPatch(components=components, symbols=symbols, errors=None, rows=512, cols=512)


def index_of_all(bundle: Bundle, patch: CodedPatch) -> int:
    """Return the one scale index all of a patch has without contexts."""
    (index,) = np.unique(scale_index(bundle.scales.scales(patch.symbols)))
    return int(index)


def test_tables_follow_the_symbols_and_stay_even(bundle: Bundle) -> None:
    """What occurs often becomes cheap, equally for both signs; nothing becomes impossible."""
    patch = made_patch(np.random.default_rng(0), 2.0)
    counts = measure_tables(bundle.scales, [patch], law_share=0.0, prior_symbols=100.0)
    index = index_of_all(bundle, patch)
    row = counts[index - 1].astype(np.int64)

    assert counts.dtype == np.uint32
    assert counts.min() > 0
    assert (counts.sum(axis=1, dtype=np.int64) == 1 << PRECISION_BITS).all()
    assert np.array_equal(
        np.delete(row[:-1], ALPHABET_LIMIT), np.delete(row[-2::-1], ALPHABET_LIMIT)
    )
    share = (patch.symbols == 0).mean()
    assert row[ALPHABET_LIMIT] / (1 << PRECISION_BITS) == pytest.approx(share, rel=0.05)


def test_without_symbols_the_law_stands(bundle: Bundle) -> None:
    """Tables nothing was coded with are the analytic ones."""
    counts = measure_tables(bundle.scales, [], law_share=0.0, prior_symbols=100.0)

    difference = counts.astype(np.int64) - laplace_tables().counts
    assert np.abs(difference).max() <= 300  # of 2²⁴: rounded twice


def test_ranges_hold_what_the_convolutions_see(split: Split) -> None:
    """The first range is the largest squashed input; a quantile leaves outliers out."""
    bundle = branch_bundle()
    patches = list(coded_patches(bundle, split.training, (0.0,)))
    whole = measure_ranges(bundle, patches, 1.0)
    part = measure_ranges(bundle, patches, 0.9)

    squash = bundle.network.squash
    seen = max(float(np.abs(p.components[: bundle.network.components]).max()) for p in patches)
    assert whole[0] == pytest.approx(seen / (1 + seen / squash), rel=1e-5)
    assert whole.shape == (5,)
    assert (part < whole).all()


@pytest.mark.parametrize("shortcut", ["wavelet", "dct"])
def test_calibration_pays(split: Split, shortcut: str) -> None:
    """Where it was measured, the calibrated codec sends fewer bytes for equal symbols."""
    bundle = klt_bundle(shortcut, step=16.0)
    calibrated = calibrate(bundle, split.training, CalibrateSettings(octaves=OCTAVES))

    def size(model: Bundle) -> int:
        encoder = Encoder(model, backend="torch-cpu")
        return sum(len(f) for s in split.training for f in encoder.encode(s.tile))

    assert calibrated.name != bundle.name
    assert size(calibrated) < size(bundle)


def test_the_law_keeps_its_share(bundle: Bundle) -> None:
    """However much was counted, a table stays half what the analytic law says."""
    patch = made_patch(np.random.default_rng(0), 2.0)
    law, counted, half = (
        measure_tables(bundle.scales, patches, law_share=share, prior_symbols=1e-6)
        for patches, share in (([], 0.0), ([patch], 0.0), ([patch], 0.5))
    )
    index = index_of_all(bundle, patch)

    expected = (law[index - 1].astype(float) + counted[index - 1]) / 2
    np.testing.assert_allclose(half[index - 1], expected, rtol=0.01, atol=3)
