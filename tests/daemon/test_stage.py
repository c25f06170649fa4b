"""Stages: what is accepted is delivered or counted, errors cost one item, shutdown is exact."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import ChecksumError
from daemon.clock import Clock, SystemClock
from daemon.errors import PacketFieldError
from daemon.lifecycle import shut_down
from daemon.mailbox import Mailbox, Policy
from daemon.stage import PAUSE_S, KeepsNothing, Source, Stage
from daemon.watchdog import Pulses
from fakes.clock import FakeClock

JOIN_S = 10.0
HOUR_S = 3600.0


class Notes:
    """An observer, and whoever is told of drops."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []
        self.failures: list[tuple[str, str]] = []
        self.drops: list[tuple[int, str]] = []

    def took(self, stage: str, seconds: float) -> None:
        """Take note."""
        self.times.append((stage, seconds))

    def failed(self, stage: str, reason: str) -> None:
        """Take note."""
        self.failures.append((stage, reason))

    def drop(self, item: int, reason: str) -> None:
        """Take note."""
        self.drops.append((item, reason))


class Pairs:
    """A worker that gathers two, and can be told to fail or to hang."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        self.act = act
        self.kept: list[int] = []

    def accept(self, item: int) -> Iterator[tuple[int, ...]]:
        """Keep one; return two."""
        self.act(item)
        self.kept.append(item)
        if len(self.kept) == 2:
            yield from self.finish()

    def tick(self) -> Iterable[tuple[int, ...]]:
        """Return what is kept."""
        return self.finish()

    def finish(self) -> Iterable[tuple[int, ...]]:
        """Return what is kept."""
        kept, self.kept = tuple(self.kept), []
        return [kept] if kept else []


class Echo(KeepsNothing):
    """A worker that hands on what it takes."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        self.act = act

    def accept(self, item: int) -> Iterator[int]:
        """Hand on, then perhaps fail."""
        yield item
        self.act(item)


def inbox(notes: Notes, clock: Clock, *, max_items: int = 100) -> Mailbox[int]:
    """A mailbox that blocks."""
    return Mailbox(
        "inbox",
        max_items=max_items,
        max_bytes=1000,
        max_age_s=None,
        policy=Policy.BLOCK,
        clock=clock,
        size_of=lambda _: 1,
        on_drop=notes.drop,
    )


def stage(
    worker: Any,
    box: Mailbox[int],
    deliver: Callable[[Any], object] | None,
    notes: Notes,
    clock: Clock,
    *,
    name: str = "work",
) -> Stage[int, Any]:
    """A stage with an hour between ticks."""
    return Stage(
        name,
        worker,
        box,
        deliver,
        tick_s=HOUR_S,
        clock=clock,
        observer=notes,
        pulses=Pulses(clock),
        on_drop=notes.drop,
    )


class PanicException(BaseException):
    """What pyo3 makes of a panic in Rust: no `Exception`."""


def raising(*errors: BaseException | None) -> Callable[[int], None]:
    """Fail on item i with the error at place i."""

    def act(item: int) -> None:
        if error := errors[item]:
            raise error

    return act


def end(one: Stage[Any, Any] | Source) -> bool:
    """Stop and drain."""
    one.stop_intake()
    return one.drain(1000 * HOUR_S)  # some workers move the fake clock by hours


def test_all_that_was_accepted_is_delivered() -> None:
    """Draining works off the inbox and then asks the worker for what it kept."""
    notes, clock, out = Notes(), FakeClock(), list[tuple[int, ...]]()
    box = inbox(notes, clock)
    one = stage(Pairs(), box, out.append, notes, clock)
    for item in range(5):
        box.put(item)
    one.start()

    assert end(one)
    assert out == [(0, 1), (2, 3), (4,)]
    assert (notes.drops, notes.failures) == ([], [])
    assert notes.times == [("work", 0.0)] * 5


