"""The reference of settings is what the models check, and leaves no key without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from daemon.config_sections import Section
from daemon.settings_reference import FILES, Key, Table, reference, tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

UNITS = {"_s": "[s]", "_ms": "[ms]", "_mib": "[MiB]", "_bytes": "[bytes]", "_db": "[dB]"}
"""What a key's name ends in, and what its meaning then has."""


class Inner(Section):
    """Inside.

    Attributes:
        when: A choice
            in two lines.
    """

    when: Literal["now", "never"] = "now"


class Outer(Section):
    """Outside.

    Attributes:
        count: So many | of them.
        share: A part.
        inner: Around it.
        more: Several.
        text: Needed.

    And one word more.
    """

    count: Annotated[int, Field(gt=0, le=2000)] = 3
    share: Annotated[float, Field(ge=0.5)] | None = None
    inner: Inner = Inner()
    more: tuple[Inner, ...] = ()
    text: str
    as_json: Annotated[bool, Field(alias="json")] = False


def test_the_page_is_what_the_models_give() -> None:
    """Whoever changes a setting makes docs/settings.md anew, with the command that is in it."""
    assert PAGE.read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("file", FILES)
def test_nothing_goes_without_a_word(file: str) -> None:
    """Every section and key has a meaning, and every key with a unit in its name tells the unit."""
    found = list(tables(FILES[file]))
    lacking = [table.path for table in found if not table.text]
    for table in found:
        for key in table.keys:
            unit = next((u for end, u in UNITS.items() if key.name.endswith(end)), "")
            if "_per_s" in key.name:
                unit = "["
            if not key.meaning or unit not in key.meaning:
                lacking.append(f"{table.path}.{key.name}")

    assert lacking == []
    assert len(found) > 15


def test_sections_are_read_from_their_models() -> None:
    """Types, bounds, defaults, aliases, sections within; a key without a word has an empty one."""
    when = Key("when", "`now`, `never`", '`"now"`', "A choice in two lines.")
    assert list(tables(Outer)) == [
        Table(
            "",
            "Outside.\n\nAnd one word more.",
            (
                Key("count", "integer, 1 to 2,000", "`3`", r"So many \| of them."),
                Key("share", "number, from 0.5, or null", "`null`", "A part."),
                Key("more", "list of: a section", "`[]`", "Several."),
                Key("text", "text", "required", "Needed."),
                Key("json", "true or false", "`false`", ""),
            ),
        ),
        Table("inner", "Around it. Inside.", (when,)),
        Table("more", "Several. Inside.", (when,)),
    ]
