"""Bjøntegaard's deltas: what a codec saves in bytes at equal PSNR, or gains in PSNR at equal rate.

Curves run through their points as monotone piecewise cubics over the logarithm of the rate, as in
the common test conditions of JCT-VC; the one cubic of VCEG-M33 (2001) overshoots between points
that lie far apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Point: TypeAlias = tuple[float, float]
"""Rate [bits per sample] and PSNR [dB]."""

Interval: TypeAlias = tuple[float, float]

_LEAST_POINTS: Final = 2
"""What an interpolation takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A curve against a baseline, over a range of rates.

    Attributes:
        rate_change: Rate at equal PSNR over the baseline's, minus 1: the mean of log rates over
            the PSNR that the baseline has in the range and the other curve has at all. NaN if none.
        rate_coverage: Share of the range, in octaves of the baseline's rate, that this PSNR stands
            for [1]. A comparison over little of what was asked says little.
        psnr_change_db: PSNR at equal rate minus the baseline's, the mean over the octaves of the
            range that both cover [dB]. NaN if none.
        psnr_coverage: Share of the range, in octaves, that both cover [1].
    """

    rate_change: float
    rate_coverage: float
    psnr_change_db: float
    psnr_coverage: float


def delta(points: Iterable[Point], baseline: Iterable[Point], low: float, high: float) -> Delta:
    """Compare a curve with a baseline over rates from `low` to `high` [bits per sample].

    Points may come in any order. Those that another one beats in both are left out, and so are
    those without a finite PSNR (lossless ones); a curve of fewer than two points covers nothing.
    """
    asked = math.log(low), math.log(high)
    ours, theirs = (np.array(_front(curve)).reshape(-1, 2).T for curve in (points, baseline))
    if min(ours.shape[1], theirs.shape[1]) < _LEAST_POINTS:
        return Delta(
            rate_change=math.nan, rate_coverage=0.0, psnr_change_db=math.nan, psnr_coverage=0.0
        )
    (our_rate, our_psnr), (their_rate, their_psnr) = ours, theirs
    our_rate, their_rate = np.log(our_rate), np.log(their_rate)

    range_covered = _common(asked, _ends(their_rate))
    reached = PchipInterpolator(their_rate, their_psnr)(range_covered)
    at_psnr = _common(_ends(reached), _ends(our_psnr))
    stands_for = PchipInterpolator(their_psnr, their_rate)(at_psnr)
    log_rate = _mean(our_psnr, our_rate, at_psnr) - _mean(their_psnr, their_rate, at_psnr)
    at_rate = _common(range_covered, _ends(our_rate))
    return Delta(
        rate_change=math.expm1(log_rate),
        rate_coverage=_length(_ends(stands_for)) / _length(asked),
        psnr_change_db=(
            _mean(our_rate, our_psnr, at_rate) - _mean(their_rate, their_psnr, at_rate)
        ),
        psnr_coverage=_length(at_rate) / _length(asked),
    )


def rate_gaps(
    points: Iterable[Point], baseline: Iterable[Point], rates: Sequence[float]
) -> NDArray[np.float64]:
    """Rate at equal PSNR over the baseline's, minus 1, at some of the baseline's rates.

    NaN where either curve does not reach; see `delta` for the points.
    """
    ours, theirs = (np.array(_front(curve)).reshape(-1, 2).T for curve in (points, baseline))
    if min(ours.shape[1], theirs.shape[1]) < _LEAST_POINTS:
        return np.full(len(rates), np.nan)
    asked = np.log(rates)
    psnr = PchipInterpolator(np.log(theirs[0]), theirs[1], extrapolate=False)(asked)
    log_rate = PchipInterpolator(ours[1], np.log(ours[0]), extrapolate=False)(psnr)
    gaps: NDArray[np.float64] = np.expm1(log_rate - asked)
    return gaps


def envelope(points: Iterable[Point]) -> list[Point]:
    """Best of many variants: the upper convex hull of rate and PSNR, both ascending.

    What lies below a chord of two others is left out, too: who may mix tiles of two settings
    reaches the chord. Points without a finite PSNR are left out.
    """
    hull: list[Point] = []
    for point in _front(points):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _front(points: Iterable[Point]) -> list[Point]:
    """The points no other beats, rate and PSNR both strictly ascending."""
    front: list[Point] = []
    for rate, psnr in sorted(points, key=lambda point: (point[0], -point[1])):
        if math.isfinite(psnr) and (not front or psnr > front[-1][1]):
            front.append((rate, psnr))
    return front


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _ends(values: NDArray[np.float64]) -> Interval:
    return float(values[0]), float(values[-1])


def _common(a: Interval, b: Interval) -> Interval:
    """What two intervals share; of no length if they do not meet."""
    low = max(a[0], b[0])
    return low, max(low, min(a[1], b[1]))


def _length(interval: Interval) -> float:
    return interval[1] - interval[0]


def _mean(x: NDArray[np.float64], y: NDArray[np.float64], over: Interval) -> float:
    """Mean of y over an interval of x; NaN if it is empty."""
    if not _length(over):
        return math.nan
    return float(PchipInterpolator(x, y).integrate(*over)) / _length(over)
