"""A clock that a test moves by hand."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Final

STUCK_S: Final = 60.0
"""Real seconds after which a thread that should have been waiting is given up on."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    condition: threading.Condition
    until_s: float


class FakeClock:
    """Stands still until `advance`; who waits on it wakes when its moment has come.

    `sleep` moves the clock itself, so code that paces itself runs through at once.

    Attributes:
        slept_s: What was asked of `sleep` [s], in order.
    """

    def __init__(self, *, monotonic_s: float = 1000.0, utc_s: float = 1_700_000_000.0) -> None:
        self.slept_s: list[float] = []
        self._monotonic_s, self._utc_s = monotonic_s, utc_s
        self._waiting: list[_Waiter] = []
        self._changed = threading.Condition()

    def monotonic_s(self) -> float:
        """The fake moment [s]."""
        with self._changed:
            return self._monotonic_s

    def utc_s(self) -> float:
        """The fake time of day [s since 1970-01-01]."""
        with self._changed:
            return self._utc_s

    def sleep(self, seconds: float) -> None:
        """Move on by `seconds` at once."""
        self.slept_s.append(seconds)
        self.advance(max(0.0, seconds))

    def wait(self, condition: threading.Condition, until_s: float | None) -> None:
        """Wait until notified, or until the clock is moved to `until_s`."""
        waiter = _Waiter(condition, math.inf if until_s is None else until_s)
        with self._changed:
            if self._monotonic_s >= waiter.until_s:
                return
            self._waiting.append(waiter)
            self._changed.notify_all()
        try:
            # The caller holds the condition, so `advance` cannot notify before this waits.
            condition.wait()
        finally:
            with self._changed:
                self._waiting = [other for other in self._waiting if other is not waiter]

    def advance(self, seconds: float) -> None:
        """Let time pass for everyone. The caller must hold no condition that is waited on."""
        with self._changed:
            self._monotonic_s += seconds
            self._utc_s += seconds
            due = [waiter for waiter in self._waiting if waiter.until_s <= self._monotonic_s]
            # Gone at once, though their threads have yet to wake: `until_waiting` means the next.
            self._waiting = [waiter for waiter in self._waiting if waiter not in due]
        for waiter in due:
            with waiter.condition:
                waiter.condition.notify_all()

    def jump_utc(self, seconds: float) -> None:
        """Move the time of day alone, as a receiver's fix does."""
        with self._changed:
            self._utc_s += seconds

    def until_waiting(self, threads: int = 1) -> None:
        """Return once so many threads wait on this clock; takes real time, but no more than needed.

        Raises:
            TimeoutError: If they never do.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) >= threads, STUCK_S):
                raise TimeoutError(f"{len(self._waiting)} threads wait, expected {threads}")
