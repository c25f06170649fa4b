"""The tables are what both ends do, and what the documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from daemon.link.packet import Channel, FrameKey
from daemon.link.passes import LinkSwitch, Pass
from daemon.link.states import (
    PASS,
    RECEIVER,
    SENDER,
    PassEvent,
    PassState,
    ReceiverState,
    SenderState,
    after,
    diagram,
)
from fakes.link import LinkFaults
from fakes.two_ends import TwoEnds

LINK_MD = Path(__file__).parents[3] / "docs" / "link.md"
TABLES: Mapping[str, Mapping[Any, Any]] = {"pass": PASS, "sender": SENDER, "receiver": RECEIVER}


@pytest.mark.parametrize("name", TABLES)
def test_the_documentation_shows_the_tables(name: str) -> None:
    """Its diagrams are drawn from them."""
    drawn = f"```mermaid\n{diagram(TABLES[name])}\n```"
    assert drawn in LINK_MD.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached(name: str) -> None:
    """From the first one, and every event is of use."""
    table = TABLES[name]
    states, events = {type(state) for state, _ in table}.pop(), {event for _, event in table}
    reached = {next(iter(table))[0]}
    for _ in states:
        reached |= {following for (state, _), following in table.items() if state in reached}
    assert reached == set(states)
    assert events == set(type(next(iter(events))))


def test_what_is_not_in_a_table_changes_nothing() -> None:
    """A command that makes no sense is no error."""
    assert after(PASS, PassState.OPEN, PassEvent.OPEN) is PassState.OPEN
    assert after(PASS, PassState.OPEN, PassEvent.RESUME) is PassState.OPEN


def test_commands_overrule_the_plan_until_it_changes() -> None:
    """Opened between passes, closed within one, suspended over several."""
    switch = LinkSwitch()
    assert [switch.plan(False), switch.plan(True), switch.plan(False)] == [False, True, False]
    switch.command(PassEvent.OPEN)
    assert switch.plan(False)
    assert switch.plan(True)
    switch.command(PassEvent.CLOSE)
    assert not switch.plan(True)
    assert not switch.plan(False)
    assert switch.plan(True)
    switch.command(PassEvent.SUSPEND)
    assert [switch.plan(True), switch.plan(False), switch.plan(True)] == [False] * 3
    switch.command(PassEvent.RESUME)
    assert switch.plan(True)


class Watch:
    """Notes in what states frames are before and after each call of some methods."""

    def __init__(self, target: object, names: list[str], states: Callable[[], Mapping[Any, Enum]]):
        self.steps = set[tuple[Enum, Enum]]()
        for name in names:
            setattr(target, name, self._around(getattr(target, name), states))

    def _around(
        self, method: Callable[..., Any], states: Callable[[], Mapping[Any, Enum]]
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = states()
            result = method(*args, **kwargs)
            after_ = states()
            self.steps |= {(before[key], after_[key]) for key in before}
            return result

        return call


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_keep_to_the_tables(seed: int) -> None:
    """Each call moves a frame along one edge at most; between them they go along nearly all."""
    passes = [Pass(opens_utc_s=0, closes_utc_s=1e6, bits_per_s=300_000)]
    ends = TwoEnds(
        seed, passes=passes, down=LinkFaults(loss=0.3), up=LinkFaults(loss=0.4), max_bytes=40_000
    )
    known = set[FrameKey]()
    sent, kept = ends.spool, ends.spool._kept
    assert kept is not None

    def sender_states() -> dict[FrameKey, Enum]:
        return {key: kept.state(key, sent._unsent()) for key in known}

    def receiver_states() -> dict[FrameKey, Enum]:
        return {key: state_of(key) for key in known}

    def state_of(key: FrameKey) -> ReceiverState:
        state = ends.reporter.state(key)
        is_lost = state is ReceiverState.DURABLE and key not in ends.got
        return ReceiverState.LOST if is_lost else state

    sender = Watch(sent, ["sent", "hear", "_make_room"], sender_states)
    receiver = Watch(
        ends.reporter, ["_believe", "_pack", "_count_unheard", "whole", "durable"], receiver_states
    )
    for number in range(120):
        channel = Channel.SIDE if number % 8 == 0 else Channel.PATCH
        known.add((ends.boot_id, number))
        ends.spool_frame(channel, ends.rng.randrange(300, 3_000))
        ends.run(ends.clock.now_s + (0.02 if number % 40 > 20 else 0.3))
    ends.run(ends.clock.now_s + 60)

    for steps, table in ((sender.steps, SENDER), (receiver.steps, RECEIVER)):
        edges = {(state, following) for (state, _), following in table.items()}
        moved = {(a, b) for a, b in steps if a is not b}
        assert moved <= edges
    assert (SenderState.ASKED, SenderState.SENT) in sender.steps
    assert (ReceiverState.ASKED, ReceiverState.LACKING) in receiver.steps
    assert {b for _, b in sender.steps} == set(SenderState)
    assert {b for _, b in receiver.steps} == set(ReceiverState)
