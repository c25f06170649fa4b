"""What systemd is told, and that a service works where nobody listens."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.notify import LOADING_S, STATUS_S, Notifier
from fakes.clock import FakeClock
from fakes.processes import until
from fakes.systemd import FakeSystemd


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeSystemd]:
    """A socket that listens, of either kind that systemd has."""
    address = tmp_path / "notify" if request.param == "path" else f"@prismlink-{uuid.uuid4()}"
    with FakeSystemd(address) as listening:
        yield listening


def test_a_life_is_told(systemd: FakeSystemd) -> None:
    """Each step has time of its own, and ready is said once, as sd_notify(3) has it."""
    notifier = Notifier(systemd.address, clock=FakeClock())
    notifier.loading("the model")
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    until(lambda: "STOPPING=1" in systemd.lines, "the last message")

    assert systemd.lines == [
        *("STATUS=loading the model", f"EXTEND_TIMEOUT_USEC={LOADING_S * 1e6:.0f}"),
        *("READY=1", "STATUS=ready"),
        "WATCHDOG=1",
        *("STOPPING=1", "STATUS=finishing what was accepted"),
    ]


def test_status_lines_are_news_and_not_many(systemd: FakeSystemd) -> None:
    """The same is not told twice, nothing within `STATUS_S`, and no line break forges a message."""
    clock = FakeClock()
    notifier = Notifier(systemd.address, clock=clock)
    for text in ("one", "two"):
        notifier.status(text)
    clock.advance(STATUS_S)
    for text in ("one", "three\nREADY=1"):
        notifier.status(text)
    until(lambda: len(systemd.lines) > 1, "two lines")

    assert systemd.lines == ["STATUS=one", "STATUS=three READY=1"]


def test_without_systemd_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    """Started by hand, a service is silent: no error, no line in the log, no watchdog."""
    notifier = Notifier.of_environment({"WATCHDOG_USEC": "1000000"}, FakeClock())
    notifier.ready()

    assert (notifier.listens, caplog.records) == (False, [])


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1", "@gone", "a\0b"])
def test_a_socket_that_fails_costs_a_log_line(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody there, or an address of a kind we do not know: the service goes on."""
    Notifier(address, clock=FakeClock()).ready()

    assert [record.message for record in caplog.records] == ["systemd was not told"]


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_or_not(environment: dict[str, str], watchdog_s: float | None) -> None:
    """A period that is meant for another process, or none, is no watchdog."""
    assert Notifier.of_environment(environment, FakeClock()).watchdog_s == watchdog_s
