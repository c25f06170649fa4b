"""The HTTP endpoint: three answers, one refusal for all else, and bounds on who asks."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest

from daemon import status_server
from daemon.clock import Clock, SystemClock
from daemon.config_sections import MetricsSettings
from daemon.errors import AddressError
from daemon.health import Health
from daemon.notify import Notifier
from daemon.status_server import (
    MAX_CONNECTIONS,
    METRICS_EVERY_S,
    StatusServer,
)
from daemon.watchdog import Pulses
from fakes.clock import FakeClock
from fakes.processes import until

TEXT = b"# HELP prismlink_x X.\n# TYPE prismlink_x gauge\nprismlink_x 1.0\n"
PATIENCE_S = 60.0


class Rig:
    """An endpoint of a process that a test moves on."""

    def __init__(
        self, metrics: Callable[[], bytes] = lambda: TEXT, clock: Clock | None = None
    ) -> None:
        self.time = FakeClock()
        self.notifier = Notifier("", clock=self.time, watchdog_s=3.0)
        self.pulses = Pulses(self.time)
        health = Health(self.notifier)
        health.watch(self.pulses)
        where = MetricsSettings(port=0)
        self.server = StatusServer(metrics, health, where, clock or SystemClock())
        self.address = ("127.0.0.1", self.server.port)

    def ask(self, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
        """Ask as a client of the standard library does."""
        connection = HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def send(self, raw: bytes) -> bytes:
        """Send bytes, and no more; return all that comes."""
        with socket.create_connection(self.address, timeout=PATIENCE_S) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65_536):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """One that answers."""
    made = Rig()
    yield made
    made.server.close()


def http_threads() -> int:
    """How many threads the endpoint has."""
    return sum(thread.name == "http" for thread in threading.enumerate())


def test_metrics_are_told(rig: Rig) -> None:
    """In Prometheus's text format, whatever stands behind the question mark."""
    for path in ("/metrics", "/metrics?name[]=x"):
        response, body = rig.ask(path)
        assert (response.status, body) == (200, TEXT)
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_ready_is_told_in_one_line(rig: Rig) -> None:
    """503 and why until it takes work, 200 then, and 503 again while it ends."""
    said = []
    for step in (
        lambda: rig.notifier.loading("the model"),
        rig.notifier.ready,
        rig.notifier.stopping,
    ):
        step()
        response, body = rig.ask("/readyz")
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
        said.append((response.status, json.loads(body)))

    assert said == [
        (503, {"ready": False, "phase": "loading the model"}),
        (200, {"ready": True, "phase": "ready"}),
        (503, {"ready": False, "phase": "stopping"}),
    ]


