"""The locked list is whole, fits pyproject.toml, names no place, and is what the script takes."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
INSTALL: Final = ROOT / "deploy" / "install.sh"
PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: Final = PYPROJECT["project"]
WANTED: Final = [
    *PROJECT["dependencies"],
    *PROJECT["optional-dependencies"]["ground"],
    *PROJECT["optional-dependencies"]["gpu"],
]
FOR: Final = {
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}
"""The machine that the list is for, as markers have it."""


def pinned(text: str) -> dict[str, tuple[Version, list[str]]]:
    """Every distribution of a list: its version and its hashes."""
    lines = re.findall(r"^([a-z0-9][a-z0-9-]*)==(\S+)((?: \\\n    --hash=\S+)*)$", text, re.M)
    return {name: (Version(pin), re.findall(r"--hash=(\S+)", rest)) for name, pin, rest in lines}


def test_nothing_but_pins_is_in_the_list() -> None:
    """No place that packages come from, no other file, no option; what it is for stands on top."""
    entries = re.sub(r" \\\n    --hash=sha256:[0-9a-f]{64}(?![0-9a-f])", "", LOCK).splitlines()
    rest = [line for line in entries if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[\w.]+", line)]

    assert all(line.startswith("# ") for line in rest)
    assert entries[: len(rest)] == rest
    assert "Python 3.11 on Linux x86_64" in " ".join(rest)
    assert not re.search(r"://|index|\bwww\b", LOCK)


def test_every_pin_has_a_hash() -> None:
    """One without would be installed whatever it is; SHA-256 is what there is."""
    assert pinned(LOCK)
    assert [name for name, (_, hashes) in pinned(LOCK).items() if not hashes] == []
    assert len(pinned(LOCK)) == len(re.findall(r"^[^#\s]", LOCK, re.M))


def test_all_that_is_wanted_is_pinned_within_its_bounds() -> None:
    """Of flight, ground and GPU numbers; and what builds the checkout, which is not fetched."""
    pins = pinned(LOCK)
    for text in (*WANTED, *PYPROJECT["build-system"]["requires"]):
        requirement = Requirement(text)
        version, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text


def test_what_these_bring_is_pinned_too() -> None:
    """As far as the versions here know what they bring; pip would refuse a list with a gap."""
    pins, missing, done = pinned(LOCK), set[str](), set[str]()
    todo = [Requirement(text) for text in WANTED]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if name in done and not requirement.extras:
            continue
        done.add(name)
        if name not in pins:
            missing.add(name)
        try:
            brought = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        todo += [
            one
            for one in brought
            if one.marker is None
            or any(one.marker.evaluate(FOR | {"extra": extra}) for extra in extras)
        ]

    assert len(done) > len(WANTED)
    assert missing == set()


def program_part(script: str) -> str:
    """The part of install.sh that makes the environment."""
    (part,) = re.findall(r"^# -+ the program\n(.*?)^# -+ the user$", script, re.M | re.S)
    return str(part)


@pytest.mark.parametrize("wheel", ["", "/x/prismlink.whl"])
def test_the_script_installs_what_the_list_has_and_no_more(tmp_path: Path, wheel: str) -> None:
    """Packages by their hashes and not built here; then prismlink alone, from no index."""
    opt, told = tmp_path / "opt" / "prismlink", tmp_path / "told"
    (opt / "bin").mkdir(parents=True)
    (opt / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" >> {told}\n', encoding="utf-8")
    (opt / "bin" / "python").chmod(0o755)
    given = f"root={tmp_path} venv= wheel={wheel} python=false locked=yes opt={opt} here=/here"
    script = f"set -euo pipefail; {given}\n{program_part(INSTALL.read_text(encoding='utf-8'))}"
    subprocess.run(["bash", "-c", script], check=True)
    first, second = told.read_text(encoding="utf-8").splitlines()

    assert first == (
        "-m pip install --require-hashes --only-binary :all: -r /here/requirements.lock"
    )
    assert second == (
        "-m pip install --no-deps --no-index --no-build-isolation --force-reinstall "
        f"{wheel or '/here/..'}"
    )


def test_a_gap_is_seen() -> None:
    """The reader of the list tells a pin without hashes, and takes no other line for one."""
    text = "a==1.0 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\nb==2\n# c==3\n--index-url x\n"

    assert pinned(text) == {
        "a": (Version("1.0"), ["sha256:ab", "sha256:cd"]),
        "b": (Version("2"), []),
    }
