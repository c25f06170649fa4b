"""The section `web:` of ground.yaml: nobody else's page without a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import load_ground
from daemon.config_web import WebSettings
from daemon.errors import ConfigError

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def web(tmp_path: Path, *overrides: str) -> WebSettings:
    """The section, from the file that ships."""
    bundle = tmp_path / "any.safetensors"
    bundle.touch()
    return load_ground(DEPLOY / "ground.yaml", [f"model.bundles=[{bundle}]", *overrides]).web


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token."""
    path = tmp_path / "web.token"
    path.write_bytes(b"7" * 40 + b"\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.4.5", "::1", "localhost"])
def test_this_machine_needs_no_token(tmp_path: Path, address: str) -> None:
    """Loopback, in all its forms."""
    section = web(tmp_path, f"web.address='{address}'")
    assert section.is_local
    assert section.token is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.7.1", "2001:db8::1"])  # noqa: S104
def test_others_need_one(tmp_path: Path, token_file: Path, address: str) -> None:
    """Without it the process does not start; with one, or without a page, it does."""
    key = f"web.address='{address}'"
    with pytest.raises(ConfigError, match=f"{address} is open to other machines: set token_file"):
        web(tmp_path, key)
    section = web(tmp_path, key, f"web.token_file={token_file}")
    assert not section.is_local
    assert section.token == b"7" * 40
    assert web(tmp_path, key, "web.port=null").port is None


def test_a_token_that_everybody_may_read_is_refused(tmp_path: Path, token_file: Path) -> None:
    """As keys are."""
    token_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        web(tmp_path, f"web.token_file={token_file}")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("web.address=example.org", "should be an IP address"),
        ("web.hosts=['a:80']", "without a port"),
        ("web.hosts=['UPPER']", "in small letters"),
        ("web.hosts=['a b']", "should be a host's name"),
        ("web.token_file=/no/such", "names no file"),
        ("web.max_tiles=0", "greater than 0"),
        ("web.max_tiles=100000", "less than or equal"),
        (
            "web.passes=[{opens: 2026-11-26T10:15:00Z, closes: 2026-11-26T10:10:00Z}]",
            "a pass must close after it opens",
        ),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, override: str, problem: str) -> None:
    """With what would be right."""
    with pytest.raises(ConfigError, match=problem):
        web(tmp_path, override)


def test_the_plan_is_known_or_not(tmp_path: Path) -> None:
    """Without passes nothing is known; with them a pass has the link's rate, or its own."""
    assert web(tmp_path).plan is None
    plan = web(
        tmp_path,
        "web.kbit_per_s=300",
        "web.passes=[{opens: 2026-11-26T10:00:00Z, closes: 2026-11-26T10:10:00Z}, "
        "{opens: 2026-11-26T12:00:00Z, closes: 2026-11-26T12:10:00Z, kbit_per_s: 50}]",
    ).plan
    assert plan is not None
    assert [one.bits_per_s for one in plan.ahead(0.0, 3)] == [3e5, 5e4]