def test_an_idle_stage_ends_at_once() -> None:
    """Closing the inbox wakes a stage that waits, an hour before its tick."""
    notes, clock = Notes(), FakeClock()
    one = stage(Pairs(), inbox(notes, clock), print, notes, clock)
    one.start()
    clock.until_waiting()

    assert end(one)


def test_time_alone_makes_a_worker_tick() -> None:
    """What a worker keeps is asked for every `tick_s`, without any new item."""
    notes, clock = Notes(), FakeClock()
    box, came, out = inbox(notes, clock), threading.Event(), list[tuple[int, ...]]()

    def deliver(pair: tuple[int, ...]) -> None:
        out.append(pair)
        came.set()

    one = stage(Pairs(), box, deliver, notes, clock)
    one.start()
    box.put(7)
    # It took the item, since none is left, and waits again: only then may time pass.
    while box.items or notes.times == []:
        clock.until_waiting()
    clock.until_waiting()
    clock.advance(HOUR_S)

    assert came.wait(JOIN_S)
    assert out == [(7,)]
    assert end(one)


def test_a_busy_stage_ticks_too() -> None:
    """A stream of items does not starve what waits for its deadline."""
    notes, clock, out = Notes(), FakeClock(), list[tuple[int, ...]]()
    box = inbox(notes, clock)
    one = stage(Pairs(lambda _: clock.advance(HOUR_S)), box, out.append, notes, clock)
    for item in range(3):
        box.put(item)
    one.start()

    assert end(one)
    assert out == [(0,), (1,), (2,)]
    assert notes.times == [("work", HOUR_S)] * 3


def test_an_error_costs_one_item(caplog: pytest.LogCaptureFixture) -> None:
    """One line and a reason for an error raised on purpose, a traceback for a bug; work goes on."""
    notes, clock, out = Notes(), FakeClock(), list[int]()
    box = inbox(notes, clock)
    errors = (PacketFieldError("apid 7"), None, ChecksumError("x"), ZeroDivisionError(), None)
    one = stage(Echo(raising(*errors)), box, out.append, notes, clock)
    for item in range(5):
        box.put(item)
    with caplog.at_level(logging.WARNING):
        one.start()
        assert end(one)

    reasons = ["packet_field", "checksum", "internal_error"]
    assert out == [1, 4]  # of a failed item nothing is delivered, though it was yielded
    assert notes.drops == list(zip([0, 2, 3], reasons, strict=True))
    assert notes.failures == [("work", reason) for reason in reasons]
    assert len(notes.times) == 5
    assert [(r.levelname, r.getMessage(), bool(r.exc_info)) for r in caplog.records] == [
        ("WARNING", "refused by stage", False),
        ("WARNING", "refused by stage", False),
        ("ERROR", "internal error", True),
    ]
    assert {"stage": "work", "reason": "packet_field", "error": "apid 7"}.items() <= (
        caplog.records[0].__dict__.items()
    )


def test_an_error_outside_of_items_is_counted() -> None:
    """A tick, a finish or a delivery that fails stops nothing, and is seen by its reason."""

    class Broken(Echo):
        def tick(self) -> Iterable[int]:
            raise ChecksumError

        def finish(self) -> Iterable[int]:
            raise PacketFieldError

    notes, clock, out = Notes(), FakeClock(), list[int]()
    box = inbox(notes, clock)

    def deliver(item: int) -> None:
        if item == 0:
            raise KeyError
        out.append(item)

    one = stage(Broken(lambda _: clock.advance(HOUR_S)), box, deliver, notes, clock)
    box.put(0)
    box.put(1)
    one.start()

    assert end(one)
    assert out == [1]
    assert [reason for _, reason in notes.failures] == [
        *("internal_error", "checksum", "checksum", "packet_field"),
    ]


