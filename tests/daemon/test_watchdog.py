"""What hangs and what only waits: systemd hears from us while every stage passes its loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.mailbox import LOOK_S, Mailbox, Policy
from daemon.notify import Notifier
from daemon.stage import KeepsNothing, Source, Stage
from daemon.watchdog import PINGS_PER_PERIOD, Pulses, Watchdog, late
from fakes.clock import FakeClock
from fakes.processes import until
from fakes.systemd import FakeSystemd

LIMIT_S = 3.0
TICK_S = 0.125
"""A binary fraction, as `LOOK_S` is: sums of them are exact."""


class Rig:
    """A line of stages whose calls a test holds and lets go; time goes by when it says so."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.pulses = Pulses(self.clock)
        self.called, self.go_on = threading.Event(), threading.Event()
        self.stages: list[Any] = []

    def took(self, stage: str, seconds: float) -> None:
        """Nobody asks."""

    def failed(self, stage: str, reason: str) -> None:
        """Nobody asks."""

    def hold(self, *_: object) -> tuple[()]:
        """Do not return until let go."""
        self.called.set()
        self.go_on.wait()
        return ()

    def mailbox(self, max_items: int = 9) -> Mailbox[int]:
        """One that blocks."""
        return Mailbox(
            "box",
            max_items=max_items,
            max_bytes=99,
            max_age_s=None,
            policy=Policy.BLOCK,
            clock=self.clock,
            size_of=lambda _: 1,
            on_drop=lambda _item, _reason: None,
            on_wait=self.pulses.alive,
        )

    def stage(
        self, name: str, accept: Callable[[int], Any], box: Mailbox[int], deliver: Any
    ) -> None:
        """Start one."""
        worker = KeepsNothing()
        worker.accept = accept  # type: ignore[attr-defined]
        self._start(
            Stage(
                name,
                worker,  # type: ignore[arg-type]
                box,
                deliver,
                tick_s=TICK_S,
                clock=self.clock,
                observer=self,
                pulses=self.pulses,
                on_drop=lambda _item, _reason: None,
            )
        )

    def source(self, name: str, poll: Callable[[], object]) -> None:
        """Start one."""
        self._start(Source(name, poll, clock=self.clock, observer=self, pulses=self.pulses))

    def late(self, limit_s: float = LIMIT_S) -> list[str]:
        """Who hangs."""
        return late(self.pulses.ages_s(), limit_s)

    def close(self) -> None:
        """Let all go, and end."""
        self.go_on.set()
        for stage in self.stages:
            stage.stop_intake()
        for stage in self.stages:
            stage.abandon()
            self.clock.advance(9.0)
            stage.drain(9.0)

    def _start(self, stage: Any) -> None:
        self.stages.append(stage)
        stage.start()


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Stages on a clock that stands still."""
    made = Rig()
    yield made
    made.close()


def test_who_is_late() -> None:
    """Longer than the limit, not as long; who was seen first stands first."""
    assert late({"a": 3.0, "b": 3.1, "c": 9.0}, 3.0) == ["c", "b"]


def test_an_idle_stage_is_alive(rig: Rig) -> None:
    """It has nothing to do and goes around, every time; so does a source whose poll returns."""
    air = threading.Condition()

    def poll() -> None:
        with air:
            rig.clock.wait(air, rig.clock.monotonic_s() + TICK_S)

    rig.stage("idle", rig.hold, rig.mailbox(), None)
    rig.source("downlink", poll)
    for _ in range(20):
        rig.clock.until_waiting(2)
        assert rig.pulses.ages_s() == {"idle": 0.0, "downlink": 0.0}
        rig.clock.advance(TICK_S)


@pytest.mark.parametrize("call", ["accept", "deliver", "poll"])
def test_a_call_that_does_not_return_hangs(rig: Rig, call: str) -> None:
    """Whatever a stage calls: worker, delivery or socket. Let go in time, it was only slow."""
    box = rig.mailbox()
    if call == "poll":
        rig.source("stuck", rig.hold)
    elif call == "accept":
        rig.stage("stuck", rig.hold, box, None)
    else:
        rig.stage("stuck", lambda item: [item], box, rig.hold)
    box.put(1)
    assert rig.called.wait(9.0)

    rig.clock.advance(LIMIT_S)
    assert rig.late() == []
    rig.clock.advance(0.1)
    assert rig.late() == ["stuck"]


def test_who_waits_for_room_does_not_hang(rig: Rig) -> None:
    """Of two stages the one whose worker is stuck is late, and not the one that waits for it."""
    first, second = rig.mailbox(), rig.mailbox(max_items=1)
    rig.stage("stuck", rig.hold, second, None)
    rig.stage("waits", lambda item: [item], first, second.put)
    for item in range(5):
        first.put(item)
    until(lambda: first.items == 2, "one item that is stuck, one behind it, one without room")
    for look in range(20):
        rig.clock.until_waiting()
        assert rig.pulses.ages_s() == {"stuck": look * LOOK_S, "waits": 0.0}
        rig.clock.advance(LOOK_S)

    assert rig.late() == ["stuck"]


def test_one_item_may_free_many(rig: Rig) -> None:
    """A stage that goes on returning things is alive, however long the item takes as a whole."""
    ages = list[float]()

    def accept(_: int) -> Iterator[int]:
        for part in range(5):
            rig.clock.advance(LIMIT_S)
            yield part
            ages.append(rig.pulses.ages_s()["frees"])

    box = rig.mailbox()
    rig.stage("frees", accept, box, lambda _: None)
    box.put(1)
    until(lambda: len(ages) == 5, "all of it")

    assert set(ages) == {0.0}


def test_a_stage_that_died_hangs_and_one_that_ended_does_not() -> None:
    """An error that ends a stage's thread leaves a process that does not work."""
    clock = FakeClock()
    pulses = Pulses(clock)
    died = threading.Thread(target=pulses.begin, args=("died",))
    ended = threading.Thread(target=lambda: (pulses.begin("ended"), pulses.end()))
    for thread in (died, ended):
        thread.start()
        thread.join()
    pulses.alive()  # of the test's own thread, which is no stage
    clock.advance(LIMIT_S + 1)

    assert pulses.ages_s() == {"died": LIMIT_S + 1}


