"""From a YAML file to a checked model, with errors an operator can act on."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from daemon.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES: Final = 1 << 20
"""No settings file is longer; a tile named by mistake is."""


class _Loader(yaml.SafeLoader):
    """YAML without its silence about keys that stand twice, of which the last would win.

    And without aliases: nine lines of them unfold to more than there is memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                problem="an alias is not taken here; write it out", problem_mark=mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if key.value in (other.value for other in keys[:i]):
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands here twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def load(
    path: Path | str,
    model: type[Model],
    overrides: Sequence[str] = (),
    *,
    path_keys: Collection[str] = (),
) -> Model:
    """Read a settings file.

    Args:
        path: The file.
        model: What it must hold. Validated strictly, with the context {"base": folder of the file}.
        overrides: "section.key=value" each, the value as in YAML; they win over the file.
        path_keys: Keys that hold paths. A relative path in an override starts at the working
            directory, as a shell completes it; one in the file is the model's affair.

    Raises:
        ConfigError: If the file cannot be read, or does not fit; names every problem.
    """
    path = Path(path)
    table = _read(path)
    problems = [p for p in (_override(table, text, path_keys) for text in overrides) if p]
    if problems:
        raise ConfigError(path, tuple(problems))
    try:
        # Through JSON: pydantic's strict mode then still takes a list for a tuple and a text for
        # a path, but no text for a number.
        text = json.dumps(table, default=str)
        return model.model_validate_json(text, context={"base": path.resolve().parent})
    except ValidationError as error:
        lines = (_problem(model, dict(details)) for details in error.errors(include_url=False))
        raise ConfigError(path, tuple(lines)) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(path, (f"is not a tree of settings: {error}",)) from None


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, (f"cannot be read: {error.strerror}",)) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(path, (f"is longer than {MAX_FILE_BYTES} bytes: not a settings file",))
    table = _parse(path, raw)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise ConfigError(path, ("should hold sections, each a name and a colon",))
    return table


def _parse(path: Path, raw: bytes) -> object:
    try:
        return yaml.load(raw, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(path, (f"{where}{error.problem}",)) from None
    # ValueError: a date that is none. yaml lets it through.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(path, (f"is not YAML: {str(error).splitlines()[0]}",)) from None


def _override(table: dict[Any, Any], text: str, path_keys: Collection[str]) -> str | None:
    """Put one override into the table; return what is wrong with it."""
    key, equals, raw = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        return f"--set {text}: should be like section.key=value"
    try:
        value = yaml.load(raw, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return f"--set {text}: the value is not YAML; quote it"
    if key.strip() in path_keys:
        value = _from_here(value)
    section: Any = table
    for name in names[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            return f"--set {text}: {name} is not a section"
    section[names[-1]] = value
    return None


def _from_here(value: object) -> object:
    if isinstance(value, list):
        return [_from_here(one) for one in value]
    return str(Path.cwd() / value) if isinstance(value, str) else value


def _problem(model: type[BaseModel], details: Mapping[str, Any]) -> str:
    """One line: key, value, remedy."""
    location = details["loc"]
    key = ".".join(map(str, location))
    if details["type"] == "missing":
        return f"{key}: is missing; add it"
    if details["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {remedy}"
    if details["type"] == "model_type":
        return f"{key}: should be a section with keys of its own, or be left out"
    wish = details["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    value = details["input"]
    # A problem between sections names their keys itself.
    return f"{key}: {json.dumps(value)} {wish}" if location else wish


def _known_keys(model: type[BaseModel], sections: Sequence[int | str]) -> list[str]:
    for section in sections:
        model = model.model_fields[str(section)].annotation  # type: ignore[assignment]
    return [field.alias or name for name, field in model.model_fields.items()]
