"""Events: what changed, to so many visitors at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from daemon.ground.web.tile_view import TileView
from fakes import cubes
from fakes.ground import parts_of
from fakes.processes import until
from fakes.web import MAX_STREAMS, Site

VIEW = TileView.of_side(parts_of(cubes.tile(bands=2, rows=8, cols=8))[0].side, (0, 0))


def events(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What comes, one by one."""
    with connection.makefile("rb") as file:
        for line in file:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def status(connection: socket.socket) -> int:
    """Of its answer."""
    return int(connection.recv(12, socket.MSG_WAITALL)[9:])


def test_all_comes_first_then_what_is_new(site: Site) -> None:
    """A visitor who has seen a tile is told of it again when it has changed."""
    site.show(VIEW)
    with site.stream() as connection:
        coming = events(connection)
        first = next(coming)
        assert [tile["id"] for tile in first["tiles"]] == first["ids"] == [VIEW.tile_id]
        site.show(VIEW)  # a moment later, with nothing new
        assert "tiles" not in next(coming)
        site.show()
        assert next(coming)["ids"] == []


def test_there_are_so_many_at_a_time(site: Site) -> None:
    """One more is refused until another ends; the page can still be asked."""
    connections = [site.stream() for _ in range(MAX_STREAMS)]
    assert [status(connection) for connection in connections] == [200] * MAX_STREAMS
    with site.stream() as more:
        assert status(more) == 503
    assert site.get("/api/state").status == 200
    connections.pop().close()

    def admitted() -> bool:
        with site.stream() as one:
            return status(one) == 200

    until(admitted, "room for one more")
    for connection in connections:
        connection.close()


def test_an_event_is_one_line(site: Site) -> None:
    """Whatever a scene is called."""
    tile = cubes.tile(bands=2, rows=8, cols=8, scene="a\n\ndata: {}\r\u2028<script>")
    site.show(TileView.of_side(parts_of(tile)[0].side, (0, 0)))
    with site.stream() as connection:
        assert next(events(connection))["tiles"][0]["scene"] == tile.info.scene
