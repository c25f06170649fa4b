"""Answers that are sent in pieces, each once the one before was taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)


class CutOffError(Exception):
    """The rest of an answer cannot be sent; nobody shall take what came for all of it."""


class Pieces:
    """An answer whose body comes piece by piece; an ASGI application for one request.

    Args:
        body: The pieces.
        size_bytes: All of them together [bytes]; None: not known before.
        headers: What is said of them.
        close: Called once it is over, however it ended.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        size_bytes: int | None,
        headers: Mapping[str, str],
        close: Callable[[], object],
    ) -> None:
        self._body, self._close = body, close
        length = {} if size_bytes is None else {"content-length": str(size_bytes)}
        self._headers = {**length, **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, unless the visitor leaves."""
        gone = asyncio.ensure_future(leaving(receive))
        try:
            headers = [(name.encode(), text.encode()) for name, text in self._headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["method"] != "HEAD":
                async for piece in self._body:
                    if gone.done():
                        return
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except CutOffError as error:  # an answer that does not end has the server hang up
            log.warning("answer cut off", extra={"error": str(error)})
        finally:
            gone.cancel()
            self._close()


async def leaving(receive: Receive) -> None:
    """Wait until the visitor has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
