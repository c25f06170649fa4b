"""HTTP connections that cannot cost much: so many, and each has to get on.

uvicorn waits for a request for ever, and for a visitor to take an answer, too. Here a connection is
closed that has not sent its request in time, or takes nothing; and one too many at once, before it
costs anything. So strangers cannot use up the file descriptors that the pass needs.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS: Final = 64
"""At a time. A page that is open has one for its events, and for a moment up to five others."""
REQUEST_S: Final = 10.0
"""Longest time from connecting, or from the beginning of another request, to a whole one [s]."""
STALL_S: Final = 10.0
"""Longest time in which a visitor takes nothing of what waits for it [s]."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""Linger for no time. Source: socket(7), SO_LINGER."""


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or hang up."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._request_timer = self.loop.call_later(REQUEST_S, self._hang_up)

    def data_received(self, data: bytes) -> None:
        """Go on with a request; a whole one has no deadline any more."""
        super().data_received(data)
        cycle: object = self.cycle  # None, whatever uvicorn's annotation says
        waits = cycle is None or self.cycle.more_body or self.cycle.response_complete
        if not waits:
            self._cancel_request_timer()
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_S, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_request_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The visitor is slower than we are: it has to take something soon."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_S, self._hang_up)

    def resume_writing(self) -> None:
        """It took something."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _cancel_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _hang_up(self) -> None:
        # With a reset: else the system would go on holding what the visitor does not take.
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE
        )
        self.transport.abort()
