"""The helpers in conftest.py keep their word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

NO_SUCH_TOOL = "prismlink-no-such-tool"


def test_a_tool_that_is_there_is_found(requires_tool: Callable[[str], str]) -> None:
    """A present tool is given back as a path."""
    assert Path(requires_tool("sh")).is_file()


@pytest.mark.parametrize(
    ("ci", "outcome"), [("1", Failed), ("", Skipped)], ids=["in CI", "elsewhere"]
)
def test_a_missing_tool_is_named(
    ci: str,
    outcome: type[BaseException],
    requires_tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing tool fails the test in CI and skips it elsewhere, by name in both."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=NO_SUCH_TOOL):
        requires_tool(NO_SUCH_TOOL)


STRAY = """
import threading

def test_leaves_a_thread():
    threading.Thread(target=threading.Event().wait, name="left-behind", daemon=True).start()

def test_ends_its_thread():
    threading.Thread(target=threading.Event().wait, args=(0.01,), name="ended").start()
"""


def test_a_stray_thread_is_named(tmp_path: Path) -> None:
    """A test that leaves a thread behind fails with the thread's name; another does not."""
    guard = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    assert "JOIN_S = 20.0" in guard
    sooner = guard.replace("JOIN_S = 20.0", "JOIN_S = 5.0")  # one of them never ends
    (tmp_path / "conftest.py").write_text(sooner, encoding="utf-8")
    (tmp_path / "test_stray.py").write_text(STRAY, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]

    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "left running: left-behind" in run.stdout
    assert "2 passed, 1 error" in run.stdout
