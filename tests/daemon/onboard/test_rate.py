"""Rules of rate control: the store holds what comes, passes go filled, and steps move slowly."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest

from daemon.link.passes import ContactPlan, Pass
from daemon.onboard.rate import RateControl
from fakes.orbit import simulated_day

GB = 1_000_000_000


@pytest.mark.parametrize("seed", range(4))
def test_a_day_loses_nothing_and_fills_its_passes(seed: int) -> None:
    """Where the given step overflows the store for most of a day."""
    flown = simulated_day(seed, most_octaves=4, max_bytes=4 * GB, bits_per_s=20e6)
    given = simulated_day(seed, most_octaves=0, max_bytes=4 * GB, bits_per_s=20e6)

    assert given.lost_bytes > 5 * GB
    assert flown.lost_bytes == 0
    assert fmean(flown.filled[1:]) > 0.85
    assert max(flown.octaves) < 4
    assert set(given.octaves) == {0.0}


def test_where_all_fits_nothing_is_given_up() -> None:
    """A link of ten times the rate: the given step, all day."""
    day = simulated_day(0, most_octaves=4, max_bytes=60 * GB, bits_per_s=400e6)
    assert (day.lost_bytes, set(day.octaves)) == (0, {0.0})


def control(most_octaves: float = 3) -> RateControl:
    """Of a store of 1,000 bytes, before a pass of 1,000 bytes after 100 s."""
    plan = ContactPlan([Pass(opens_utc_s=100, closes_utc_s=200, bits_per_s=80)])
    return RateControl(plan, max_bytes=1_000, most_octaves=most_octaves)


def test_steps_move_by_an_eighth_of_an_octave() -> None:
    """Up and down, within their bound, and stay where little would change."""
    target, found = control(), [0.0]
    for second in range(90):
        target.note(400 if second < 30 else 0, second)
        found.append(target.octaves(used_bytes=500, utc_s=second, now_s=second))

    assert max(found) == 3
    changes = {abs(after - before) for before, after in pairwise(found)}
    assert max(changes) == 1 / 8
    assert 0 in changes


def test_behind_the_last_pass_a_step_stays_as_it_is() -> None:
    """Nobody knows when the store will be emptied: it is no time to be generous."""
    target = control()
    for second in range(10):
        target.note(400, second)
        before = target.octaves(used_bytes=500, utc_s=second, now_s=second)
    assert before > 0
    assert target.octaves(used_bytes=0, utc_s=1e6, now_s=1e6) == before


def test_a_link_without_a_limit_asks_for_room_alone() -> None:
    """What a pass carries is then unknown: only the store can overflow."""
    plan = ContactPlan([Pass(opens_utc_s=100, closes_utc_s=200)])
    target = RateControl(plan, max_bytes=1_000, most_octaves=3)
    target.note(1, 0.0)
    assert target.octaves(used_bytes=0, utc_s=0, now_s=1.0) == 0
    target.note(10_000, 1.0)
    assert target.octaves(used_bytes=0, utc_s=0, now_s=2.0) == 1 / 8


def test_what_seals_take_of_a_pass_is_not_planned_with() -> None:
    """Half of a link is as good as a link of half the rate."""

    def flown(bits_per_s: float, share: float) -> list[float]:
        plan = ContactPlan([Pass(opens_utc_s=100, closes_utc_s=200, bits_per_s=bits_per_s)])
        target, found = RateControl(plan, max_bytes=1_000, most_octaves=3, share=share), []
        for second in range(60):
            target.note(12, second)
            found.append(target.octaves(used_bytes=100, utc_s=second, now_s=second))
        return found

    assert flown(80, 0.5) == flown(40, 1.0) != flown(80, 1.0)


def test_at_zero_octaves_nothing_happens() -> None:
    """The default."""
    target = control(most_octaves=0)
    target.note(1 << 40, 0.0)
    assert target.octaves(used_bytes=1_000, utc_s=0, now_s=1.0) == 0


def test_a_link_that_never_closes_has_a_limit_too() -> None:
    """Without passes what comes is held against the link's own rate: here a quarter of it."""
    target, found = RateControl(ContactPlan((), 800.0), max_bytes=10_000, most_octaves=4), []
    for second in range(3_000):
        target.note(int(400 * 2 ** -(found[-1] if found else 0)), second)
        found.append(target.octaves(used_bytes=0, utc_s=second, now_s=second))
    assert 1.75 <= found[-1] <= 2
    assert (
        RateControl(ContactPlan(()), max_bytes=10, most_octaves=4).octaves(
            used_bytes=9, utc_s=0, now_s=0
        )
        == 0
    )