def test_a_stage_that_hangs_is_late_and_loses_nothing_uncounted() -> None:
    """Past the deadline inbox and item in hand are counted, and what comes of it is thrown away."""
    notes, clock, out = Notes(), FakeClock(), list[int]()
    box, begun, go_on = inbox(notes, clock), threading.Event(), threading.Event()

    def hang(_: int) -> None:
        begun.set()
        go_on.wait(JOIN_S)

    one = stage(Echo(hang), box, out.append, notes, clock)
    for item in range(3):
        box.put(item)
    one.start()
    assert begun.wait(JOIN_S)
    one.stop_intake()
    assert not one.drain(0.0)
    one.abandon()
    one.settle(HOUR_S)  # with the worker still at it

    assert notes.drops == [(1, "shutdown"), (2, "shutdown"), (0, "shutdown")]
    go_on.set()
    assert one.drain(JOIN_S)
    assert out == []
    assert len(notes.drops) == 3


def test_an_item_a_worker_keeps_is_not_counted_twice() -> None:
    """Abandoned while it takes an item it will keep, it returns it at the end, and only so."""
    notes, clock, out = Notes(), FakeClock(), list[tuple[int, ...]]()
    box, begun, go_on = inbox(notes, clock), threading.Event(), threading.Event()

    def hang(_: int) -> None:
        begun.set()
        go_on.wait(JOIN_S)

    one = stage(Pairs(hang), box, out.append, notes, clock)
    box.put(0)
    one.start()
    assert begun.wait(JOIN_S)
    one.abandon()
    go_on.set()

    assert one.drain(JOIN_S)
    assert (out, notes.drops) == ([(0,)], [])


def test_an_error_of_an_item_given_up_does_not_count_it_twice() -> None:
    """It was counted when the stage was abandoned."""
    notes, clock = Notes(), FakeClock()
    box, begun, go_on = inbox(notes, clock), threading.Event(), threading.Event()

    def hang(_: int) -> None:
        begun.set()
        go_on.wait(JOIN_S)
        raise PacketFieldError

    one = stage(Echo(hang), box, print, notes, clock)
    box.put(0)
    one.start()
    assert begun.wait(JOIN_S)
    one.abandon()
    go_on.set()

    assert one.drain(JOIN_S)
    assert notes.drops == [(0, "shutdown")]


@pytest.mark.parametrize("in_time", [True, False])
def test_the_end_of_a_line_may_finish_its_item(in_time: bool) -> None:
    """What `accept` itself does cannot be undone: it is counted only if it is not done in time."""
    notes, clock, done = Notes(), FakeClock(), list[int]()
    box, begun, go_on = inbox(notes, clock), threading.Event(), threading.Event()

    def keep(item: int) -> None:
        begun.set()
        go_on.wait(JOIN_S)
        done.append(item)

    one = stage(Echo(keep), box, None, notes, clock)
    box.put(0)
    one.start()
    assert begun.wait(JOIN_S)
    one.abandon()
    assert notes.drops == []
    if in_time:
        go_on.set()
    one.settle(JOIN_S if in_time else 0.0)

    assert (done, notes.drops) == (([0], []) if in_time else ([], [(0, "shutdown")]))
    go_on.set()
    assert one.drain(JOIN_S)


def test_an_item_on_its_way_from_the_inbox_is_counted() -> None:
    """In neither inbox nor worker at that moment, it is told before `abandon` returns."""
    notes, clock, out = Notes(), FakeClock(), list[int]()
    box, between, go_on = inbox(notes, clock), threading.Event(), threading.Event()
    get = box.get

    def slow_get(timeout_s: float) -> int | None:
        item = get(timeout_s)
        between.set()
        go_on.wait(JOIN_S)
        return item

    box.get = slow_get  # type: ignore[method-assign]
    one = stage(Echo(lambda _: go_on.wait(JOIN_S) and None), box, out.append, notes, clock)
    box.put(0)
    one.start()
    assert between.wait(JOIN_S)
    giving_up = threading.Thread(target=one.abandon, daemon=True)
    giving_up.start()
    clock.until_waiting()
    go_on.set()
    giving_up.join(JOIN_S)

    assert not giving_up.is_alive()
    assert one.drain(JOIN_S)
    assert sorted([*out, *(item for item, _ in notes.drops)]) == [0]


