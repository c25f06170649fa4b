"""What systemd is to a service: the socket it is told things on, and its watchdog's environment."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from daemon.clock import SystemClock
from daemon.notify import Notifier

UNHEARD: Final = Notifier("", clock=SystemClock())
"""Of a service that systemd did not start."""


class FakeSystemd:
    """Hears what services say, in order.

    Args:
        address: Path of the socket, or "@" and an abstract name.

    Attributes:
        address: The same: NOTIFY_SOCKET.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1))
        self._socket.settimeout(0.1)
        self._heard: list[str] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="fake systemd")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()

    @property
    def lines(self) -> list[str]:
        """All that was said so far."""
        return [line for message in list(self._heard) for line in message.split("\n")]

    @property
    def pings(self) -> int:
        """How often a service said that nothing hangs."""
        return self.lines.count("WATCHDOG=1")

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._heard.append(self._socket.recv(65_536).decode())
            except TimeoutError:
                continue
