"""Rules of passes: windows do not overlap; a bucket never gives more than its due."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.link.passes import ContactPlan, Pass, TokenBucket


def one(opens_s: float, closes_s: float) -> Pass:
    """A pass."""
    return Pass(opens_utc_s=opens_s, closes_utc_s=closes_s)


def test_a_plan_tells_the_pass_of_a_moment() -> None:
    """From its opening on, up to its close; in any order of the plan."""
    first, second = one(10, 20), one(30, 40)
    plan = ContactPlan([second, first])
    found = {s: plan.at(s) for s in (9.9, 10, 19.9, 20, 25, 30, 40, 1e9)}
    assert found == {
        9.9: None, 10: first, 19.9: first, 20: None, 25: None, 30: second, 40: None, 1e9: None,
    }  # fmt: skip
    assert [plan.opens_in_s(s) for s in (0, 10, 25, 30)] == [10, 20, 5, math.inf]


def test_without_passes_the_link_is_always_open() -> None:
    """At the rate of the link."""
    found = ContactPlan((), 100.0).at(-1e12)
    assert found is not None
    assert found.bits_per_s == 100.0


@pytest.mark.parametrize("passes", [[(10, 20), (19, 30)], [(10, 20), (10, 20)]])
def test_passes_that_overlap_are_refused(passes: list[tuple[float, float]]) -> None:
    """One antenna, one pass."""
    with pytest.raises(ValueError, match="overlap"):
        ContactPlan([one(*each) for each in passes])


def test_a_pass_that_ends_before_it_begins_is_refused() -> None:
    """Swapped, it would never open, and nobody would know why."""
    with pytest.raises(ValueError, match="close after it opens"):
        one(20, 10)


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 1_000)), max_size=200),
    st.floats(1_001, 1e6),
)
def test_no_second_is_above_the_budget(steps: list[tuple[float, int]], bits_per_s: float) -> None:
    """However packets come: a sender that waits as told stays within it, in every second."""
    bucket, now_s, sent = TokenBucket(bits_per_s, 1_000), 100.0, list[tuple[float, int]]()
    for pause_s, bits in steps:
        now_s += pause_s
        now_s += bucket.wait_s(now_s, bits) * (1 + 1e-9)
        assert bucket.wait_s(now_s, bits) < 1e-6
        bucket.spend(now_s, bits)
        sent.append((now_s, bits))
    for start_s, _ in sent:
        used = sum(bits for at_s, bits in sent if start_s <= at_s < start_s + 1)
        assert used <= bits_per_s * (1 + 1e-6)


def test_a_budget_of_less_than_a_packet_is_refused() -> None:
    """It could never be kept, or nothing would ever leave."""
    with pytest.raises(ValueError, match="no more than a packet of 8192"):
        TokenBucket(8_192, 8_192)
