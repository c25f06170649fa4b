"""The watchdog: systemd hears from us as long as every stage passes its loop.

What counts as passing: a stage that finds nothing in its mailbox, one that waits for room in the
next, a downlink that waits for a pass. Each goes around, or says so while it waits, and of two of
which one waits for the other only the other can be late. What does not: a call that does not
return, be it into a worker, a library or a disk, and a stage that has ended by an error.

One call may take as long as systemd's own period. So the units' WatchdogSec is well above the
longest call that is no fault: compiling is done before, and a tile of the largest message takes
seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from daemon.clock import Clock
from daemon.notify import STATUS_S, Notifier

log = logging.getLogger(__name__)

PINGS_PER_PERIOD: Final = 3
"""systemd advises two; with three one may be late."""


class Pulses:
    """When each stage was last seen alive. Stages tell from their own threads; any thread reads.

    Args:
        clock: Tells when.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._alive_s: dict[threading.Thread, tuple[str, float]] = {}

    def begin(self, stage: str) -> None:
        """The calling thread is this stage from now on."""
        with self._lock:
            self._alive_s[threading.current_thread()] = stage, self._clock.monotonic_s()

    def alive(self) -> None:
        """The calling thread's stage goes on; of a thread that is none this says nothing."""
        thread = threading.current_thread()
        with self._lock:
            if thread in self._alive_s:
                self._alive_s[thread] = self._alive_s[thread][0], self._clock.monotonic_s()

    def end(self) -> None:
        """The calling thread's stage ends as it should."""
        with self._lock:
            self._alive_s.pop(threading.current_thread(), None)

    def ages_s(self) -> dict[str, float]:
        """Time since each stage was last seen alive [s]."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            return {stage: now_s - alive_s for stage, alive_s in self._alive_s.values()}


def late(ages_s: dict[str, float], limit_s: float) -> list[str]:
    """The stages that were last seen alive longer ago than `limit_s` [s], the oldest first."""
    return sorted((name for name in ages_s if ages_s[name] > limit_s), key=lambda n: -ages_s[n])


class Watchdog:
    """A context in which systemd is told, from a thread, that nothing hangs, and how it goes.

    Args:
        pulses: When each stage was last seen alive.
        notifier: Tells systemd; its `watchdog_s` is how long a stage may not be seen.
        summary: One line for people.
        clock: Paces.
    """

    def __init__(
        self, pulses: Pulses, notifier: Notifier, summary: Callable[[], str], clock: Clock
    ) -> None:
        self._pulses, self._notifier, self._summary, self._clock = pulses, notifier, summary, clock
        self._late: frozenset[str] = frozenset()
        self._state, self._stopped = threading.Condition(), False
        period_s = notifier.watchdog_s
        self._every_s = STATUS_S if period_s is None else min(period_s / PINGS_PER_PERIOD, STATUS_S)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._notifier.listens:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """Tell systemd that nothing hangs, unless something does; that is told the log, once."""
        if self._notifier.watchdog_s is not None:
            ages_s = self._pulses.ages_s()
            hung = late(ages_s, self._notifier.watchdog_s)
            self._tell(hung, ages_s)
            if hung:
                self._notifier.status(f"hung: {', '.join(hung)}")
                return
            self._notifier.alive()
        self._notifier.status(self._summary())

    def _tell(self, hung: Iterable[str], ages_s: dict[str, float]) -> None:
        for stage in hung:
            if stage not in self._late:
                log.error("stage hangs", extra={"stage": stage, "seconds": round(ages_s[stage], 1)})
        for stage in self._late.difference(hung):
            log.warning("stage goes on", extra={"stage": stage})
        self._late = frozenset(hung)

    def _run(self) -> None:
        while True:
            self.look()
            until_s = self._clock.monotonic_s() + self._every_s
            with self._state:
                while not self._stopped and self._clock.monotonic_s() < until_s:
                    self._clock.wait(self._state, until_s)
                if self._stopped:
                    return
