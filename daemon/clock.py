"""The clocks of a process; the only module that reads one."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Durations come from `monotonic_s`; only labels come from `utc_s`."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back, says nothing after a reboot."""

    def utc_s(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump when the receiver gets a fix."""

    def sleep(self, seconds: float) -> None:
        """Wait; not at all where `seconds` is not positive."""

    def wait(self, condition: threading.Condition, until_s: float | None) -> None:
        """Wait until `condition` is notified or `monotonic_s` reaches `until_s`.

        The caller holds the condition, and afterwards checks what it waited for: it may wake
        early. The moment is absolute, so none of it is lost between two waits.

        Args:
            condition: What to wait for.
            until_s: When to give up [s], on `monotonic_s`; None: never.
        """


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        """Seconds since the machine started, or about that."""
        return time.monotonic()

    def utc_s(self) -> float:
        """Seconds since 1970-01-01 UTC, as the machine has it."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Let the thread rest."""
        time.sleep(max(0.0, seconds))

    def wait(self, condition: threading.Condition, until_s: float | None) -> None:
        """Wait, in real time."""
        if until_s is None:
            condition.wait()
        elif (left_s := until_s - time.monotonic()) > 0:
            condition.wait(min(left_s, threading.TIMEOUT_MAX))
