"""Stages: a worker on a thread of its own, between a mailbox and whatever comes next.

The direction of data is the direction of shutdown: `stop_intake`, then `drain`, first stage to
last. A stage that drains still delivers, so the next one must still be running.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from codec.errors import CodecError
from daemon.clock import Clock
from daemon.errors import DaemonError, reason_of
from daemon.mailbox import SHUTDOWN, Mailbox
from daemon.watchdog import Pulses

log = logging.getLogger(__name__)

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

INTERNAL_ERROR: Final = "internal_error"
"""Reason of an error nobody raised on purpose: a bug, or a machine out of memory."""
PAUSE_S: Final = 0.1
"""Rest of a source after an error [s]: one that fails at once, every time, must not take a core."""


class Worker(Protocol[In_contra, Out_co]):
    """What a stage does. Called from one thread only.

    An error raised by `accept` means that the item, whole, did not go through: nothing of it is
    delivered and the stage drops it. What the worker keeps between calls is its own to count.
    """

    def accept(self, item: In_contra) -> Iterable[Out_co]:
        """Take one item; return what is ready for the next stage."""

    def tick(self) -> Iterable[Out_co]:
        """Return what has become ready by the passing of time."""

    def finish(self) -> Iterable[Out_co]:
        """Return what is left, after the last item."""


class KeepsNothing:
    """The part of a `Worker` that holds nothing between items."""

    def tick(self) -> tuple[()]:
        """Nothing becomes ready by the passing of time."""
        return ()

    def finish(self) -> tuple[()]:
        """Nothing is left."""
        return ()


class StageObserver(Protocol):
    """Who is told how a stage does; `daemon.metrics` is. Called from the stages' threads."""

    def took(self, stage: str, seconds: float) -> None:
        """An item took so long, delivery not included."""

    def failed(self, stage: str, reason: str) -> None:
        """An error was caught."""


