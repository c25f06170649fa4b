"""The mailbox: exact accounting under every policy, immediate wakeups, no deadlock."""

from __future__ import annotations

import copy
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.clock import SystemClock
from daemon.mailbox import DROP_REASONS, Mailbox, Policy
from fakes.clock import FakeClock

HOUR_S = 3600.0
JOIN_S = 10.0

Item = tuple[int, int]
"""A number, and a size [bytes]."""


class Drops(list[tuple[Item, str]]):
    """What a mailbox dropped, and why."""

    def __call__(self, item: Item, reason: str) -> None:
        """Take note."""
        self.append((item, reason))


def mailbox(
    drops: Drops,
    clock: FakeClock | SystemClock,
    *,
    policy: Policy = Policy.BLOCK,
    max_items: int = 2,
    max_bytes: int = 10,
    max_age_s: float | None = None,
) -> Mailbox[Item]:
    """A small mailbox."""
    return Mailbox(
        "box",
        max_items=max_items,
        max_bytes=max_bytes,
        max_age_s=max_age_s,
        policy=policy,
        clock=clock,
        size_of=lambda item: item[1],
        on_drop=drops,
    )


@contextmanager
def thread(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run a call beside the test; its result is in the list once the block has ended."""
    results: list[Any] = []
    runner = threading.Thread(target=lambda: results.append(call()), daemon=True)
    runner.start()
    yield results
    runner.join(JOIN_S)
    assert not runner.is_alive(), "the call never returned"


def test_first_in_first_out() -> None:
    """Items leave in the order they came, and the bounds count what is left."""
    drops, clock = Drops(), FakeClock()
    box = mailbox(drops, clock)

    assert box.put((1, 3))
    clock.advance(2.0)
    assert box.put((2, 4))
    assert (box.items, box.bytes, box.oldest_age_s) == (2, 7, 2.0)
    assert box.get(0) == (1, 3)
    assert (box.items, box.bytes, box.oldest_age_s) == (1, 4, 0.0)
    assert box.get(0) == (2, 4)
    assert box.get(0) is None
    assert (box.items, box.bytes, box.oldest_age_s, drops) == (0, 0, 0.0, [])


def test_how_full_it_is() -> None:
    """Whichever bound is nearer tells."""
    box = mailbox(Drops(), FakeClock(), max_items=4, max_bytes=10)
    assert box.fill == 0
    box.put((1, 2))
    assert box.fill == 0.25
    box.put((2, 5))
    assert box.fill == 0.7


@pytest.mark.parametrize(
    ("sizes", "reason"), [((1, 1, 1), "full_items"), ((5, 5), None), ((6, 5), "full_bytes")]
)
def test_a_full_mailbox_drops_the_newest(sizes: tuple[int, ...], reason: str | None) -> None:
    """The item that does not fit is refused, by the bound it would have broken."""
    drops = Drops()
    box = mailbox(drops, FakeClock(), policy=Policy.DROP_NEWEST)

    *first, last = enumerate(sizes)
    assert all(box.put(item) for item in first)
    assert box.put(last) == (reason is None)
    assert drops == ([(last, reason)] if reason else [])
    assert box.get(0) == first[0]


def test_a_full_mailbox_drops_as_many_oldest_as_it_must() -> None:
    """One large item may cost several small ones; each is told with its reason, in order."""
    drops = Drops()
    box = mailbox(drops, FakeClock(), policy=Policy.DROP_OLDEST, max_items=3)

    for item in [(0, 4), (1, 4), (2, 2)]:
        assert box.put(item)
    assert box.put((3, 7))
    assert drops == [((0, 4), "full_items"), ((1, 4), "full_bytes")]
    assert [box.get(0), box.get(0)] == [(2, 2), (3, 7)]


@pytest.mark.parametrize("policy", Policy)
def test_an_item_that_can_never_fit_is_refused_at_once(policy: Policy) -> None:
    """It neither waits for ever nor drives out what fits."""
    drops = Drops()
    box = mailbox(drops, FakeClock(), policy=policy)

    assert box.put((0, 1))
    assert not box.put((1, 11))
    assert drops == [((1, 11), "oversize")]
    assert box.items == 1


@pytest.mark.parametrize("policy", Policy)
def test_what_is_too_old_is_dropped(policy: Policy) -> None:
    """Age counts from `put`, to the moment; both `put` and `get` look."""
    drops, clock = Drops(), FakeClock()
    box = mailbox(drops, clock, policy=policy, max_age_s=10.0)

    box.put((0, 1))
    clock.advance(5.0)
    box.put((1, 1))
    clock.advance(5.0)
    assert box.put((2, 1))
    assert drops == [((0, 1), "age")]
    clock.advance(5.0)
    assert box.get(0) == (2, 1)
    assert drops == [((0, 1), "age"), ((1, 1), "age")]


@pytest.mark.parametrize("policy", Policy)
def test_a_closed_mailbox_gives_and_does_not_take(policy: Policy) -> None:
    """What was accepted can still be got; what comes is dropped, counted; then it says so."""
    drops = Drops()
    box = mailbox(drops, FakeClock(), policy=policy)

    box.put((0, 1))
    box.close()
    before = box.closed_and_empty
    assert not box.put((1, 1))
    assert drops == [((1, 1), "closed")]
    assert box.get(HOUR_S) == (0, 1)
    assert (before, box.closed_and_empty) == (False, True)
    assert box.get(HOUR_S) is None


def test_discard_counts_everything() -> None:
    """What a late stage leaves behind is dropped by name, once."""
    drops = Drops()
    box = mailbox(drops, FakeClock())
    box.put((0, 1))
    box.put((1, 1))

    assert [box.discard("shutdown"), box.discard("shutdown")] == [2, 0]
    assert drops == [((0, 1), "shutdown"), ((1, 1), "shutdown")]
    assert (box.bytes, box.closed_and_empty) == (0, True)


def test_an_item_wakes_who_waits_for_it() -> None:
    """`get` returns when an item comes, not when its time is up."""
    clock = FakeClock()
    box = mailbox(Drops(), clock)

    with thread(lambda: box.get(HOUR_S)) as got:
        clock.until_waiting()
        box.put((0, 1))
    assert got == [(0, 1)]


def test_waiting_for_an_item_ends_in_time() -> None:
    """`get` gives up when its time has passed, not earlier and not later."""
    clock = FakeClock()
    box = mailbox(Drops(), clock)

    with thread(lambda: box.get(2.0)) as got:
        clock.until_waiting()
        clock.advance(1.0)
        clock.until_waiting()
        assert got == []
        clock.advance(1.0)
    assert got == [None]


def test_closing_wakes_every_reader() -> None:
    """Nobody waits for items that cannot come any more."""
    clock = FakeClock()
    box = mailbox(Drops(), clock)

    with thread(lambda: box.get(HOUR_S)) as one, thread(lambda: box.get(HOUR_S)) as two:
        clock.until_waiting(2)
        box.close()
    assert (one, two) == ([None], [None])


def test_room_wakes_who_waits_for_it() -> None:
    """A blocked `put` goes on as soon as its item fits, and only then."""
    clock, drops = FakeClock(), Drops()
    box = mailbox(drops, clock, max_items=3)
    for item in [(0, 2), (1, 3), (2, 5)]:
        box.put(item)

    with thread(lambda: box.put((3, 4))) as put:
        clock.until_waiting()
        assert box.get(0) == (0, 2)
        clock.until_waiting()  # two bytes are free: not enough
        assert put == []
        assert box.get(0) == (1, 3)
    assert put == [True]
    assert (box.bytes, drops) == (9, [])


def test_age_makes_room() -> None:
    """A blocked `put` wakes when the oldest item has become too old, whoever reads or not."""
    clock, drops = FakeClock(), Drops()
    box = mailbox(drops, clock, max_items=1, max_age_s=5.0)
    box.put((0, 1))

    with thread(lambda: box.put((1, 1))) as put:
        clock.until_waiting()
        clock.advance(5.0)
    assert put == [True]
    assert drops == [((0, 1), "age")]


@pytest.mark.parametrize("end", [Mailbox.close, lambda box: box.discard("shutdown")])
def test_closing_a_full_mailbox_frees_who_waits_for_room(
    end: Callable[[Mailbox[Item]], object],
) -> None:
    """A blocked `put` is refused, counted, and never left waiting for a reader that is gone."""
    clock, drops = FakeClock(), Drops()
    box = mailbox(drops, clock, max_items=1)
    box.put((0, 1))

    with thread(lambda: box.put((1, 1))) as one, thread(lambda: box.put((2, 1))) as two:
        clock.until_waiting(2)
        end(box)
    assert (one, two) == ([False], [False])
    assert sorted(drop for drop in drops if drop[1] == "closed") == [
        ((1, 1), "closed"),
        ((2, 1), "closed"),
    ]


def test_whoever_is_told_of_a_drop_may_use_the_mailbox() -> None:
    """`on_drop` is called without the lock: it may look at the mailbox, or put elsewhere."""
    seen: list[tuple[int, float]] = []
    box: Mailbox[int] = Mailbox(
        "box",
        max_items=1,
        max_bytes=1,
        max_age_s=None,
        policy=Policy.DROP_OLDEST,
        clock=FakeClock(),
        size_of=lambda _: 1,
        on_drop=lambda item, _: seen.append((item, box.oldest_age_s)),
    )
    box.put(1)
    box.put(2)

    assert seen == [(1, 0.0)]


@pytest.mark.parametrize("bound", ["max_items", "max_bytes", "max_age_s"])
def test_a_bound_of_nothing_is_refused(bound: str) -> None:
    """A mailbox that can hold nothing is a mistake, named."""
    with pytest.raises(ValueError, match=f"box: bounds must be positive.*{bound}=0"):
        mailbox(Drops(), FakeClock(), **{bound: 0})  # type: ignore[arg-type]


class Model:
    """What a mailbox shall do, in the plainest words, for one thread."""

    def __init__(
        self, policy: Policy, max_items: int, max_bytes: int, max_age_s: float | None
    ) -> None:
        self.policy, self.max_items, self.max_bytes = policy, max_items, max_bytes
        self.max_age_s = max_age_s
        self.waiting: deque[tuple[Item, float]] = deque()
        self.drops = Drops()
        self.closed = False

    def expire(self, now_s: float) -> None:
        """Drop what is too old."""
        while self.waiting and self.max_age_s and now_s - self.waiting[0][1] >= self.max_age_s:
            self.drops(self.waiting.popleft()[0], "age")

    def shortage(self, item: Item) -> str | None:
        """Say why an item does not fit."""
        if len(self.waiting) >= self.max_items:
            return "full_items"
        used = sum(other[1] for other, _ in self.waiting)
        return "full_bytes" if used + item[1] > self.max_bytes else None

    def put(self, item: Item, now_s: float) -> bool | None:
        """Whether it is taken; None: it would block."""
        self.expire(now_s)
        refusal = "closed" if self.closed else "oversize" if item[1] > self.max_bytes else None
        while refusal is None and (short := self.shortage(item)):
            if self.policy is Policy.BLOCK:
                return None
            if self.policy is Policy.DROP_NEWEST:
                refusal = short
            else:
                self.drops(self.waiting.popleft()[0], short)
        if refusal:
            self.drops(item, refusal)
            return False
        self.waiting.append((item, now_s))
        return True


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12)),
        st.tuples(st.just("get"), st.just(0)),
        st.tuples(st.just("advance"), st.integers(0, 8)),
        st.tuples(st.sampled_from(["close", "discard"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(
    policy=st.sampled_from(Policy),
    max_items=st.integers(1, 4),
    max_age_s=st.sampled_from([None, 1.0, 7.0]),
    steps=steps,
)
def test_put_is_got_and_dropped_and_left(
    policy: Policy, max_items: int, max_age_s: float | None, steps: list[tuple[str, int]]
) -> None:
    """After every step of any sequence: put = got + dropped + left, item by item, as modeled."""
    clock, drops = FakeClock(), Drops()
    box = mailbox(
        drops, clock, policy=policy, max_items=max_items, max_bytes=10, max_age_s=max_age_s
    )
    model = Model(policy, max_items, 10, max_age_s)
    put: list[Item] = []
    got: list[Item] = []

    for number, (what, amount) in enumerate(steps):
        now_s = clock.monotonic_s()
        if what == "put":
            item = (number, amount)
            if copy.deepcopy(model).put(item, now_s) is None:
                continue  # would block: the test with threads does that
            expected = model.put(item, now_s)
            put.append(item)
            assert box.put(item) == expected
        elif what == "get":
            model.expire(now_s)
            head = model.waiting.popleft()[0] if model.waiting else None
            assert box.get(0) == head
            got += [head] if head else []
        elif what == "advance":
            clock.advance(amount)
        else:
            model.closed = True
            box.close()
            if what == "discard":
                box.discard("shutdown")
                model.drops += [(entry[0], "shutdown") for entry in model.waiting]
                model.waiting.clear()
        assert box.items == len(model.waiting) <= max_items
        assert box.bytes == sum(item[1] for item, _ in model.waiting) <= 10
        assert box.closed_and_empty == (model.closed and not model.waiting)
        if what in {"put", "get"}:
            assert drops == model.drops
        assert len(put) == len(got) + len(drops) + box.items
    box.discard("shutdown")

    assert sorted(put) == sorted([*got, *(item for item, _ in drops)])
    assert {reason for _, reason in drops} <= set(DROP_REASONS)


@settings(max_examples=25)
@given(
    policy=st.sampled_from(Policy),
    max_items=st.integers(1, 3),
    producers=st.lists(st.lists(st.integers(0, 12), max_size=20), min_size=1, max_size=3),
    consumers=st.integers(1, 2),
    stop_after=st.integers(0, 40),
    abandon=st.booleans(),
)
def test_threads_lose_nothing(
    *,
    policy: Policy,
    max_items: int,
    producers: list[list[int]],
    consumers: int,
    stop_after: int,
    abandon: bool,
) -> None:
    """Any number of threads, closed at any moment: everything ends, and every item once."""
    drops = Drops()
    box = mailbox(drops, SystemClock(), policy=policy, max_items=max_items, max_bytes=10)
    got: list[Item] = []
    answers: list[tuple[Item, bool]] = []

    def produce(sizes: list[int], first: int) -> None:
        for number, size in enumerate(sizes):
            item = (first + number, size)
            answers.append((item, box.put(item)))

    def consume() -> None:
        while not box.closed_and_empty:
            item = box.get(HOUR_S)
            if item is not None:
                got.append(item)
            if len(got) >= stop_after:
                box.close()

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(consumers)]
    threads += [
        threading.Thread(target=produce, args=(sizes, 1000 * i), daemon=True)
        for i, sizes in enumerate(producers)
    ]
    for one in threads:
        one.start()
    for one in threads[consumers:]:
        one.join(JOIN_S)
    if abandon:
        box.discard("shutdown")
    else:
        box.close()
    for one in threads:
        one.join(JOIN_S)

    assert not any(one.is_alive() for one in threads)
    put = [item for item, _ in answers]
    assert Counter(put) == Counter(got) + Counter(item for item, _ in drops)
    assert len(put) == sum(map(len, producers))
    refused = {item for item, taken in answers if not taken}
    assert refused <= {item for item, _ in drops}
    assert refused.isdisjoint(got)
