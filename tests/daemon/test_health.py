"""Alive while nothing hangs, ready from READY to the end."""

from __future__ import annotations

from daemon.health import HANG_S, Health
from daemon.notify import Notifier
from daemon.watchdog import Pulses
from fakes.clock import FakeClock


def test_ready_is_what_systemd_was_told() -> None:
    """Not while something is loaded, nor once the process ends; the phase says why."""
    notifier = Notifier("", clock=FakeClock())
    health = Health(notifier)
    seen = [(health.ready, health.phase)]
    for step in (lambda: notifier.loading("the model"), notifier.ready, notifier.stopping):
        step()
        seen.append((health.ready, health.phase))

    assert seen == [
        (False, "starting"),
        (False, "loading the model"),
        (True, "ready"),
        (False, "stopping"),
    ]


def test_a_stage_that_hangs_is_named() -> None:
    """After systemd's own period; while nothing runs yet, nothing hangs."""
    clock = FakeClock()
    health, pulses = Health(Notifier("", clock=clock, watchdog_s=6.0)), Pulses(clock)
    assert health.hung == []
    health.watch(pulses)
    pulses.begin("encode")
    clock.advance(6.0)
    assert health.hung == []
    clock.advance(0.1)
    assert health.hung == ["encode"]
    pulses.alive()
    assert health.hung == []


def test_without_systemd_there_is_a_limit_too() -> None:
    """Whoever starts processes by other means can ask just the same."""
    clock = FakeClock()
    health, pulses = Health(Notifier("", clock=clock)), Pulses(clock)
    health.watch(pulses)
    pulses.begin("encode")
    clock.advance(HANG_S)
    assert health.hung == []
    clock.advance(0.1)
    assert health.hung == ["encode"]
