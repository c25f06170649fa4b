"""What a service tells systemd, over the datagram socket that it names; see sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final, Self

from daemon.clock import Clock

log = logging.getLogger(__name__)

LOADING_S: Final = 180.0
"""What each step of a start may take [s]. Compiling, the longest, takes half a minute on two cores
of a server; a step that hangs is given up on, for nothing asks for more while it lasts."""
STATUS_S: Final = 5.0
"""Least time between two status lines [s]."""
READY: Final = "ready"
_SEND_S: Final = 5.0
"""Longest wait for systemd to take a message [s]."""


class Notifier:
    """Tells systemd how far the process is, or nobody where systemd did not start it; and knows it.

    What cannot be sent is one line in the log: a service works without.

    Args:
        address: Path of the socket, or "@" and its abstract name; "": there is none.
        clock: Paces status lines.
        watchdog_s: Time without `alive` after which systemd ends the process [s]; None: never.

    Attributes:
        watchdog_s: The same.
        phase: How far the process is: "starting", "loading …", "ready" or "stopping".
    """

    def __init__(self, address: str, *, clock: Clock, watchdog_s: float | None = None) -> None:
        self.watchdog_s, self.phase = watchdog_s, "starting"
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        self._clock = clock
        self._status, self._next_status_s = "", clock.monotonic_s()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], clock: Clock) -> Self:
        """Do what NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say; nothing without the first."""
        period = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
        watched = meant and period.isdecimal() and int(period) > 0
        return cls(
            environment.get("NOTIFY_SOCKET", ""),
            clock=clock,
            watchdog_s=int(period) / 1e6 if watched else None,
        )

    @property
    def listens(self) -> bool:
        """Whether anybody is told."""
        return bool(self._address)

    def loading(self, what: str) -> None:
        """A step of the start begins, or goes on: from now on it may take `LOADING_S`."""
        self.phase = f"loading {what}"
        self._send(f"STATUS={self.phase}", f"EXTEND_TIMEOUT_USEC={LOADING_S * 1e6:.0f}")

    def ready(self) -> None:
        """The process does its work from now on."""
        self.phase = READY
        self._send("READY=1", f"STATUS={READY}")

    def alive(self) -> None:
        """Nothing hangs."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Tell people how it goes, if that is news and the last one is `STATUS_S` old."""
        now_s = self._clock.monotonic_s()
        if text != self._status and now_s >= self._next_status_s:
            self._status, self._next_status_s = text, now_s + STATUS_S
            self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The process ends; it finishes what it accepted."""
        self.phase = "stopping"
        self._send("STOPPING=1", "STATUS=finishing what was accepted")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto(text.encode(), self._address)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            log.warning("systemd was not told", extra={"told": text, "error": str(error)})