def test_what_a_late_stage_still_hands_on_is_counted_at_the_end() -> None:
    """Held up by a full mailbox, with more in its worker: told before `shut_down` returns."""
    notes, clock = Notes(), SystemClock()
    first, second = inbox(notes, clock), inbox(notes, clock, max_items=1)
    begun, go_on = threading.Event(), threading.Event()

    class Holding(Echo):
        """Keeps odd items to the end."""

        kept: ClassVar[list[int]] = []

        def accept(self, item: int) -> Iterator[int]:
            if item % 2:
                self.kept.append(item)
            else:
                yield item

        def finish(self) -> Iterable[int]:
            return self.kept

    def hang(_: int) -> None:
        begun.set()
        go_on.wait(JOIN_S)

    out = list[int]()
    line = [
        stage(Holding(), first, second.put, notes, clock, name="one"),
        stage(Echo(hang), second, out.append, notes, clock, name="two"),
    ]
    for item in range(8):
        first.put(item)
    for one in reversed(line):
        one.start()
    assert begun.wait(JOIN_S)
    late = shut_down(line, deadline_s=0.1, clock=clock)
    told = sorted(item for item, _ in notes.drops)
    go_on.set()

    assert late == ["one", "two"]
    assert (told, out) == (list(range(8)), [])
    assert all(one.drain(JOIN_S) for one in line)
    assert (len(notes.drops), out) == (8, [])


def test_waiting_for_a_late_stage_ends_in_time() -> None:
    """`drain` keeps to its time on the clock it was given."""
    notes, clock, answers = Notes(), FakeClock(), list[bool]()
    box, go_on = inbox(notes, clock), threading.Event()

    def hang(_: int) -> None:
        go_on.wait(JOIN_S)

    one = stage(Echo(hang), box, print, notes, clock)
    box.put(0)
    one.start()
    one.stop_intake()
    waiting = threading.Thread(target=lambda: answers.append(one.drain(2.0)), daemon=True)
    waiting.start()
    clock.until_waiting()
    clock.advance(2.0)
    waiting.join(JOIN_S)
    go_on.set()

    assert answers == [False]
    assert one.drain(JOIN_S)


def test_a_stage_that_was_never_started_counts_what_it_holds() -> None:
    """A start that failed half way can be unwound like any other."""
    notes, clock = Notes(), FakeClock()
    box = inbox(notes, clock)
    one = stage(Echo(), box, print, notes, clock)
    box.put(0)

    assert end(one)
    assert notes.drops == [(0, "shutdown")]
    assert not box.put(1)


def test_a_panic_costs_one_item() -> None:
    """An error that is no `Exception` is counted like any other, and work goes on."""
    notes, clock, out = Notes(), FakeClock(), list[int]()
    box = inbox(notes, clock)
    one = stage(Echo(raising(PanicException("rust"), None)), box, out.append, notes, clock)
    box.put(0)
    box.put(1)
    one.start()

    assert end(one)
    assert (out, notes.drops) == ([1], [(0, "internal_error")])