def test_pings_stop_while_a_stage_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stage is named once; should it go on after all, so do the pings."""
    clock = FakeClock()
    pulses = Pulses(clock)
    pulses.begin("encode")
    with FakeSystemd(tmp_path / "notify") as systemd:
        notifier = Notifier(systemd.address, clock=clock, watchdog_s=LIMIT_S)
        dog = Watchdog(pulses, notifier, lambda: "3 packets wait", clock)
        dog.look()
        clock.advance(2 * LIMIT_S)
        dog.look()
        dog.look()
        pulses.alive()
        dog.look()
        until(lambda: systemd.pings == 2, "two pings")

    assert systemd.lines == [
        "WATCHDOG=1",
        "STATUS=3 packets wait",
        "STATUS=hung: encode",
        *["WATCHDOG=1"],
    ]
    said = [(record.message, record.__dict__["stage"]) for record in caplog.records]
    assert said == [("stage hangs", "encode"), ("stage goes on", "encode")]


def test_pings_come_in_time(tmp_path: Path) -> None:
    """At once, and then several in each period, until the context is left."""
    clock = FakeClock()
    with FakeSystemd(tmp_path / "notify") as systemd:
        notifier = Notifier(systemd.address, clock=clock, watchdog_s=LIMIT_S)
        with Watchdog(Pulses(clock), notifier, lambda: "", clock):
            for pings in range(1, 2 * PINGS_PER_PERIOD):
                clock.until_waiting()
                until(lambda pings=pings: systemd.pings == pings, f"{pings} pings")  # type: ignore[misc]
                clock.advance(LIMIT_S / PINGS_PER_PERIOD)


def test_without_systemd_no_thread_runs() -> None:
    """Nobody listens, so nobody is told."""
    clock = FakeClock()
    before = threading.active_count()
    with Watchdog(Pulses(clock), Notifier("", clock=clock), lambda: "", clock):
        assert threading.active_count() == before
