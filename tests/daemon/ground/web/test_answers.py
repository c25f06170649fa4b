"""Answers in pieces: to the end, or until nobody listens, and then they are over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from daemon.ground.web.answers import CutOffError, Pieces


async def pieces() -> AsyncIterator[bytes]:
    """Three."""
    for piece in (b"a", b"b", b"c"):
        yield piece


def answer(method: str, leaves_after: int = 9, fails_after: int = 9) -> tuple[bytes, int]:
    """Have it sent; return the body, and how often it was over."""
    body, over = list[bytes](), list[None]()

    async def run() -> None:
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            body.append(message.get("body", b""))
            if len(body) == leaves_after:
                gone.set()
            if len(body) == fails_after:
                raise OSError
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        made = Pieces(pieces(), 3, {"x": "y"}, lambda: over.append(None))
        await made({"type": "http", "method": method}, receive, send)

    if fails_after < 9:
        with pytest.raises(OSError):  # noqa: PT011
            asyncio.run(run())
    else:
        asyncio.run(run())
    return b"".join(body), len(over)


def test_all_comes() -> None:
    """In order."""
    assert answer("GET") == (b"abc", 1)


def test_who_asks_for_the_head_gets_no_body() -> None:
    """And none is made."""
    assert answer("HEAD") == (b"", 1)


def test_an_answer_that_is_cut_off_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """So that the server hangs up; a line says why, and it is no error of ours."""

    async def breaking() -> AsyncIterator[bytes]:
        yield b"a"
        raise CutOffError("x was replaced")

    async def receive() -> Message:
        return await asyncio.Future()

    sent, over = list[Message](), list[None]()

    async def send(message: Message) -> None:
        sent.append(message)

    made = Pieces(breaking(), None, {}, lambda: over.append(None))
    asyncio.run(made({"type": "http", "method": "GET"}, receive, send))
    assert sent[0]["headers"] == []
    assert [message["more_body"] for message in sent[1:]] == [True]
    assert [record.message for record in caplog.records] == ["answer cut off"]
    assert len(over) == 1


@pytest.mark.parametrize("after", [1, 2, 3])
def test_it_is_over_once_however_it_ends(after: int) -> None:
    """The visitor leaves, or the connection fails, at any piece."""
    assert answer("GET", leaves_after=after)[1] == 1
    assert answer("GET", fails_after=after)[1] == 1
    assert len(answer("GET", leaves_after=after)[0]) < 3