def test_a_stage_that_hangs_is_told(rig: Rig) -> None:
    """200 while every stage passes its loop; else 503 and its name."""
    rig.pulses.begin("encode")
    response, body = rig.ask("/healthz")
    assert (response.status, json.loads(body)) == (200, {"alive": True, "hung": []})
    rig.time.advance(3.1)
    response, body = rig.ask("/healthz")
    assert (response.status, json.loads(body)) == (503, {"alive": False, "hung": ["encode"]})
    assert response.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_is_the_same_without_a_body(rig: Rig, path: str) -> None:
    """Status and headers as of GET, but for the moment."""
    (asked, body), (headed, nothing) = rig.ask(path), rig.ask(path, "HEAD")

    assert nothing == b""
    assert headed.status == asked.status
    assert int(headed.headers["Content-Length"]) == len(body)
    ignored = {"Date"}
    assert {k: v for k, v in headed.headers.items() if k not in ignored} == {
        k: v for k, v in asked.headers.items() if k not in ignored
    }


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/METRICS", "/../../etc/passwd", "/%6detrics", "*"]
)
def test_there_is_nothing_else(rig: Rig, path: str) -> None:
    """No folder, no file, no other spelling; what was asked is not repeated."""
    response, body = rig.ask(path)

    assert (response.status, body) == (404, b'{"error": "Not Found"}\n')


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_done(rig: Rig, method: str) -> None:
    """It is there to be read."""
    response, body = rig.ask("/metrics", method)

    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert body == b'{"error": "Method Not Allowed"}\n'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET /" + b"evil" * 2500 + b" HTTP/1.1\r\n\r\n", 431, id="long line"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nevil: " + b"x" * 9000, 431, id="long header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"evil: x\r\n" * 120 + b"\r\n", 431, id="many"),
        pytest.param(b"GET evil evil evil HTTP/1.1\r\n\r\n", 400, id="many words"),
        pytest.param(b"evil\r\n\r\n", 400, id="one word"),
        pytest.param(b"GET /evil HTTP/evil\r\n\r\n", 400, id="no version"),
        pytest.param(b"GET /evil HTTP/9.9\r\n\r\n", 505, id="other version"),
        pytest.param(b"\xff\xfeevil\x00\r\n\r\n", 400, id="binary"),
        pytest.param(b"\r\n\r\nevil", None, id="empty line"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: evil\r\n", None, id="unfinished"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_what_is_no_request_is_refused(rig: Rig, raw: bytes, status: int | None) -> None:
    """By its status, or by silence; nothing of it comes back, and the next one is answered."""
    answer = rig.send(raw)

    assert b"evil" not in answer
    assert b"Python" not in answer
    first = answer.partition(b"\r\n")[0]
    assert (int(first.split()[1]) if first else None) == status
    assert rig.ask("/metrics")[1] == TEXT


def test_who_says_nothing_keeps_nobody_out(rig: Rig) -> None:
    """Two hundred connections are open: a question is answered, and a few threads are all."""
    with ExitStack() as stack:
        for number in range(200):
            one = socket.create_connection(rig.address, timeout=PATIENCE_S)
            stack.callback(one.close)
            one.sendall(b"GET /metrics HTTP/1.1\r\n"[: number % 20])
            assert http_threads() < 2 * MAX_CONNECTIONS  # some have just ended
        until(
            lambda: http_threads() <= MAX_CONNECTIONS + 1, "one thread each, and one that listens"
        )
        assert rig.ask("/metrics")[1] == TEXT


def test_who_is_slow_is_hung_up_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the head has to come in time, not each byte of it."""
    monkeypatch.setattr(status_server, "HEAD_S", 0.3)
    before = http_threads()
    with socket.create_connection(rig.address, timeout=0.05) as slow:

        def gone() -> bool:
            try:
                slow.sendall(b"x")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(gone, "the end of a slow client", timeout_s=PATIENCE_S)
    until(lambda: http_threads() == before, "the end of its thread", timeout_s=PATIENCE_S)


def test_metrics_are_not_written_without_end() -> None:
    """However often they are asked for, there is a rest between two answers."""
    clock = FakeClock()
    rig = Rig(clock=clock)
    began_s = clock.monotonic_s()
    try:
        for _ in range(10):
            assert rig.ask("/metrics")[1] == TEXT
    finally:
        rig.server.close()

    assert clock.monotonic_s() - began_s == pytest.approx(9 * METRICS_EVERY_S)


def test_an_error_of_ours_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Prometheus gets no answer, the log says why, and the endpoint lives."""

    def broken() -> bytes:
        raise ZeroDivisionError("in test")

    rig = Rig(broken)
    try:
        with caplog.at_level(logging.DEBUG):
            assert rig.send(b"GET /metrics HTTP/1.1\r\n\r\n") == b""
            assert rig.ask("/healthz")[0].status == 200
            rig.send(b"GET /healthz")
    finally:
        rig.server.close()

    assert [record.getMessage() for record in caplog.records] == ["internal error"]


def test_a_system_without_threads_costs_no_connection_to_come(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while there are none is hung up on, and keeps no place for ever."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", start)
        for _ in range(MAX_CONNECTIONS + 1):
            with suppress(ConnectionError):  # it was not even read
                assert rig.send(b"") == b""
    assert rig.ask("/metrics")[1] == TEXT


def test_closing_frees_port_and_threads() -> None:
    """Who is connected is hung up on; another process can listen at once."""
    rig = Rig()
    with socket.create_connection(rig.address, timeout=PATIENCE_S) as idle:
        until(lambda: http_threads() == 2, "a thread for it", timeout_s=PATIENCE_S)
        rig.server.close()
        assert idle.recv(1) == b""
    assert http_threads() == 0
    where = MetricsSettings(port=rig.server.port)
    again = StatusServer(lambda: TEXT, Health(rig.notifier), where, SystemClock())
    again.close()


def test_a_port_in_use_is_an_error_with_its_address(rig: Rig) -> None:
    """Two daemons with one port: one line, no traceback."""
    where = MetricsSettings(port=rig.server.port)
    with pytest.raises(AddressError, match=rf"127\.0\.0\.1:{where.port}: .*in use"):
        StatusServer(lambda: TEXT, Health(rig.notifier), where, SystemClock())


def test_it_listens_where_it_is_told() -> None:
    """On IPv6 too, where the address is one; what is no address is named."""
    health = Health(Notifier("", clock=FakeClock()))
    server = StatusServer(
        lambda: TEXT, health, MetricsSettings(address="::1", port=0), SystemClock()
    )
    try:
        with socket.create_connection(("::1", server.port), timeout=PATIENCE_S):
            pass
    finally:
        server.close()
    with pytest.raises(AddressError, match=r"256\.0\.0\.1:47190: "):
        StatusServer(lambda: TEXT, health, MetricsSettings(address="256.0.0.1"), SystemClock())
