"""Who is let in, by which name, and what every answer says."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie

import pytest

from daemon.ground.web.access import COOKIE, HEADERS, Access
from fakes.web import Answer, Site

TOKEN = b"c0ffee" * 8
Open = Callable[..., Site]


def test_answers_say_that_browsers_shall_be_careful(site: Site) -> None:
    """All of them, the refusals as well."""
    for answer in (site.get("/"), site.get("/nothing"), site.get("/", host="evil.example")):
        assert answer.headers.items() >= HEADERS.items()
        assert "server" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:47180", "127.0.0.1:9", "[::1]:47180", "LOCALHOST"]
)
def test_loopback_has_names(site: Site, host: str) -> None:
    """With any port: a tunnel may have another one."""
    assert site.get("/", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:47180", "localhost.evil.example", "127.0.0.2", "", "x:y"]
)
def test_other_names_are_not_answered(site: Site, host: str) -> None:
    """So no other site gets at the page by having its own name point here (DNS rebinding)."""
    for path in ("/", "/api/state", "/api/events", "/static/app.js"):
        assert site.get(path, host=host).status == 421


def test_a_name_can_be_given(open_site: Open) -> None:
    """For a proxy; those of loopback stay."""
    site = open_site(hosts=("ground.example",))
    assert site.get("/", host="ground.example").status == 200
    assert site.get("/", host="localhost").status == 200
    assert site.get("/", host="other.example").status == 421


def test_beyond_loopback_any_name_will_do_unless_some_are_given() -> None:
    """There the token keeps strangers out."""
    assert Access(TOKEN, (), is_local=False).knows_host("anything.example:80")
    assert not Access(TOKEN, ("a.example",), is_local=False).knows_host("b.example")


def test_without_the_token_nothing_is_shown(open_site: Open) -> None:
    """But the form that asks for it, and what that is drawn with."""
    site = open_site(token=TOKEN)
    for path in ("/api/state", "/api/events", "/api/tiles/0123456789abcdef", "/products/x",
                 "/static/app.js", "/nothing"):  # fmt: skip
        assert site.get(path).status == 401, path
    answer = site.get("/")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    for path in ("/login", "/static/style.css", "/static/icon.svg"):
        assert site.get(path).status == 200, path


def test_programs_show_it_in_a_header(open_site: Open) -> None:
    """The whole of it, and nothing else."""
    site = open_site(token=TOKEN)
    text = TOKEN.decode()
    assert site.get("/api/state", authorization=f"Bearer {text}").status == 200
    for wrong in ("", "Bearer", "Bearer ", f"Bearer {text[:-1]}", f"Bearer {text}0",
                  f"Basic {text}", "Bearer \xe9"):  # fmt: skip
        assert site.get("/api/state", authorization=wrong).status == 401, wrong


def check_lets_in(site: Site, answer: Answer) -> None:
    """An answer gives a cookie that scripts cannot read and other sites cannot use."""
    assert (answer.status, answer.headers["location"]) == (303, "/")
    morsel = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert morsel["httponly"]
    assert morsel["samesite"] == "strict"
    assert TOKEN.decode() not in answer.headers["set-cookie"]
    assert site.get("/", cookie=f"other=1; {COOKIE}={morsel.value}").status == 200
    for wrong in (morsel.value[:-1], TOKEN.decode(), ""):
        assert site.get("/api/state", cookie=f"{COOKIE}={wrong}").status == 401


def test_browsers_get_a_cookie_for_it(open_site: Open) -> None:
    """By the form, or by an address, from which it vanishes at once."""
    site = open_site(token=TOKEN)
    form = b"token=" + TOKEN
    check_lets_in(site, site.ask("POST", "/login", form))
    check_lets_in(site, site.get(f"/?token={TOKEN.decode()}"))


def test_a_wrong_token_lets_nobody_in(open_site: Open) -> None:
    """Whatever it looks like."""
    site = open_site(token=TOKEN)
    for form in (b"", b"token=", b"token=" + TOKEN[:-1], b"other=" + TOKEN, b"\xff\xfe=%00"):
        answer = site.ask("POST", "/login", form)
        assert (answer.status, answer.headers["location"]) == (303, "/login?wrong"), form
        assert "set-cookie" not in answer.headers
    assert site.get("/?token=wrong").status == 401


def test_a_form_without_end_is_not_read(open_site: Open) -> None:
    """It is refused once it is longer than any token."""
    site = open_site(token=TOKEN)
    assert site.ask("POST", "/login", b"token=" + b"x" * 100_000).status == 413


def test_without_a_token_there_is_no_form(site: Site) -> None:
    """Whoever reaches the page sees it."""
    assert site.get("/login").headers["location"] == "/"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    """There is nothing but looking."""
    for path in ("/", "/api/state", "/products/x"):
        answer = site.ask(method, path, b"")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "target",
    [
        "/products/../ground.yaml", "/products/..%2fground.yaml", "/products/%2e%2e/x",
        "//etc/passwd", "/static/..%5capp.py", "/products/x%00.tif", "/products/.hidden",
        "/static/../app.py", "/%2F", "/products/", "/static/", "/api/tiles/", "/products/a%20b",
        "/./", "*", "/static/%c0%ae%c0%ae/app.py", "/api/tiles/..", "http://127.0.0.1/etc/passwd",
    ],
)  # fmt: skip
def test_paths_are_plain(site: Site, target: str) -> None:
    """What is encoded, climbs or hides is not there, and neither is any list of files."""
    (site.folder / "ground.yaml").write_text("secret")
    (site.folder / ".hidden").write_text("secret")
    assert site.get(target).status == 404


def test_addresses_are_short(site: Site) -> None:
    """No address of ours is longer than a line."""
    assert site.get("/" + "x" * 2000).status == 414
    assert site.get("/api/state?" + "x" * 2000).status == 414
    assert site.get("/" + "x" * 100_000).status in (400, 414)


def test_a_request_without_end_is_cut_off(site: Site) -> None:
    """Long before it could fill any memory."""
    with site.connect() as connection, pytest.raises(OSError):  # noqa: PT011, PT012
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(10_000):
            connection.sendall(b"x: " + b"y" * 10_000 + b"\r\n")
    assert site.get("/").status == 200
    assert site.errors == []
