"""The server begins and ends as the process does."""

from __future__ import annotations

import socket
import threading

import pytest
from starlette.responses import PlainTextResponse

from daemon.errors import AddressError
from daemon.ground.web.server import WebServer
from daemon.ground.web.streams import Streams
from fakes.web import Site, Visitor


def server(port: int = 0) -> WebServer:
    """One that answers anything."""

    def no_bulletin() -> None:
        raise RuntimeError

    return WebServer(
        PlainTextResponse("here"),
        Streams(no_bulletin, 1),  # type: ignore[arg-type]  # nobody asks for events
        "127.0.0.1",
        port,
    )


def test_a_port_in_use_is_an_error_with_its_address() -> None:
    """Before anything of the process runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}: .*in use"):
            server(port)


def test_its_port_is_free_once_it_is_closed() -> None:
    """For the next one, at once; and no thread is left."""
    first = server()
    first.start()
    assert Visitor(first.port).get("/").body == b"here"
    first.close()
    second = server(first.port)
    second.start()
    assert Visitor(second.port).get("/").body == b"here"
    second.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "web-server"]


def test_one_that_never_began_can_be_closed() -> None:
    """As when another part of the process could not be opened."""
    made = server()
    made.close()
    server(made.port).close()


def test_pages_that_are_open_do_not_hold_up_the_end(site: Site) -> None:
    """Their events end, whole."""
    connection = site.stream()
    with connection, connection.makefile("rb") as file:
        while not file.readline().startswith(b"data: "):
            pass
        idle = site.connect()
        closing = threading.Thread(target=site.close)
        closing.start()
        rest = file.read()
        closing.join()
        idle.close()
    assert rest.endswith(b"0\r\n\r\n")  # the last of its chunks
