"""The end of a process: in the direction of the data, in time, and told truly."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from daemon.lifecycle import (
    GRACE_S,
    LAST_POLL_S,
    WARN_S,
    StopSignal,
    shut_down,
    wait_to_end,
)
from fakes.clock import FakeClock


class FakeStage:
    """Takes a while to drain."""

    def __init__(self, name: str, needs_s: float, clock: FakeClock, calls: list[Any]) -> None:
        self.name, self._needs_s, self._clock, self._calls = name, needs_s, clock, calls

    def stop_intake(self) -> None:
        """Take note."""
        self._calls.append((self.name, "stop"))

    def drain(self, timeout_s: float) -> bool:
        """Let time pass."""
        self._calls.append((self.name, round(timeout_s, 3)))
        self._clock.advance(min(self._needs_s, timeout_s))
        return self._needs_s <= timeout_s

    def abandon(self) -> None:
        """Take note."""
        self._calls.append((self.name, "abandon"))

    def settle(self, timeout_s: float) -> None:
        """Take note."""
        self._calls.append((self.name, "settle", timeout_s))


def test_stages_stop_in_the_direction_of_the_data() -> None:
    """Each is drained before the next stops; the deadline is shared."""
    clock, calls = FakeClock(), list[Any]()
    stages = [FakeStage(name, 3.0, clock, calls) for name in ("ingest", "encode", "spool")]

    assert shut_down(stages, deadline_s=10.0, clock=clock) == []
    assert calls == [
        *(("ingest", "stop"), ("ingest", 10.0)),
        *(("encode", "stop"), ("encode", 7.0)),
        *(("spool", "stop"), ("spool", 4.0)),
    ]


def test_late_stages_are_named_and_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    """Past the deadline an idle stage still gets the moment it needs, and is not called late."""
    clock, calls = FakeClock(), list[Any]()
    needs_s = {"ingest": 0.0, "encode": 60.0, "frames": GRACE_S, "spool": 1.0}
    stages = [FakeStage(name, seconds, clock, calls) for name, seconds in needs_s.items()]

    assert shut_down(stages, deadline_s=10.0, clock=clock) == ["encode", "spool"]
    assert [call[0] for call in calls if call[1] == "abandon"] == ["encode", "spool"]
    # Only now does nothing take in anything any more.
    assert calls[-2:] == [(name, "settle", LAST_POLL_S) for name in ("encode", "spool")]
    assert ("frames", GRACE_S) in calls
    assert [record.__dict__["stage"] for record in caplog.records] == ["encode", "spool"]


@pytest.mark.parametrize("number", StopSignal.SIGNALS, ids=lambda number: number.name)
def test_a_signal_asks_for_the_end(number: signal.Signals) -> None:
    """SIGTERM and SIGINT set a flag and nothing else; afterwards the old handlers are back."""
    before = [signal.getsignal(one) for one in StopSignal.SIGNALS]
    with StopSignal() as stop:
        answers = [stop.wait(0.0)]
        os.kill(os.getpid(), number)
        answers += [stop.wait(10.0), stop.wait(0.0), stop.wait()]

    assert answers == [False, True, True, True]
    assert stop.received is number
    assert [signal.getsignal(one) for one in StopSignal.SIGNALS] == before


def test_a_signal_that_another_thread_gets_wakes_the_main_one() -> None:
    """The kernel may hand it to any; the main thread alone runs handlers, and must not sleep on."""
    with StopSignal() as stop:
        rescue = threading.Timer(30.0, stop.set)  # or this test would never end
        rescue.start()
        other = threading.Thread(
            target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        )
        threading.Timer(0.2, other.start).start()
        assert stop.wait()
        assert stop.received is signal.SIGTERM
        assert rescue.is_alive()
        rescue.cancel()
        rescue.join()
        other.join()


def test_handlers_come_back_after_an_error() -> None:
    """A process that fails inside does not go on deaf to Ctrl-C."""
    before = [signal.getsignal(one) for one in StopSignal.SIGNALS]
    with pytest.raises(KeyError), StopSignal():
        raise KeyError

    assert [signal.getsignal(one) for one in StopSignal.SIGNALS] == before


def test_a_signal_interrupts_the_wait() -> None:
    """The main thread wakes from a wait without end, many times over, and never hangs on it."""
    for _ in range(50):
        with StopSignal() as stop:
            sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM))
            sender.start()
            assert stop.wait(10.0)
            sender.join()


def test_the_first_signal_is_remembered() -> None:
    """An impatient operator does not change the reason."""
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(10.0)

    assert stop.received is signal.SIGTERM


def test_the_process_may_ask_itself() -> None:
    """`set` ends the wait from any thread, with no signal to name."""
    with StopSignal() as stop:
        asker = threading.Thread(target=stop.set)
        asker.start()
        assert stop.wait(10.0)
        asker.join()

    assert stop.received is None


class FakeStop(StopSignal):
    """Asks at the third look; notes how long each was to last."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = list[float | None]()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Take note."""
        self.waits.append(timeout_s)
        return timeout_s is None or len(self.waits) == 3


def test_open_sockets_are_told_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and as long as the process runs; without any it waits in silence."""
    stop = FakeStop()
    wait_to_end(stop, ("link.address",))
    assert stop.waits == [WARN_S] * 3
    assert [record.__dict__["open"] for record in caplog.records] == ["link.address"] * 3

    caplog.clear()
    stop = FakeStop()
    wait_to_end(stop, ())
    assert (stop.waits, caplog.records) == ([None], [])