class _Threaded:
    """A named thread that can be told to stop and waited for."""

    def __init__(self, name: str, *, clock: Clock, observer: StageObserver, pulses: Pulses) -> None:
        self.name = name
        self._clock, self._observer, self._pulses = clock, observer, pulses
        self._state = threading.Condition()
        self._stopping = self._abandoned = self._done = self._died = False
        # A daemon thread: one stuck in native code must not keep the process from ending.
        self._thread = threading.Thread(target=self._life, name=name, daemon=True)

    def start(self) -> None:
        """Begin. Start the last stage of a line first, so that each finds its next one running."""
        self._thread.start()

    def stop_intake(self) -> None:
        """Take nothing new; go on with what was accepted."""
        with self._state:
            self._stopping = True
            self._state.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait for the end after `stop_intake`.

        Returns:
            Whether it came in time, and not early by an error: all that was accepted has then
            been delivered, or counted as dropped.
        """
        if self._thread.ident is None:  # never started, because a later stage could not be
            self.abandon()
            return True
        self._wait(lambda: self._done, timeout_s)
        if not self._done:
            return False
        self._thread.join()  # at its last instruction
        return not self._died

    def abandon(self) -> None:
        """Give up; the thread ends when what it calls next returns."""
        with self._state:
            self._stopping = self._abandoned = True
            self._state.notify_all()

    def settle(self, timeout_s: float) -> None:
        """Wait, after `abandon` and once the next stage takes nothing more, for the last counts."""
        self._wait(self._at_rest, timeout_s)

    def _at_rest(self) -> bool:
        """Whether nothing more will be counted; asked under the lock."""
        return self._done

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        until_s = self._clock.monotonic_s() + timeout_s
        with self._state:
            while not condition() and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._state, until_s)

    def _life(self) -> None:
        try:
            self._pulses.begin(self.name)
            self._run()
            self._pulses.end()
        except BaseException:  # of an observer, or a clock: what a stage calls is guarded
            self._died = True
            log.critical("stage ended early", extra={"stage": self.name}, exc_info=True)
        finally:
            with self._state:
                self._done = True
                self._state.notify_all()

    def _run(self) -> None:
        raise NotImplementedError

    def _guard(self, call: Callable[[], T], otherwise: T) -> tuple[T, str | None]:
        """Call; return the result and no reason, or `otherwise` and why it failed."""
        self._pulses.alive()
        try:
            return call(), None
        except (DaemonError, CodecError) as error:
            reason = reason_of(error)
            fields = {"stage": self.name, "reason": reason, "error": str(error)}
            log.warning("refused by stage", extra=fields)
        except BaseException:  # a bug costs one item; a panic in Rust is no Exception
            reason = INTERNAL_ERROR
            log.exception("internal error", extra={"stage": self.name})
        self._observer.failed(self.name, reason)
        return otherwise, reason


class Stage(_Threaded, Generic[In, Out]):
    """A worker fed from a mailbox.

    Args:
        name: Of the stage, its thread, and its label in metrics.
        worker: What it does.
        inbox: Where its items come from; the stage closes it.
        deliver: Takes what the worker returns, one by one: the `put` of the next mailbox. Must
            count what it refuses. None: this is the end of a line, and `accept` itself does
            what cannot be undone.
        tick_s: Longest time between two ticks of the worker, while `accept` returns [s].
        clock: Times calls and ticks.
        observer: Told how long items take, and of errors.
        pulses: Told before every call, and at each thing the worker returns.
        on_drop: Told the item whose `accept` failed, or was given up, with the reason. Must not
            raise.
    """

    def __init__(
        self,
        name: str,
        worker: Worker[In, Out],
        inbox: Mailbox[In],
        deliver: Callable[[Out], object] | None,
        *,
        tick_s: float,
        clock: Clock,
        observer: StageObserver,
        pulses: Pulses,
        on_drop: Callable[[In, str], None],
    ) -> None:
        super().__init__(name, clock=clock, observer=observer, pulses=pulses)
        self._worker, self._inbox, self._deliver = worker, inbox, deliver
        self._tick_s, self._on_drop = tick_s, on_drop
        # An item such a worker has begun may be among what it keeps: given up in hand, it would be
        # counted again with what `finish` returns. So from there on it is the worker's.
        self._keeps = not isinstance(worker, KeepsNothing)
        self._hand: In | None = None
        self._taking = self._given_up = False

    def stop_intake(self) -> None:
        """Close the inbox; go on with what is in it."""
        super().stop_intake()
        self._inbox.close()

    def abandon(self) -> None:
        """Drop what is in the inbox and the item in hand, counted as "shutdown".

        What the worker makes of that item is thrown away. At the end of a line it may have been
        done already: there `settle` drops it, if it is not done by then.
        """
        super().abandon()
        self._inbox.discard(SHUTDOWN)
        with self._state:
            while self._taking:  # no longer: the inbox is closed
                self._clock.wait(self._state, None)
        if self._deliver is not None:
            self._drop_hand(SHUTDOWN)

    def settle(self, timeout_s: float) -> None:
        """Wait until what was made is taken or refused; drop what is still in hand."""
        super().settle(timeout_s)
        self._drop_hand(SHUTDOWN)

    def _at_rest(self) -> bool:
        return self._done or self._given_up

    def _run(self) -> None:
        try:
            self._work()
        finally:
            # Should the thread ever end early: nobody may wait for it, or lose an item to it.
            self._inbox.discard(INTERNAL_ERROR)
            self._drop_hand(INTERNAL_ERROR)

    def _work(self) -> None:
        tick_at_s = self._clock.monotonic_s() + self._tick_s
        while not self._inbox.closed_and_empty:
            self._accept_one(until_s=tick_at_s)
            if self._clock.monotonic_s() >= tick_at_s:
                self._call(self._worker.tick)
                tick_at_s = self._clock.monotonic_s() + self._tick_s
        self._call(self._worker.finish)

    def _accept_one(self, *, until_s: float) -> None:
        # A method of its own, so that a tile is not kept alive while the next one is waited for.
        item = self._take(max(0.0, until_s - self._clock.monotonic_s()))
        if item is None:
            return
        if self._keeps and not self._empty_hand():
            return
        start_s = self._clock.monotonic_s()
        outputs, reason = self._guard(lambda: self._all_of(self._worker.accept(item)), list[Out]())
        self._observer.took(self.name, self._clock.monotonic_s() - start_s)
        if not self._keeps and not self._empty_hand():
            return
        if reason is not None:
            self._on_drop(item, reason)
        self._pass_on(outputs)

    def _take(self, timeout_s: float) -> In | None:
        """Take an item in hand; `abandon` finds it in the inbox, or waits and finds it here."""
        with self._state:
            self._taking = True
        item = None
        try:
            item = self._inbox.get(timeout_s)
        finally:
            with self._state:
                self._hand, self._taking = item, False
                self._state.notify_all()
        return item

    def _empty_hand(self) -> bool:
        """Let go of the item; tell whether it is still ours, and not counted as dropped."""
        with self._state:
            ours, self._hand = self._hand is not None, None
            self._given_up = False
        return ours

    def _drop_hand(self, reason: str) -> None:
        with self._state:
            item, self._hand = self._hand, None
            self._given_up |= item is not None
        if item is not None:
            self._on_drop(item, reason)

    def _call(self, call: Callable[[], Iterable[Out]]) -> None:
        self._pass_on(self._guard(lambda: self._all_of(call()), list[Out]())[0])

    def _all_of(self, outputs: Iterable[Out]) -> list[Out]:
        made = []
        for output in outputs:
            self._pulses.alive()  # one item may free many that waited for it
            made.append(output)
        return made

    def _pass_on(self, outputs: list[Out]) -> None:
        if self._deliver is not None:
            for output in outputs:
                self._guard(partial(self._deliver, output), None)


class Source(_Threaded):
    """A loop that brings items in from outside, or takes them out: a socket, a spool.

    Args:
        name: Of the source, its thread, and its label in metrics.
        poll: Waits a moment, bounded by itself, and moves what it can: shutdown waits for it to
            return. It counts bad input and goes on; what it raises is about itself, and makes
            the source rest for `PAUSE_S`.
        clock: Times that rest.
        observer: Told of errors; not of times, for a poll mostly waits.
        pulses: Told before every poll.
        pending: Asked once intake has stopped: while it says True, polling goes on. For a loop
            that empties something, such as the downlink its spool.
    """

    def __init__(
        self,
        name: str,
        poll: Callable[[], object],
        *,
        clock: Clock,
        observer: StageObserver,
        pulses: Pulses,
        pending: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(name, clock=clock, observer=observer, pulses=pulses)
        self._poll, self._pending = poll, pending

    def _run(self) -> None:
        while self._goes_on():
            _, reason = self._guard(self._poll, None)
            if reason is not None:
                self._rest()

    def _goes_on(self) -> bool:
        with self._state:
            if not self._stopping or self._abandoned:
                return not self._stopping
        return self._pending()

    def _rest(self) -> None:
        until_s = self._clock.monotonic_s() + PAUSE_S
        with self._state:
            while not self._abandoned and self._clock.monotonic_s() < until_s:
                self._clock.wait(self._state, until_s)
