"""EnMAP's rate, over the last minute."""

from __future__ import annotations

import pytest

from daemon.feed import ENMAP_PATCHES_PER_S
from daemon.onboard.realtime import WINDOW_S, RealtimeFactor
from fakes.clock import FakeClock


def test_enmaps_own_rate_is_one() -> None:
    """Whether the process is young or old."""
    clock = FakeClock()
    factor = RealtimeFactor(clock)
    assert factor.value() == 0
    for second in range(1, 200):
        clock.advance(0.5)
        factor.add(7)
        clock.advance(0.5)
        factor.add(7)
        if second in (2, 59, 199):
            assert factor.value() == pytest.approx(14 / ENMAP_PATCHES_PER_S, rel=0.03)


def test_what_is_a_minute_old_is_forgotten() -> None:
    """A board that stands still comes to 0; so does one that was busy, and memory stays small."""
    clock = FakeClock()
    factor = RealtimeFactor(clock)
    clock.advance(WINDOW_S)
    for _ in range(10_000):
        factor.add(1)
        clock.advance(0.01)
    assert factor.value() > 1
    assert len(factor._bins) <= WINDOW_S + 2
    clock.advance(WINDOW_S + 1)
    assert factor.value() == 0


def test_a_burst_at_the_start_is_no_rate() -> None:
    """A second at least is what it is divided by."""
    factor = RealtimeFactor(FakeClock())
    factor.add(144)
    assert factor.value() == 10
