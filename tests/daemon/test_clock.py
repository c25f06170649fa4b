"""The real clock, and the one that tests move."""

from __future__ import annotations

import threading

import pytest

from daemon.clock import Clock, SystemClock
from fakes.clock import FakeClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_a_moment_that_is_past_is_not_waited_for(clock: Clock) -> None:
    """A wait with no time left returns, and so does a sleep of nothing or less."""
    condition = threading.Condition()
    with condition:
        clock.wait(condition, clock.monotonic_s())
    clock.sleep(-1.0)

    assert clock.utc_s() > 1_600_000_000


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
@pytest.mark.parametrize("timeout_s", [None, 3600.0], ids=["for ever", "an hour"])
def test_a_notified_waiter_wakes_at_once(clock: Clock, timeout_s: float | None) -> None:
    """Nobody sits out a timeout once what was waited for is there."""
    condition = threading.Condition()
    there = False

    def wait() -> None:
        until_s = None if timeout_s is None else clock.monotonic_s() + timeout_s
        with condition:
            while not there:
                clock.wait(condition, until_s)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    with condition:
        there = True
        condition.notify_all()
    thread.join(10.0)

    assert not thread.is_alive()


def test_real_time_passes() -> None:
    """The system clock goes on while it sleeps and while it waits."""
    clock, condition = SystemClock(), threading.Condition()
    start_s = clock.monotonic_s()
    clock.sleep(0.002)
    with condition:
        clock.wait(condition, clock.monotonic_s() + 0.002)

    assert clock.monotonic_s() - start_s >= 0.004


def test_fake_time_stands_still() -> None:
    """The fake clock moves by `advance` and `sleep` alone; `jump_utc` moves labels alone."""
    clock = FakeClock(monotonic_s=5.0, utc_s=100.0)
    clock.advance(1.0)
    clock.sleep(2.0)
    clock.jump_utc(-50.0)

    assert (clock.monotonic_s(), clock.utc_s(), clock.slept_s) == (8.0, 53.0, [2.0])


def test_fake_time_wakes_who_waits_for_it() -> None:
    """A waiter sleeps through half of its time, and wakes when all of it has passed."""
    clock, condition = FakeClock(), threading.Condition()
    until_s = clock.monotonic_s() + 2.0

    def wait() -> None:
        with condition:
            clock.wait(condition, until_s)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    clock.until_waiting()
    clock.advance(1.0)
    clock.until_waiting()
    assert thread.is_alive()
    clock.advance(1.0)
    thread.join(10.0)

    assert not thread.is_alive()
