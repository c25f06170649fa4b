"""What deploy/ holds for Prometheus and Grafana, read as tests need it."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml

from daemon import gpu
from fakes.processes import DEPLOY

GPU_ONLY: Final = frozenset(
    f"prismlink_{one.name}_total" if one.counts else f"prismlink_{one.name}" for one in gpu.METRICS
)
"""The metrics that are there only where there is a GPU: all others are on every machine."""

_SELECTOR: Final = re.compile(r"\b(?:prismlink_\w+|up)\b(?:\{[^}]*\})?")
_MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def alerts() -> list[dict[str, Any]]:
    """Every rule of alerts.yml."""
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel of the dashboard that is no heading."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """Every expression of the dashboard, of all instances and short intervals."""
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    texts = [re.sub(r"\$(flight|ground)\b", ".+", text) for text in texts]
    return [text.replace("$__rate_interval", "20s") for text in texts]


def told(expression: str) -> str:
    """Make an alert's expression tell 0 or 1 where it would be empty in health.

    It is empty all the same where a metric is not there, or labels do not match.
    """
    return re.sub(r" (==|!=|<=|>=|<|>) ", r" \1 bool ", expression)


def selectors(expression: str) -> set[str]:
    """Every selector of an expression; one for each label value that is named, wanted or not."""
    found: set[str] = set()
    for selector in _SELECTOR.findall(expression):
        name, _, inside = selector.partition("{")
        found.add(name)
        for label, operator, value in _MATCHER.findall(inside):
            values = value.split("|") if "~" in operator else [value]
            found |= {f'{name}{{{label}=~"{one}"}}' for one in values}
    return found


def names(expression: str) -> set[str]:
    """Metrics that an expression asks for."""
    return {selector.partition("{")[0] for selector in selectors(expression)}


def needs_gpu(expression: str) -> bool:
    """Whether it has an answer only where there is a GPU."""
    return not names(expression).isdisjoint(GPU_ONLY)
