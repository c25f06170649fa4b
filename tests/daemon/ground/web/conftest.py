"""A page that a test holds: real requests to a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.ground.web.access import Access
from daemon.ground.web.app import WebApp
from daemon.ground.web.kept_samples import KeptSamples
from daemon.ground.web.server import WebServer
from daemon.ground.web.streams import Streams
from fakes.web import MAX_STREAMS, Site


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Opens pages; closes them."""
    opened: list[tuple[WebServer, ThreadPoolExecutor]] = []

    def make(
        *, token: bytes | None = None, hosts: tuple[str, ...] = (), is_local: bool = True,
        max_bytes: int = 1 << 22,
    ) -> Site:  # fmt: skip
        site = Site(tmp_path, KeptSamples(max_bytes), Access(token, hosts, is_local=is_local))
        readers = ThreadPoolExecutor(2, "test-read")
        streams = Streams(lambda: site.bulletin, MAX_STREAMS)
        app = WebApp(
            tmp_path,
            bulletin=lambda: site.bulletin,
            samples=site.samples,
            streams=streams,
            access=site.access,
            readers=readers,
        )
        server = WebServer(app.asgi(lambda: site.errors.append(None)), streams, "127.0.0.1", 0)
        site.port, site.close = server.port, server.close
        opened.append((server, readers))
        server.start()
        return site

    yield make
    for server, readers in opened:
        server.close()
        readers.shutdown()


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    """A page on loopback without a token."""
    return open_site()
