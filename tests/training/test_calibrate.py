"""Calibration predicts what the encoder really codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.contexts import ScaleModel
from codec.encoder import Encoder
from codec.tables import ALPHABET_LIMIT, PRECISION_BITS, index_of, laplace_tables
from fakes.bundles import branch_bundle, klt_bundle
from training.calibrate import (
    CodedPatch,
    calibrate,
    coded_patches,
    measure_offsets,
    measure_ranges,
    measure_tables,
)
from training.config import CalibrateSettings
from training.scenes import Split

OCTAVES = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Return the linear codec."""
    return klt_bundle(step=16.0)


def made_patch(rng: np.random.Generator, level: int, mean: Sequence[float]) -> CodedPatch:
    """Draw two-sided symbols of given mean magnitude per subband of one component."""
    groups = klt_bundle().scales.groups
    scale = np.array(mean)[groups][:, None]
    symbols = np.rint(rng.laplace(size=(64, 4096)) * scale).astype(np.int32)
    return CodedPatch(
        components=np.zeros((1, 8, 8), dtype=np.float32),
        levels=np.array([level], dtype=np.int32),
        symbols=symbols,
    )


def test_offsets_predict_the_table_the_encoder_would_choose(bundle: Bundle) -> None:
    """Where groups are as large as they were, no delta is left to send."""
    means = [50.0, 30.0, 20.0, 10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5]
    patch = made_patch(np.random.default_rng(0), 40, means)
    scales = ScaleModel(offsets=measure_offsets(bundle, [patch]), groups=bundle.scales.groups)

    deltas = scales.deltas(patch.symbols, scales.predict(patch.levels, 0), 1)

    assert np.abs(deltas).max() == 0


def test_a_silent_group_is_predicted_silent(bundle: Bundle) -> None:
    """Subbands that are mostly zero are expected to be; the delta is zero then too."""
    patch = made_patch(np.random.default_rng(0), 8, [4.0] * 7 + [0.0] * 3)
    scales = ScaleModel(offsets=measure_offsets(bundle, [patch]), groups=bundle.scales.groups)

    deltas = scales.deltas(patch.symbols, scales.predict(patch.levels, 0), 1)

    assert deltas[7:].tolist() == [0, 0, 0]


def test_components_no_scene_has_are_as_the_last_one(bundle: Bundle) -> None:
    """The bundle describes every component it may send."""
    patch = made_patch(np.random.default_rng(0), 8, [4.0] * 10)
    offsets = measure_offsets(bundle, [patch]).reshape(-1, 64)

    assert len(offsets) == bundle.conditioner.components
    assert (offsets == offsets[0]).all()


def test_tables_follow_the_symbols_and_stay_even(bundle: Bundle) -> None:
    """What occurs often becomes cheap, equally for both signs; nothing becomes impossible."""
    patch = made_patch(np.random.default_rng(0), 0, [2.0] * 10)
    counts = measure_tables(bundle.scales, [patch], law_share=0.0, prior_symbols=100.0)
    index = int(index_of(np.array([np.abs(patch.symbols).mean()]))[0])
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


def test_calibration_pays(split: Split, bundle: Bundle) -> None:
    """Where it was measured, the calibrated codec sends fewer bytes for equal symbols."""
    settings = CalibrateSettings(octaves=OCTAVES)
    calibrated = calibrate(bundle, split.training, settings)

    def size(model: Bundle) -> int:
        encoder = Encoder(model, backend="torch-cpu")
        return sum(len(f) for s in split.training for f in encoder.encode(s.tile))

    assert calibrated.name != bundle.name
    assert size(calibrated) < size(bundle)


def test_the_law_keeps_its_share(bundle: Bundle) -> None:
    """However much was counted, a table stays half what the analytic law says."""
    patch = made_patch(np.random.default_rng(0), 0, [2.0] * 10)
    law, counted, half = (
        measure_tables(bundle.scales, patches, law_share=share, prior_symbols=1e-6)
        for patches, share in (([], 0.0), ([patch], 0.0), ([patch], 0.5))
    )
    index = int(index_of(np.array([np.abs(patch.symbols).mean()]))[0])

    expected = (law[index - 1].astype(float) + counted[index - 1]) / 2
    np.testing.assert_allclose(half[index - 1], expected, rtol=0.01, atol=3)
