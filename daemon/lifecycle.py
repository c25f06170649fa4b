"""How a process ends: a signal sets a flag, stages stop in the direction of the data."""

from __future__ import annotations

import logging
import math
import queue
import signal
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self

from daemon.clock import Clock

log = logging.getLogger(__name__)

GRACE_S: Final = 0.2
"""What every stage gets even past the deadline [s]: an idle one needs a moment to end, twice its
longest wait, and would otherwise be named late, and lose what it was just handed, because another
one was."""

LAST_POLL_S: Final = 1.0
"""What a stage that was late gets for its last counts, and a source to leave its socket [s] before
that is closed: closed under a thread that uses it, libzmq aborts the process."""


WARN_S: Final = 60.0
"""Time between two warnings of sockets that are open [s]."""


_NAP_S: Final = 1.0
"""Longest that the main thread sleeps [s]. It alone runs handlers, and the kernel may hand a signal
to any other: then nothing wakes it."""


class Stoppable(Protocol):
    """A stage, seen from its end."""

    name: str

    def stop_intake(self) -> None:
        """Take nothing new."""

    def drain(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it came in time."""

    def abandon(self) -> None:
        """Give up, counting what is given up."""

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing more is counted, or time is up."""


def shut_down(stages: Sequence[Stoppable], *, deadline_s: float, clock: Clock) -> list[str]:
    """Stop `stages`, first to last, in the direction the data flows.

    Each stage finishes before the next one stops taking work, so nothing that was accepted is
    lost unless the deadline passes; then what waits before the late stage, and what it has in
    hand, is dropped and counted. All is counted on return.

    Args:
        stages: All of them, sources first.
        deadline_s: For all together [s]; past it each gets `GRACE_S`, and the late ones
            `LAST_POLL_S` in the end.
        clock: Measures the deadline.

    Returns:
        Names of the stages that did not drain in time, or had died, in order.
    """
    stop_by_s = clock.monotonic_s() + deadline_s
    late: list[Stoppable] = []
    for stage in stages:
        stage.stop_intake()
        if not stage.drain(max(GRACE_S, stop_by_s - clock.monotonic_s())):
            log.error("stage did not drain within the deadline", extra={"stage": stage.name})
            stage.abandon()
            late.append(stage)
    for stage in late:  # what held it up may have been the next one, which refuses now
        stage.settle(LAST_POLL_S)
    return [stage.name for stage in late]


class StopSignal:
    """A context in which SIGTERM and SIGINT ask the process to end, and do nothing else.

    SIGHUP calls `on_hangup`, in the midst of whatever the main thread does.

    Made for the main thread, which alone can handle signals. Not a `threading.Event`: its `set`
    takes a lock that the interrupted `wait` may be holding, and the process would hang on the
    signal that should end it. `SimpleQueue.put` is documented to be safe there.

    Attributes:
        received: The signal that came first, or None.
        on_hangup: Must take no lock.
    """

    SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_hangup: Callable[[], object] = lambda: None
        self._set = False
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        self._old[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: self.on_hangup())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            # None: set by a C library, and Python cannot put that one back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def set(self) -> None:
        """Ask from within the process, from any thread."""
        self._set = True
        self._woken.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait to be asked to end; for one waiting thread.

        Args:
            timeout_s: How long [s]; None: for ever.

        Returns:
            Whether the process shall end.
        """
        left_s = math.inf if timeout_s is None else timeout_s
        while not self._set:
            try:
                self._woken.get(timeout=min(left_s, _NAP_S))
            except queue.Empty:
                left_s -= _NAP_S
                if left_s <= 0:
                    return False
        return True

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        self.set()


def wait_to_end(stop: StopSignal, exposed: Sequence[str]) -> None:
    """Wait to be asked to end; meanwhile warn of sockets without keys, at once and every minute.

    Args:
        stop: Asks.
        exposed: Keys of the addresses that are open to other machines.
    """
    while exposed:
        log.warning(
            "insecure: open to other machines without keys", extra={"open": ",".join(exposed)}
        )
        if stop.wait(WARN_S):
            return
    stop.wait()
