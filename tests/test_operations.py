"""The manual of operations names what there is: tests, metrics, alerts, words of the log, pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from fakes.monitoring import alerts, known_metrics
from fakes.processes import ROOT

PAGE: Final = ROOT / "docs" / "operations.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
PROOF: Final = "What shows it"
"""The section that names the test of every other one."""


def sections() -> list[str]:
    """The manual's headings, in order, but for the last."""
    found = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert found.pop() == PROOF
    return found


def proofs() -> list[tuple[str, str]]:
    """Rows of the last table: section, empty where it is that of the row before, and test."""
    _, _, table = TEXT.partition(f"## {PROOF}")
    return re.findall(r"^\| ([^|`-]*?) ?\| `([^`]+)` \|$", table, re.MULTILINE)


def strings_of(folder: Path) -> set[str]:
    """Every text in the sources below a folder."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_night_is_in_the_order_of_a_service() -> None:
    """From installation to removal; what happens by itself is in between."""
    order = sections()
    assert order[:8] == [
        *("Install", "Settings", "Start", "Watch", "Health", "Commands"),
        *("Update a model", "Roll back"),
    ]
    assert order[-3:] == ["Stop", "Exit statuses", "Uninstall"]


def test_every_section_has_a_test_that_is_there() -> None:
    """In the order of the sections; a test that was renamed would leave a procedure untried."""
    assert [section for section, _ in proofs() if section] == sections()
    lacking = []
    for _, proof in proofs():
        name, _, function = proof.partition("::")
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        if function not in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}:
            lacking.append(proof)

    assert lacking == []


def test_only_what_is_told_is_named() -> None:
    """Metrics and alerts that do not exist would be looked for in vain."""
    named = re.findall(r"`(prismlink_[a-z_]+|Prismlink[A-Z]\w+)", TEXT)

    assert len(named) > 30
    assert set(named) <= known_metrics() | {rule["alert"] for rule in alerts()}


def test_a_night_begins_at_the_table() -> None:
    """Every alert that a section knows leads there from the top of the page."""
    table, _, rest = TEXT.partition("## Install")
    told = {text: set(re.findall(r"`(Prismlink[A-Z]\w+)", text)) for text in (table, rest)}

    assert told[rest] - told[table] == set()


def test_the_log_has_the_words_of_the_manual() -> None:
    """Whoever searches the journal for them finds them."""
    said = strings_of(ROOT / "daemon")
    words = re.findall(r"log: `([^`]+)`", TEXT)

    assert len(words) > 10
    assert [word for word in words if not any(one.startswith(word) for one in said)] == []


@pytest.mark.parametrize(
    ("page", "anchor"), re.findall(r"\]\(([\w.-]*)#?([\w-]*)\)", TEXT), ids=str
)
def test_links_lead_somewhere(page: str, anchor: str) -> None:
    """To a page that is there, and to a heading of it."""
    target = PAGE.parent / page if page else PAGE

    assert target.is_file()
    assert not anchor or anchor in anchors(target)
