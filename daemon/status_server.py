"""The one HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for who starts processes.

Whoever reaches the port is a stranger, and what is answered holds nothing of what was asked. A
connection gets one answer. It has a thread, of which there are a few; where all are taken, who has
been connected for longest is hung up on: a hundred that say nothing keep nobody out. What is read
and how long that takes is bounded, and so is how often metrics are written out: a client that asks
without end does not take a core away from the pipeline.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from socketserver import TCPServer
from typing import Any, Final

from daemon.clock import Clock
from daemon.config_sections import MetricsSettings
from daemon.errors import AddressError
from daemon.health import Health

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 8
MAX_HEAD_BYTES: Final = 8192
"""Request line and headers. Prometheus sends some hundred bytes."""
HEAD_S: Final = 2.0
"""Time they may take [s]."""
_SEND_S: Final = 5.0
"""Time that an answer may take to be taken [s]."""
METRICS_EVERY_S: Final = 0.05
"""Least time between two answers with metrics [s]; one takes a millisecond to write."""
_FREED_S: Final = 1.0
"""Longest wait for the thread of who was hung up on [s]."""
_LOOK_S: Final = 0.1
"""Longest time until `close` is noticed [s]."""
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = _JSON


class StatusServer:
    """Answers until it is closed.

    Args:
        metrics: Writes the metrics out, in Prometheus's text format.
        health: Knows how the process is.
        where: Where to listen.
        clock: For bounds on time.

    Attributes:
        port: The port it listens on.

    Raises:
        AddressError: If nothing can listen there.
    """

    def __init__(
        self, metrics: Callable[[], bytes], health: Health, where: MetricsSettings, clock: Clock
    ) -> None:
        self._metrics, self._health, self._clock = metrics, health, clock
        self._writing, self._next_s = threading.Lock(), clock.monotonic_s()
        try:
            self._server = _Server(where.address, where.port, self._answer, clock)
        except OSError as error:
            raise AddressError(f"{where.address}:{where.port}", str(error)) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_S,), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Hang up on all, and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, path: str) -> _Answer | None:
        match path:
            case "/metrics":
                return _Answer(status=HTTPStatus.OK, body=self._written(), kind=_TEXT)
            case "/healthz":
                hung = self._health.hung
                return _said(not hung, {"alive": not hung, "hung": hung})
            case "/readyz":
                ready = self._health.ready
                return _said(ready, {"ready": ready, "phase": self._health.phase})
        return None

    def _written(self) -> bytes:
        with self._writing:
            self._clock.sleep(self._next_s - self._clock.monotonic_s())
            self._next_s = self._clock.monotonic_s() + METRICS_EVERY_S
            return self._metrics()


def _said(well: bool, body: dict[str, object]) -> _Answer:
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return _Answer(status=status, body=json.dumps(body).encode() + b"\n")


def _refusal(status: HTTPStatus) -> _Answer:
    return _Answer(status=status, body=json.dumps({"error": status.phrase}).encode() + b"\n")


class _Server(TCPServer):
    """Accepts connections and gives each a thread.

    Not `http.server.HTTPServer`, which asks for the name of the machine in the network.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: str, port: int, answer: Callable[[str], _Answer | None], clock: Clock
    ) -> None:
        self.answer, self.clock = answer, clock
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        super().__init__((address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection on; make room for it if need be."""
        if not self._free.acquire(blocking=False):
            self._hang_up(1)
            if not self._free.acquire(timeout=_FREED_S):
                self.shutdown_request(request)
                return
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="http", daemon=True
        )
        with self._lock:
            self._open[request] = thread
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more; this connection is not kept for it
            log.warning("no thread for HTTP", extra={"error": str(error)})
            self._forget(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # as called
        """Say nothing aloud of clients that are slow or gone, which is theirs; the rest is ours."""
        if isinstance(error := sys.exc_info()[1], OSError):
            log.debug("no answer over HTTP", extra={"error": str(error)})
        else:
            log.exception("internal error", extra={"stage": "http"})

    def server_close(self) -> None:
        """Hang up on all."""
        super().server_close()
        with self._lock:
            threads = list(self._open.values())
        self._hang_up(MAX_CONNECTIONS)
        for thread in threads:
            thread.join(_SEND_S)

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # as `socketserver` does in its own thread
            self.handle_error(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            del self._open[request]
        self.shutdown_request(request)
        self._free.release()

    def _hang_up(self, count: int) -> None:
        """End what the threads of the oldest connections wait for."""
        with self._lock:  # none is closed meanwhile, and its number given to another
            for request in list(self._open)[:count]:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # gone already


class _Handler(BaseHTTPRequestHandler):
    """Reads one request, and answers it."""

    server: _Server
    timeout = _SEND_S

    def handle(self) -> None:
        """Answer what came; a client that says nothing gets nothing."""
        head = self._head()
        self.rfile.close()
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if len(head) > MAX_HEAD_BYTES:
            self.requestline, self.request_version, self.command = "", self.protocol_version, ""
            self._send(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        elif head and self.parse_request():
            self._reply()

    def _reply(self) -> None:
        if self.command not in {"GET", "HEAD"}:
            self._send(_refusal(HTTPStatus.METHOD_NOT_ALLOWED))
            return
        answer = self.server.answer(self.path.partition("?")[0])
        self._send(_refusal(HTTPStatus.NOT_FOUND) if answer is None else answer)

    def _head(self) -> bytes:
        """Return what comes until an empty line, at most a little more than is allowed.

        Raises:
            OSError: If it does not come in time.
        """
        clock, connection = self.server.clock, self.connection
        until_s, head = clock.monotonic_s() + HEAD_S, b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_HEAD_BYTES:
            if (left_s := until_s - clock.monotonic_s()) <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
            if not (more := connection.recv(4096)):
                return b""
            head += more
        connection.settimeout(_SEND_S)
        return head

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  # they repeat what was asked
        """Refuse what is no request; called by `parse_request`."""
        self.command, self.request_version = self.command or "", self.protocol_version
        self._send(_refusal(HTTPStatus(code)))

    def version_string(self) -> str:
        """Tell no versions."""
        return "prismlink"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as called
        """Say nothing: what is asked is not ours."""
