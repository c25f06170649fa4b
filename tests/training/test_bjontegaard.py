"""Deltas are exact where they can be known, say how much they compared, and never overshoot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.bjontegaard import Point, delta, envelope, rate_gaps

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
CURVE = [(rate, 60 + 8 * math.log2(rate) - 0.3 * math.log2(rate) ** 2) for rate in RATES]

points = st.lists(st.tuples(st.floats(0.01, 4), st.floats(20, 80)), min_size=1, max_size=30)


def scaled(curve: list[Point], rate: float = 1.0, psnr_db: float = 0.0) -> list[Point]:
    """Change a curve's rates by a factor and its PSNR by some decibels."""
    return [(rate * r, psnr_db + p) for r, p in curve]


def test_a_tenth_fewer_bytes_is_minus_a_tenth() -> None:
    """The same PSNR at 0.9 times the rate everywhere gives −10 %, whatever the curve's form."""
    found = delta(scaled(CURVE, rate=0.9), CURVE, 0.06, 0.7)

    assert found.rate_change == pytest.approx(-0.1)
    assert found.rate_coverage == pytest.approx(1, abs=0.01)


def test_a_decibel_more_is_a_decibel() -> None:
    """One decibel more at every rate gives +1 dB."""
    found = delta(scaled(CURVE, psnr_db=1.0), CURVE, 0.06, 0.7)

    assert found.psnr_change_db == pytest.approx(1)
    assert found.psnr_coverage == pytest.approx(1)


def test_only_the_range_asked_for_counts() -> None:
    """What a curve does above the range changes nothing, and the baseline's rates are the range."""
    better_above = [p if p[0] < 0.3 else (p[0], p[1] + 5) for p in CURVE]
    within, beyond = (delta(better_above, CURVE, *ends) for ends in ((0.05, 0.1), (0.4, 0.8)))

    assert within.rate_change == pytest.approx(0, abs=1e-9)
    assert beyond.rate_change < -0.2


def test_coverage_is_in_octaves() -> None:
    """A baseline that ends two octaves up a range of three covers two thirds of it."""
    found = delta(scaled(CURVE, rate=0.5), [p for p in CURVE if p[0] < 0.3], 0.05, 0.4)

    assert found.rate_coverage == pytest.approx(2 / 3, abs=0.01)
    assert found.psnr_coverage == pytest.approx(2 / 3)
    assert found.rate_change == pytest.approx(-0.5, abs=1e-3)  # cut curves end a little otherwise


@pytest.mark.parametrize(
    ("curve", "low", "high"),
    [
        pytest.param(scaled(CURVE, rate=100, psnr_db=90), 0.05, 0.8, id="curves apart"),
        pytest.param(CURVE, 2.0, 4.0, id="range apart"),
        pytest.param(CURVE[:1], 0.05, 0.8, id="one point"),
        pytest.param([], 0.05, 0.8, id="no point"),
    ],
)
def test_what_cannot_be_compared_is_nan(curve: list[Point], low: float, high: float) -> None:
    """Curves that do not meet in the range have no delta, and say that they cover none of it."""
    found = delta(curve, CURVE, low, high)

    assert math.isnan(found.rate_change)
    assert math.isnan(found.psnr_change_db)
    assert (found.rate_coverage, found.psnr_coverage) == (0, 0)


def test_order_and_beaten_points_do_not_matter() -> None:
    """A point that another beats in both, and a lossless one, are no part of a curve."""
    better = scaled(CURVE, rate=0.8)
    cluttered = [(3.0, math.inf), *better[::-1], (0.5, 40.0)]

    assert delta(cluttered, CURVE, 0.06, 0.7) == delta(better, CURVE, 0.06, 0.7)


def test_between_far_points_nothing_overshoots() -> None:
    """A step in a curve stays one: its mean gain is below the step (a cubic through it is not)."""
    flat = [(2.0**k, 40 + 1e-3 * k) for k in range(6)]
    step = [(r, p + (10 if r > 4 else 0)) for r, p in flat]

    gains = [delta(step, flat, 2.0**k, 2.0 ** (k + 0.5)).psnr_change_db for k in range(5)]
    assert min(gains) > -0.01
    assert max(gains) < 10.01


def test_an_envelope_is_the_hull_of_the_best() -> None:
    """Points below another, or below the chord of two others, are left out."""
    best = [(0.1, 40.0), (0.2, 50.0), (0.4, 55.0)]

    assert envelope([(0.3, 52.0), *best, (0.4, 54.0), (0.15, 38.0), (0.5, math.inf)]) == best


@given(points)
def test_no_variant_lies_above_the_envelope(variants: list[Point]) -> None:
    """At every variant's rate the envelope is at least as good."""
    rates, psnr = np.array(envelope(variants)).T

    assert (np.diff(rates) > 0).all()
    assert all(p <= np.interp(r, rates, psnr) + 1e-6 for r, p in variants)


def test_a_gap_is_told_rate_by_rate() -> None:
    """A tenth fewer bytes is −10 % at every rate both reach, and nothing beyond."""
    gaps = rate_gaps(scaled(CURVE, rate=0.9), CURVE, [0.01, 0.06, 0.3, 0.7, 0.9])

    assert gaps[1:4] == pytest.approx(-0.1, abs=1e-3)
    assert np.isnan(gaps[[0, 4]]).all()


def test_a_point_has_no_gaps() -> None:
    """One point is no curve."""
    assert np.isnan(rate_gaps(CURVE[:1], CURVE, [0.1])).all()
