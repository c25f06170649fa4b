"""A bounded mailbox between two stages: items, bytes and age, and a policy when full.

Nothing disappears: whatever was put is got, or left, or was given to `on_drop` once, with a reason.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from daemon.clock import Clock

T = TypeVar("T")

FULL_ITEMS: Final = "full_items"
FULL_BYTES: Final = "full_bytes"
OVERSIZE: Final = "oversize"
AGE: Final = "age"
CLOSED: Final = "closed"
SHUTDOWN: Final = "shutdown"
"""For `discard`: the process had no time left for the item."""

LOOK_S: Final = 0.25
"""Longest wait for room until `on_wait` is called again [s]: well below any watchdog's period."""

DROP_REASONS: Final = (FULL_ITEMS, FULL_BYTES, OVERSIZE, AGE, CLOSED, SHUTDOWN)


class Policy(enum.Enum):
    """What `put` does when there is no room."""

    BLOCK = "block"
    """Wait for room: the stage before feels it."""
    DROP_NEWEST = "drop_newest"
    """Refuse the new item."""
    DROP_OLDEST = "drop_oldest"
    """Make room: freshness counts."""


class _Entry(NamedTuple, Generic[T]):
    item: T
    size_bytes: int
    put_s: float


class Mailbox(Generic[T]):
    """First in, first out, between threads; any number of them at either end.

    Args:
        name: How metrics and log lines call it.
        max_items: Most items that may wait.
        max_bytes: Most bytes that may wait, by `size_of` [bytes].
        max_age_s: Age at which a waiting item is dropped [s]; None: it never is. Ages are looked
            at whenever somebody puts or gets.
        policy: What `put` does when there is no room.
        clock: Where ages and timeouts come from.
        size_of: Size of an item [bytes].
        on_drop: Told every item that will not be got, with one of `DROP_REASONS`. Called without
            the lock, from the thread whose call dropped it, before that call returns. Must not
            raise.
        on_wait: Called every `LOOK_S` or sooner while `put` waits, from its thread and with the
            lock: who waits for room does not hang.

    Raises:
        ValueError: If a bound is not positive.
    """

    def __init__(
        self,
        name: str,
        *,
        max_items: int,
        max_bytes: int,
        max_age_s: float | None,
        policy: Policy,
        clock: Clock,
        size_of: Callable[[T], int],
        on_drop: Callable[[T, str], None],
        on_wait: Callable[[], object] = lambda: None,
    ) -> None:
        if max_items <= 0 or max_bytes <= 0 or (max_age_s is not None and max_age_s <= 0):
            raise ValueError(
                f"{name}: bounds must be positive: {max_items=} {max_bytes=} {max_age_s=}"
            )
        self.name = name
        self._max_items, self._max_bytes, self._max_age_s = max_items, max_bytes, max_age_s
        self._policy, self._clock = policy, clock
        self._size_of, self._on_drop, self._on_wait = size_of, on_drop, on_wait
        self._entries: deque[_Entry[T]] = deque()
        self._bytes = 0
        self._closed = False
        lock = threading.Lock()
        self._not_empty = threading.Condition(lock)
        self._not_full = threading.Condition(lock)

    @property
    def items(self) -> int:
        """Items that wait."""
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    @property
    def fill(self) -> float:
        """How full it is: items or bytes over their bound, whichever is more [1]."""
        return max(len(self._entries) / self._max_items, self._bytes / self._max_bytes)

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest item has waited [s]; 0 where none waits."""
        with self._not_empty:
            return self._clock.monotonic_s() - self._entries[0].put_s if self._entries else 0.0

    @property
    def closed_and_empty(self) -> bool:
        """Whether nothing waits and nothing more can come."""
        with self._not_empty:
            return self._closed and not self._entries

    def put(self, item: T) -> bool:
        """Hand an item over.

        Under `Policy.BLOCK` this waits for room, or until the mailbox is closed.

        Returns:
            Whether the item was taken. If not, `on_drop` has been told.
        """
        size_bytes = self._size_of(item)
        dropped: list[tuple[T, str]] = []
        with self._not_full:
            refusal = self._make_room(size_bytes, dropped)
            if refusal is None:
                self._entries.append(_Entry(item, size_bytes, self._clock.monotonic_s()))
                self._bytes += size_bytes
                self._not_empty.notify()
            else:
                dropped.append((item, refusal))
        self._tell(dropped)
        return refusal is None

    def get(self, timeout_s: float) -> T | None:
        """Take the oldest item.

        Args:
            timeout_s: How long to wait for one [s]; 0: not at all.

        Returns:
            The item, or None: nothing came in time, or the mailbox is closed and empty.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        dropped: list[tuple[T, str]] = []
        with self._not_empty:
            self._expire(dropped)
            while not self._entries and not self._closed and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._not_empty, until_s)
                self._expire(dropped)
            item = self._pop().item if self._entries else None
        self._tell(dropped)
        return item

    def close(self) -> None:
        """Take no more items; who waits in `put` is refused, what waits can still be got."""
        with self._not_full:
            self._closed = True
            self._not_full.notify_all()
            self._not_empty.notify_all()

    def discard(self, reason: str) -> int:
        """Close, and drop all that waits.

        Returns:
            How many items were dropped.
        """
        self.close()
        with self._not_empty:
            dropped = [(entry.item, reason) for entry in self._entries]
            self._entries.clear()
            self._bytes = 0
        self._tell(dropped)
        return len(dropped)

    def _make_room(self, size_bytes: int, dropped: list[tuple[T, str]]) -> str | None:
        """Wait or evict until an item fits; return why it cannot be taken, if so."""
        while True:
            self._expire(dropped)
            if self._closed:
                return CLOSED
            if size_bytes > self._max_bytes:
                return OVERSIZE
            shortage = self._shortage(size_bytes)
            if shortage is None:
                return None
            if self._policy is Policy.DROP_NEWEST:
                return shortage
            if self._policy is Policy.DROP_OLDEST:
                dropped.append((self._pop().item, shortage))
            else:
                self._on_wait()
                look_s = self._clock.monotonic_s() + LOOK_S
                oldest_s = self._entries[0].put_s
                until_s = look_s if self._max_age_s is None else oldest_s + self._max_age_s
                self._clock.wait(self._not_full, min(look_s, until_s))

    def _shortage(self, size_bytes: int) -> str | None:
        if len(self._entries) >= self._max_items:
            return FULL_ITEMS
        return FULL_BYTES if self._bytes + size_bytes > self._max_bytes else None

    def _expire(self, dropped: list[tuple[T, str]]) -> None:
        if self._max_age_s is None:
            return
        now_s = self._clock.monotonic_s()
        while self._entries and now_s >= self._entries[0].put_s + self._max_age_s:
            dropped.append((self._pop().item, AGE))

    def _pop(self) -> _Entry[T]:
        entry = self._entries.popleft()
        self._bytes -= entry.size_bytes
        # All of them: the one that waited longest may need more room than this gives.
        self._not_full.notify_all()
        return entry

    def _tell(self, dropped: list[tuple[T, str]]) -> None:
        for item, reason in dropped:
            self._on_drop(item, reason)
