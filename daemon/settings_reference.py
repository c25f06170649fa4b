"""docs/settings.md, made of the models: `python -m daemon.settings_reference > docs/settings.md`.

What a key means stands in the docstring of its section, and nowhere else; types, bounds and
defaults are what the models check.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.config import FlightSettings, GroundSettings
from daemon.config_sections import Section

FILES: Final[Mapping[str, type[Section]]] = {
    "flight.yaml": FlightSettings,
    "ground.yaml": GroundSettings,
}
"""What is described, and the model of each."""

_HEAD: Final = """# Settings

Every key of both settings files, made of the models that check them; after a change run
`python -m daemon.settings_reference > docs/settings.md`. `check-config` says what is wrong with a
file, and `--set SECTION.KEY=VALUE` wins over it. Relative paths start at the folder of the file.
Settings are read at the start alone.
"""

_WORDS: Final = {"boolean": "true or false", "date-time": "time", "string": "text"}
"""For types of JSON Schema that are not called what people call them."""


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the reference.

    Attributes:
        name: As it stands in the file.
        kind: Type and bounds, in words.
        default: As in the file; "required": there is none.
        meaning: From the docstring; empty: it has none.
    """

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """A section of a settings file.

    Attributes:
        path: Keys from the top, joined by dots; empty: the file itself.
        text: What the section is, in Markdown.
        keys: Its own, without those of sections in it.
    """

    path: str
    text: str
    keys: tuple[Key, ...]


def tables(model: type[Section], path: str = "", told: str = "") -> Iterator[Table]:
    """Describe a section and all in it, in the order of the file.

    Args:
        model: The section.
        path: Its keys from the top.
        told: What the section around it says of it.
    """
    schema = model.model_json_schema()
    required, known = schema.get("required", ()), schema.get("$defs", {})
    text, meanings = _documented(model)
    keys: list[Key] = []
    inside: list[tuple[type[Section], str, str]] = []
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        section = _section_of(field.annotation)
        if section is not None:
            inside.append((section, f"{path}.{name}".lstrip("."), meanings.get(attribute, "")))
        if section is not field.annotation:
            given = schema["properties"][name]
            default = "required" if name in required else f"`{json.dumps(given['default'])}`"
            keys.append(Key(name, _kind(given, known), default, meanings.get(attribute, "")))
    yield Table(path, f"{told} {text}".strip(), tuple(keys))
    for section, where, told_here in inside:
        yield from tables(section, where, told_here)


def reference() -> str:
    """The page."""
    parts = [_HEAD]
    for file, model in FILES.items():
        for table in tables(model):
            parts.append(f"### {table.path}\n\n{table.text}\n" if table.path else f"## {file}\n")
            if table.keys:
                rows = (
                    f"| `{k.name}` | {k.kind} | {k.default} | {k.meaning} |" for k in table.keys
                )
                lines = ("| key | type | default | meaning |", "|---|---|---|---|", *rows)
                parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds, or may hold, or holds several of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = map(_section_of, getattr(annotation, "__args__", ()))
    return next((section for section in found if section is not None), None)


def _documented(model: type[Section]) -> tuple[str, dict[str, str]]:
    """What a section's docstring says of it, and it and those it is made of of their keys."""
    meanings: dict[str, str] = {}
    for kind in reversed(model.__mro__[: model.__mro__.index(Section)]):
        _, _, listed = _split(kind)
        for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
            meanings[name] = " ".join(meaning.split()).replace("|", r"\|")
    before, after, _ = _split(model)
    return f"{before}\n\n{after}".strip(), meanings


def _split(model: type[Section]) -> tuple[str, str, str]:
    """A docstring's text before its attributes, after them, and the attributes."""
    before, _, rest = (inspect.cleandoc(model.__doc__ or "")).partition("\n\nAttributes:\n")
    listed, _, after = rest.partition("\n\n")
    return before, after, listed


def _kind(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A type of JSON Schema, in words."""
    schema = known.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if options := schema.get("anyOf"):
        others = [_kind(one, known) for one in options if one.get("type") != "null"]
        return f"{' or '.join(others)}, or null"
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    kind: str = schema["type"]
    if kind == "object":
        return "a section"
    if kind == "array":
        least = schema.get("minItems")
        return f"list of: {_kind(schema['items'], known)}" + (f"; at least {least}" * bool(least))
    kind = schema.get("format", kind)
    return _WORDS.get(kind, kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None and schema["type"] == "integer":
        low, above = above + 1, None
    if above is not None:
        return f" above {above:g}" + (f", to {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low:,g} to {high:,g}" if high < 10**6 else f", {low:g} to {high:g}"
    return "" if low is None else f", from {low:g}"


if __name__ == "__main__":
    sys.stdout.write(reference())
