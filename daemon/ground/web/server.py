"""The web server: uvicorn on a thread of its own, begun and ended as the process is."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from daemon.errors import AddressError
from daemon.ground.web.protocol import BoundedProtocol
from daemon.ground.web.streams import Streams

log = logging.getLogger(__name__)

END_S: Final = 3
"""What answers under way get when the process ends [s]; then they are cut off."""
_HEADER_BYTES: Final = 16 << 10
"""Longest head of a request."""
_BACKLOG: Final = 64


class WebServer:
    """An open page.

    Args:
        app: What answers.
        streams: Ended with the server.
        address: IP address, or localhost.
        port: 0: any that is free.

    Attributes:
        port: The port it listens on.

    Raises:
        AddressError: If nothing can listen there.
    """

    def __init__(self, app: ASGIApp, streams: Streams, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._socket = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError) as error:
            raise AddressError(f"{address}:{port}", str(error)) from None
        self.port: int = self._socket.getsockname()[1]
        self._streams = streams
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=END_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web-server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._streams.ending = True
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(2 * END_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException:  # uvicorn calls sys.exit; the pass goes on without a page
            log.critical("web server ended early", exc_info=True)
