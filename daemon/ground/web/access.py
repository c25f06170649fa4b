"""Who may see the page: names it is asked for by, a token, and what every answer says to browsers.

Two things are kept out. Other machines, which need the token: a header of programs, or a cookie
that browsers get for it and scripts cannot read. And other sites in a browser on this machine, who
can make it ask for anything under their own name (DNS rebinding): names that are not ours are
refused.
Paths hold nothing but plain characters, so there is nothing to be decoded, and nothing to climb.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "prismlink"
LOGIN: Final = "/login"
WRONG: Final = "wrong"
"""The query by which the form is asked for again."""
OPEN_PATHS: Final = (LOGIN, "/static/style.css", "/static/icon.svg")
"""What is shown without a token."""

MAX_FORM_BYTES: Final = 4096
_MAX_TARGET_BYTES: Final = 1024
_WRONG_S: Final = 1.0
"""What an answer to a wrong token waits [s]."""
_PATH: Final = re.compile(rb"/|(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer."""


class Access:
    """What a visitor must show.

    Args:
        token: The token; None: nothing.
        hosts: Names the page may be asked for by, beside those of loopback; empty where it is not
            local: any, for there the token keeps strangers out.
        is_local: Whether it listens on loopback.
    """

    def __init__(self, token: bytes | None, hosts: Iterable[str], *, is_local: bool) -> None:
        self._token = token
        named = frozenset(hosts)
        self._hosts = named | _LOOPBACK if named or is_local else None
        # Not the token itself: who steals a cookie has none for the programs' header.
        self._cookie = None if token is None else hmac.digest(token, b"cookie", "sha256").hex()

    @property
    def asks_for_token(self) -> bool:
        """Whether there is one."""
        return self._token is not None

    def knows_host(self, host: str) -> bool:
        """Whether a `Host` header, with a port or without, has a name of ours."""
        name = re.sub(r":\d{1,5}$", "", host.lower())
        return self._hosts is None or name in self._hosts

    def is_token(self, text: str) -> bool:
        """Whether a text is the token; takes the same time whatever it is."""
        return self._token is not None and hmac.compare_digest(text.encode(), self._token)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request may see the page."""
        if self._token is None or self._cookie is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(
            morsel.value.encode(), self._cookie.encode()
        )

    def let_in(self) -> Response:
        """The answer to the right token: to the page, with a cookie."""
        answer = RedirectResponse("/", status_code=303)
        if self._cookie is not None:
            answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict", path="/")
        return answer


class Guard:
    """Stands before an application and lets pass what may.

    Args:
        app: The application.
        access: What a visitor must show.
        on_error: Told that the application failed; the server logs why.
    """

    def __init__(self, app: ASGIApp, access: Access, on_error: Callable[[], object]) -> None:
        self._app, self._access, self._on_error = app, access, on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.encode() not in told
                ]
                if b"cache-control" not in told:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            refusal = self._refusal(scope) or await self._admission(scope)
            await (refusal or self._app)(scope, receive, send_guarded)
        except Exception:
            self._on_error()
            raise

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to what is no request of ours, whoever asks."""
        headers, path = Headers(scope=scope), scope["raw_path"]
        if len(path) + len(scope["query_string"]) > _MAX_TARGET_BYTES:
            return _text(414, "the address is too long")
        if len(headers.getlist("host")) != 1 or not self._access.knows_host(headers["host"]):
            return _text(421, "not by this name; the setting web.hosts lists those that are ours")
        if _PATH.fullmatch(path) is None:
            return _text(404, "nothing here")
        allowed = ("GET", "HEAD", "POST") if path == LOGIN.encode() else ("GET", "HEAD")
        if scope["method"] not in allowed:
            return Response(status_code=405, headers={"allow": ", ".join(allowed)})
        return None

    async def _admission(self, scope: Scope) -> Response | None:
        """The answer to who has shown nothing that lets in."""
        if self._access.admits(Headers(scope=scope)) or scope["path"] in OPEN_PATHS:
            return None
        if scope["path"] != "/":
            return _text(401, "needs the token")
        token = _token_in(scope["query_string"])
        if not token:
            return RedirectResponse(LOGIN, status_code=303)
        if self._access.is_token(token):
            return self._access.let_in()
        await asyncio.sleep(_WRONG_S)
        return _text(401, "not the token")


async def log_in(request: Request, access: Access) -> Response:
    """Take the form with the token."""
    form = b""
    try:
        async for chunk in request.stream():
            form += chunk
            if len(form) > MAX_FORM_BYTES:
                return _text(413, "the form is too long", close=True)
    except ClientDisconnect:  # closed, or cut off for taking too long; nobody reads the answer
        return _text(408, "the form did not come")
    if access.is_token(_token_in(form).strip()):
        return access.let_in()
    await asyncio.sleep(_WRONG_S)
    return RedirectResponse(f"{LOGIN}?{WRONG}", status_code=303)


def _token_in(form: bytes) -> str:
    """What a query or a form gives as token; nothing where it is none of ours."""
    try:
        return parse_qs(form.decode("ascii"), max_num_fields=4).get("token", [""])[0]
    except ValueError:
        return ""


def _text(status: int, text: str, *, close: bool = False) -> Response:
    headers = {"connection": "close"} if close else None
    return PlainTextResponse(f"{text}\n", status_code=status, headers=headers)
