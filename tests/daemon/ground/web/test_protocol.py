"""Connections that do not get on are closed, and so are those that are too many."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from daemon.ground.web import protocol
from daemon.ground.web.tile_view import TileView
from fakes import cubes
from fakes.processes import until
from fakes.web import Site


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the server at once; else its clock goes as ever.

    To be asked for before the page: while that is open its clock must not go back.
    """
    ahead_s = 0.0

    def advance(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s += seconds

    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _: time.monotonic() + ahead_s)
    return advance


def until_read(site: Site) -> None:
    """Return once the server has read what it was sent: another visitor is answered after that."""
    assert site.get("/login").status in (200, 303)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has hung up."""
    try:
        return connection.recv(1 << 16) == b""
    except ConnectionError:
        return True


def is_reset(connection: socket.socket) -> bool:
    """Whether the other end has given up, seen without taking anything."""
    waits = select.poll()
    waits.register(connection, 0)  # errors and hang-ups are told anyway
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waits.poll(0))


def test_there_are_so_many_connections(site: Site) -> None:
    """One too many is closed without an answer; once others go, new ones come in."""
    held = [site.connect() for _ in range(protocol.MAX_CONNECTIONS)]
    with site.connect() as more:
        assert is_closed(more)
    for connection in held:
        connection.close()

    def answers() -> bool:
        try:
            return site.get("/").status == 200
        except OSError:
            return False

    until(answers, "an answer")


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_asks_nothing_is_cut_off(
    pass_time: Callable[[float], None], site: Site, begun: bytes
) -> None:
    """Having connected is no reason to be kept; nor is the beginning of a request."""
    with site.connect() as connection:
        connection.sendall(begun)
        until_read(site)
        pass_time(protocol.REQUEST_S)
        assert is_closed(connection)


def test_who_asks_for_more_slowly_is_cut_off(
    pass_time: Callable[[float], None], site: Site
) -> None:
    """The second request has a deadline, too."""
    with site.connect() as connection:
        connection.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 303")
        connection.sendall(b"GET / HTTP/1.1\r\n")
        until_read(site)
        pass_time(protocol.REQUEST_S)
        assert is_closed(connection)


def test_who_does_not_send_its_form_is_cut_off(
    pass_time: Callable[[float], None], open_site: Callable[..., Site]
) -> None:
    """The beginning of a form is no request either; and that it ends there is no error of ours."""
    site = open_site(token=b"0123456789abcdef0123456789abcdef")
    with site.connect() as connection:
        connection.sendall(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\ntok"
        )
        until_read(site)
        pass_time(protocol.REQUEST_S)
        assert is_closed(connection)
    assert site.get("/login").status == 200
    assert not site.errors


def test_events_have_no_deadline(pass_time: Callable[[float], None], site: Site) -> None:
    """A request that was whole is answered as long as it takes."""
    with site.stream() as connection, connection.makefile("rb") as file:
        for _ in range(3):
            while not file.readline().startswith(b"data: "):
                pass
            pass_time(protocol.REQUEST_S)
            site.show()


def test_who_takes_nothing_is_cut_off(
    pass_time: Callable[[float], None], open_site: Callable[..., Site]
) -> None:
    """What waits for it would be held for ever; those that take it in their time get all."""
    site = open_site(max_bytes=1 << 26)
    tile = cubes.tile(bands=3, rows=1024, cols=1024, materials=2)
    view: TileView = site.write(tile)
    site.show(view)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", site.port))
        connection.sendall(
            f"GET /products/{view.file} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        connection.settimeout(30.0)
        got = len(connection.recv(1024))

        def cut_off() -> bool:
            pass_time(protocol.STALL_S)  # the server may have stopped writing only now
            return is_reset(connection)

        until(cut_off, "the end of patience")
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 20):  # what was on its way already
                got += len(piece)
    assert got < tile.samples.nbytes
    assert len(site.get(f"/products/{view.file}").body) > tile.samples.nbytes
