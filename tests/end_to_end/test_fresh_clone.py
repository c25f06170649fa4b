"""A clone in a fresh folder does the whole job: nothing it needs lies outside the repository.

With the environment at hand; what installs into a new one is `make`, which CI itself runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fakes.processes import PATIENCE_S, ROOT, Desk

ABSOLUTE = re.compile(rb"(?<![\w./])/(work|home|root|tmp|Users)/\w")
"""Folders of a person or of one machine; `ipc:///…` is an address, and `./…` relative."""


@pytest.fixture
def git(requires_tool: Callable[[str], str], absent: Callable[[str], NoReturn]) -> str:
    """The program, in a checkout."""
    if not (ROOT / ".git").exists():
        absent("this test needs a git checkout")
    return requires_tool("git")


@pytest.fixture
def clone(git: str, tmp_path: Path) -> Path:
    """What is committed, alone in a folder."""
    path = tmp_path / "clone"
    subprocess.run([git, "clone", "--quiet", "--no-hardlinks", ROOT, path], check=True)
    return path


def test_the_demo_runs_from_a_clone(
    desk: Desk, clone: Path, tmp_path: Path, absent: Callable[[str], NoReturn]
) -> None:
    """`prismlink demo` needs what is committed and nothing beside it."""
    if not (clone / "deploy" / "models" / "default.safetensors").is_file():
        absent("this test needs the model that ships to be committed")
    env = {**os.environ, "PYTHONPATH": str(clone)}
    where = "import codec, daemon; print(codec.__file__, daemon.__file__)"
    python = subprocess.run(
        [sys.executable, "-c", where], cwd=clone, env=env, check=True, capture_output=True
    )
    assert all(Path(found).is_relative_to(clone) for found in python.stdout.decode().split())

    out = tmp_path / "demo"
    shown = desk.start("demo", "demo", "--out", out, cwd=clone, env=env).report(
        timeout_s=3 * PATIENCE_S
    )

    assert shown["tiles"] == len(list(out.glob("*.tif"))) == len(list(out.glob("*.png")))
    written = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True
    )
    assert written.stdout == b"", "the demo wrote into the repository"


def test_no_file_names_a_place_on_one_machine(git: str) -> None:
    """No tracked file mentions an absolute path of somebody's machine, the models included."""
    tracked = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    found = [
        f"{name}: {match.group().decode()}…"
        for name in tracked.stdout.decode().split("\0")
        if name
        and (path := ROOT / name).is_file()
        and (match := ABSOLUTE.search(path.read_bytes()))
    ]
    assert not found
