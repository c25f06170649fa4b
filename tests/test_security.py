"""docs/security.md names tests that exist; nothing in our sources runs what came in."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel

from daemon.config import FlightSettings, GroundSettings
from daemon.config_sections import MailboxSettings
from daemon.mailbox import Mailbox

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PACKAGES: Final = ("codec", "daemon", "training")
RULES: Final = {
    *("S102", "S307"),  # exec, eval
    *("S301", "S302", "S506"),  # pickle and what wraps it, marshal, yaml.load
    *("S306", "S602", "S604", "S605"),  # mktemp, shells
}
"""What of ruff's rules this project relies on."""
KNOWN: Final = {
    ("daemon/settings_file.py", "S506"),  # its loader is a SafeLoader
    ("daemon/demo.py", "S603"),  # our own command
    *(("training/bundles.py", code) for code in ("S603", "S607")),  # git, of fixed words
}
"""Lines that are let off a rule of ruff's, and why."""
UNPICKLERS: Final = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}


# ---------------------------------------------------------------- the table of threats


def rows(page: str) -> list[list[str]]:
    """The fields of each row of the table under Threats."""
    _, _, section = page.partition("## Threats\n")
    section = section.partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[field.strip() for field in line.strip("|").split(" | ")] for line in lines[1:]]


@cache
def functions(file: Path) -> set[str]:
    """Names of the test functions of a file; none where there is no such file."""
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named_tests(text: str) -> list[tuple[str, str]]:
    """File and function of each test that a text names."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def not_there(text: str) -> list[str]:
    """The tests a text names that there are not."""
    return [
        f"{file}::{name}" for file, name in named_tests(text) if name not in functions(ROOT / file)
    ]


def test_every_threat_has_tests_that_exist() -> None:
    """A row without one says what somebody hoped; a test that was renamed shows nothing."""
    table = rows(PAGE)

    assert len(table) > 30
    assert [row for row in table if len(row) != 4 or not all(row[1:])] == []
    assert [row for row in table if not named_tests(row[3])] == []
    assert not_there(PAGE) == []


def test_a_test_that_is_not_there_is_seen() -> None:
    """In no file, or by no such name; other words in a row are no tests."""
    text = "`tests/test_security.py::test_none`, `tests/none.py::test_x`, `tests/test_docs.py`, x"
    assert not_there(text) == ["tests/test_security.py::test_none", "tests/none.py::test_x"]
    assert rows("## Threats\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Next\n| 3 | 4 |\n") == [
        ["1", "2"]
    ]


# ---------------------------------------------------------------- what runs what came in


def sources() -> Iterator[tuple[str, str]]:
    """Path and text of every module we ship."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def offences(tree: ast.AST) -> list[str]:
    """What unpickles, of what ruff does not look for."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in UNPICKLERS]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNPICKLERS:
                found.append(module)
            case ast.Call(func=ast.Attribute(attr="read_pickle" | "to_pickle" as name)):
                found.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load" as name)):
                found.append(f"torch.{name}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load")) if (
                not _is_safe(node)
            ):
                found.append("np.load")
    return found


def _is_safe(call: ast.Call) -> bool:
    return any(
        word.arg == "allow_pickle"
        and isinstance(word.value, ast.Constant)
        and word.value.value is False
        for word in call.keywords
    )


def test_nothing_runs_what_came_in() -> None:
    """Ruff's rules are on for all we ship, and of what it does not know there is nothing."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    lint = ruff["lint"]
    let_off = {
        code
        for files, codes in lint["per-file-ignores"].items()
        if not files.startswith("tests/")
        for code in codes
    }
    assert "S" in lint["select"]
    assert [code for code in RULES if code.startswith((*lint["ignore"], *let_off))] == []
    assert "exclude" not in ruff
    assert {path: offences(ast.parse(text)) for path, text in sources()} == {
        path: [] for path, _ in sources()
    }


def test_exceptions_from_the_rules_are_known() -> None:
    """A line that is let off says so, and is on the list; a whole file never is."""
    found = {
        (path, code)
        for path, text in sources()
        for codes in re.findall(r"# noqa: ?([A-Z0-9, ]+)", text)
        for code in re.findall(r"\bS\d{3}\b", codes)
    }
    assert found == KNOWN
    assert [path for path, text in sources() if re.search(r"ruff: noqa|# noqa(?!:)", text)] == []


@pytest.mark.parametrize(
    ("line", "offence"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("np.load(path)", "np.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("pandas.read_pickle(path)", "read_pickle"),
        ("np.load(path, allow_pickle=False)", None),
        ("json.load(file)", None),
    ],
)
def test_an_offence_is_seen(line: str, offence: str | None) -> None:
    """Each of them, and nothing that is sound."""
    assert offences(ast.parse(line)) == ([] if offence is None else [offence])


def test_text_of_a_crs_has_one_door() -> None:
    """GDAL opens what such a text names; `codec.crs` takes numbers and WKT alone."""
    doors = {path for path, text in sources() if re.search(r"\bfrom_(user_input|string)\(", text)}

    assert doors == {"codec/crs.py"}


def test_only_these_modules_read_the_environment() -> None:
    """What changes with it is systemd's; settings are in the file that says so."""
    readers = {path for path, text in sources() if re.search(r"\benviron\b|\bgetenv\b", text)}

    assert {path for path in readers if not path.startswith("training/")} == {
        *("daemon/log.py", "daemon/process.py"),
    }


# ---------------------------------------------------------------- what waits


def mailboxes(model: type[BaseModel]) -> Iterator[tuple[str, type[MailboxSettings]]]:
    """Key and settings of every mailbox."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, MailboxSettings):
            yield name, kind
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((f"{name}.{key}", found) for key, found in mailboxes(kind))


@pytest.mark.parametrize("settings", [FlightSettings, GroundSettings])
def test_every_mailbox_is_bounded(settings: type[BaseModel]) -> None:
    """In items and in bytes, by settings that cannot be nothing, zero or less."""
    found = dict(mailboxes(settings))
    assert len(found) == 5
    for name, kind in found.items():
        for key in ("max_items", "max_mib"):
            for value in (None, 0, -1, float("inf")):
                with pytest.raises(ValueError, match=key):
                    kind(**{key: value})
        assert kind().max_bytes > 0, name


def test_no_mailbox_is_made_without_bounds() -> None:
    """Whoever makes one has to say how many items and bytes it holds."""
    parameters = signature(Mailbox).parameters

    assert all(parameters[key].default is Parameter.empty for key in ("max_items", "max_bytes"))
    for key in ("max_items", "max_bytes"):
        assert "None" not in str(parameters[key].annotation)
