"""Server-sent events: each visitor gets what changed since the last, as fast as it can be taken.

Nothing is queued. A stream looks at the bulletin every so often and sends what its visitor has not
seen; while that is on its way it does not look. So a slow visitor misses moments and no change, and
costs one message of memory; one that takes nothing at all is cut off: `daemon.ground.web.protocol`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from daemon.ground.web.answers import leaving
from daemon.ground.web.watch import Bulletin

LOOK_S: Final = 0.5
"""Time between two looks [s]."""


class Streams:
    """The streams that are open.

    Args:
        bulletin: Gives the latest.
        max_streams: Most at a time; more are refused with status 503.

    Attributes:
        open: How many there are.
        ending: Set to end them all.
    """

    def __init__(self, bulletin: Callable[[], Bulletin], max_streams: int) -> None:
        self._bulletin, self._max_streams = bulletin, max_streams
        self.open, self.ending = 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the visitor leaves."""
        if self.open >= self._max_streams:
            refusal = PlainTextResponse(
                "too many pages are open\n", status_code=503, headers={"retry-after": "10"}
            )
            await refusal(scope, receive, send)
            return
        self.open += 1
        gone = asyncio.ensure_future(leaving(receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream"),
                        (b"x-accel-buffering", b"no"),
                    ],
                }
            )
            await self._tell(send, gone)
        finally:
            self.open -= 1
            gone.cancel()

    async def _tell(self, send: Send, gone: asyncio.Future[None]) -> None:
        seen, passes_seen = -1, -1
        last: Bulletin | None = None
        while not (gone.done() or self.ending):
            bulletin = self._bulletin()
            if bulletin is not last:
                text = json.dumps(bulletin.to_json(seen, passes_seen), separators=(",", ":"))
                await send(_body(f"data: {text}\n\n".encode()))
                last, seen, passes_seen = bulletin, bulletin.version, bulletin.passes_version
            await asyncio.wait((gone,), timeout=LOOK_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _body(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
