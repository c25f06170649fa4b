"""One service from its settings to its exit status: log, signals, systemd, its last numbers."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import Protocol

from daemon.clock import Clock, SystemClock
from daemon.config_sections import LogSettings
from daemon.console import check_json, write_json
from daemon.errors import ShutdownError
from daemon.lifecycle import StopSignal
from daemon.log import setup
from daemon.notify import Notifier


class Service(Protocol):
    """Flight or ground, with its settings."""

    def __call__(self, *, stop: StopSignal, clock: Clock, notifier: Notifier) -> dict[str, float]:
        """Run until asked to stop; return every metric's final value."""
        ...


def run_service(log: LogSettings, service: Service, json_file: Path | None) -> None:
    """Run a service until SIGTERM.

    On SIGABRT, which systemd's watchdog sends, and on a fault of native code the stack of every
    thread goes to standard error.

    Raises:
        ShutdownError: If not all that was accepted could be finished in time.
    """
    check_json(json_file)  # hours before it is written
    clock = SystemClock()
    setup(log.level, as_json=log.as_json, clock=clock, burst=log.burst, period_s=log.period_s)
    faulthandler.enable()
    with StopSignal() as stop:
        notifier = Notifier.of_environment(os.environ, clock)
        totals = service(stop=stop, clock=clock, notifier=notifier)
    write_json(json_file, totals)
    if late := totals["prismlink_stages_late"]:
        raise ShutdownError(f"{late:.0f} stages did not drain; what they gave up is counted")
