"""What the web page is told, and a visitor that says anything."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codec.tile import Tile
from codec.tile_files import write_tile
from daemon.ground.items import RestoredTile, TilePart
from daemon.ground.web.access import Access
from daemon.ground.web.kept_samples import KeptSamples
from daemon.ground.web.link_watch import LinkWatch
from daemon.ground.web.tile_view import TileView
from daemon.ground.web.watch import Bulletin
from daemon.ground.write import MANIFEST, file_stem, manifest
from fakes.ground import parts_of

PATIENCE_S: Final = 30.0
MAX_STREAMS: Final = 4
"""Of a `Site`."""


def restored(
    tile: Tile, *, missing: tuple[tuple[int, int], ...] = (), parts: list[TilePart] | None = None
) -> RestoredTile:
    """A tile as the mosaic hands it on, its samples as they were measured.

    Args:
        tile: The tile.
        missing: Patches that did not come.
        parts: Of which it was made; None: of new ones.
    """
    parts = parts_of(tile) if parts is None else parts
    return RestoredTile(
        tile=tile,
        side=parts[0].side,
        sent_as=parts[0].sent_as,
        missing=missing,
        frames=tuple(part.frame.key for part in parts),
        frame_bytes=sum(part.frame.size_bytes for part in parts),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Visitor:
    """Asks a page for things, one connection each.

    Args:
        port: Where it is, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, target: str, **headers: str) -> Answer:
        """Ask for something, just as it is written."""
        return self.ask("GET", target, b"", **headers)

    def ask(self, method: str, target: str, body: bytes, **headers: str) -> Answer:
        """Ask with any method."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, target, skip_host="host" in headers)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def stream(self) -> socket.socket:
        """A connection that has asked for events."""
        connection = self.connect()
        connection.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection


@dataclass(eq=False)
class Site(Visitor):
    """A page, asked as a visitor does.

    Attributes:
        folder: Where tiles are written.
        samples: Those in memory.
        bulletin: What visitors are told.
        errors: How often the application failed.
        close: Ends it.
    """

    folder: Path
    samples: KeptSamples
    access: Access
    bulletin: Bulletin = field(init=False)
    errors: list[None] = field(default_factory=list)
    port: int = 0
    close: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.show()

    def show(self, *views: TileView) -> None:
        """Tell visitors of these tiles."""
        link = LinkWatch(silence_s=5.0).view(now_s=0.0, utc_s=0.0)
        self.bulletin = Bulletin(
            utc_s=0.0, version=len(views), link=link, beacon=None, tiles=views, scenes={},
            passes=(), passes_version=0,
        )  # fmt: skip

    def write(
        self, tile: Tile, *, file_format: str = "npy", missing: tuple[tuple[int, int], ...] = ()
    ) -> TileView:
        """Write a tile as the ground does."""
        item = restored(tile, missing=missing)
        path = write_tile(tile, self.folder / file_stem(tile.info), file_format)
        beside = self.folder / f"{file_stem(tile.info)}{MANIFEST}"
        beside.write_text(json.dumps(manifest(item, path.name)))
        return TileView.of_manifest(beside)