def test_a_stage_that_dies_is_named_and_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Should its thread end early: a line, a name among the late ones, and nothing uncounted."""

    class Deadly(Notes):
        def took(self, stage: str, seconds: float) -> None:
            raise PanicException(stage, seconds)

    notes, clock, out = Deadly(), FakeClock(), list[int]()
    box = inbox(notes, clock, max_items=2)
    one = stage(Echo(), box, out.append, notes, clock)
    box.put(0)
    box.put(1)
    one.start()

    assert not one.drain(JOIN_S)
    assert sorted(notes.drops) == [(0, "internal_error"), (1, "internal_error")]
    assert not box.put(2)
    assert shut_down([one], deadline_s=1.0, clock=clock) == ["work"]
    assert len(notes.drops) == 3  # the put that was refused; nothing twice
    assert out == []
    (died,) = (r for r in caplog.records if r.getMessage() == "stage ended early")
    assert (died.levelname, died.__dict__["stage"]) == ("CRITICAL", "work")


@settings(max_examples=25)
@given(
    items=st.integers(0, 40),
    bounds=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bad=st.sets(st.integers(0, 40)),
    stop_at=st.integers(0, 40),
    abandon=st.booleans(),
)
def test_a_line_of_stages_stopped_at_any_moment_is_exact(
    *, items: int, bounds: tuple[int, int], bad: set[int], stop_at: int, abandon: bool
) -> None:
    """Accepted = delivered + dropped, with full blocking mailboxes, errors, drain or abandon."""
    notes, clock, out = Notes(), SystemClock(), list[int]()
    first, second = (inbox(notes, clock, max_items=bound) for bound in bounds)
    reached = threading.Event()

    def fail(item: int) -> None:
        if item in bad:
            raise PacketFieldError(str(item))

    def deliver(item: int) -> None:
        out.append(item)
        if item >= stop_at:
            reached.set()

    def feed() -> None:
        for item in range(items):
            first.put(item)
        reached.set()

    line = [
        stage(Echo(fail), first, second.put, notes, clock, name="one"),
        stage(Echo(), second, deliver, notes, clock, name="two"),
    ]
    for one in reversed(line):
        one.start()
    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    assert reached.wait(JOIN_S)
    for one in line:
        if abandon:
            one.abandon()
        assert end(one)
    feeder.join(JOIN_S)

    assert sorted([*out, *(item for item, _ in notes.drops)]) == list(range(items))
    assert out == sorted(out)
    assert {r for _, r in notes.drops} <= {"packet_field", "closed", "shutdown"}


def source(poll: Callable[[], object], notes: Notes, clock: Clock, **more: Any) -> Source:
    """A source named socket."""
    return Source("socket", poll, clock=clock, observer=notes, pulses=Pulses(clock), **more)


def test_a_source_polls_until_it_is_stopped() -> None:
    """One poll after another, none after the end."""
    notes, clock, polls, enough = Notes(), FakeClock(), list[int](), threading.Event()

    def poll() -> None:
        polls.append(len(polls))
        if len(polls) >= 3:
            enough.set()

    one = source(poll, notes, clock)
    one.start()
    assert enough.wait(JOIN_S)
    assert end(one)
    count = len(polls)

    assert count == len(polls) >= 3
    assert notes.failures == []


def test_a_source_with_something_pending_goes_on_to_empty_it() -> None:
    """The downlink empties its spool after it was told to stop."""
    notes, clock, spool = Notes(), FakeClock(), list(range(1000))
    one = source(spool.pop, notes, clock, pending=lambda: bool(spool))
    one.stop_intake()
    one.start()

    assert one.drain(JOIN_S)
    assert spool == []


def test_a_source_that_never_gets_done_is_abandoned() -> None:
    """A link that takes nothing does not keep the process from ending."""
    notes, clock = Notes(), FakeClock()
    one = source(lambda: None, notes, clock, pending=lambda: True)
    one.start()
    one.stop_intake()
    assert not one.drain(0.0)
    one.abandon()

    assert one.drain(JOIN_S)


def test_a_failing_source_rests(caplog: pytest.LogCaptureFixture) -> None:
    """A socket that fails at once, every time, costs no core; the source goes on trying."""
    notes, clock, again = Notes(), FakeClock(), threading.Event()
    errors: list[Exception] = [ZeroDivisionError(), PacketFieldError()]

    def poll() -> None:
        if errors:
            raise errors.pop()
        again.set()

    one = source(poll, notes, clock)
    with caplog.at_level(logging.CRITICAL):
        one.start()
        for _ in range(2):
            clock.until_waiting()
            clock.advance(PAUSE_S)
    assert again.wait(JOIN_S)

    assert end(one)
    assert notes.failures == [("socket", "packet_field"), ("socket", "internal_error")]


def test_an_abandoned_source_does_not_rest() -> None:
    """Giving up wakes it."""
    notes, clock = Notes(), FakeClock()

    def poll() -> None:
        raise PacketFieldError

    one = source(poll, notes, clock)
    one.start()
    clock.until_waiting()
    one.abandon()

    assert one.drain(JOIN_S)
