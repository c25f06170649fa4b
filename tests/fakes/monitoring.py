"""What deploy/ holds for Prometheus and Grafana, read as tests need it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from daemon import gpu
from daemon.ground.metrics import GroundMetrics
from daemon.metrics import FlightMetrics, new_registry
from fakes.processes import DEPLOY, Numbers, Process

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


def known_metrics() -> set[str]:
    """Metrics that a process of ours has, under all names that Prometheus knows them by."""
    families = [
        family
        for kind in (FlightMetrics, GroundMetrics)
        for family in kind(new_registry()).registry.collect()
    ]
    known = {*GPU_ONLY, *(family.name for family in families)}
    return known | {
        f"{f.name}_{end}" for f in families for end in ("total", "bucket", "sum", "count")
    }


def needs_gpu(expression: str) -> bool:
    """Whether it has an answer only where there is a GPU."""
    return not names(expression).isdisjoint(GPU_ONLY)


@dataclass(frozen=True, slots=True)
class Look:
    """What Prometheus would see at a moment.

    Attributes:
        numbers: Of each job; None: it does not answer.
        at_s: When [s].
    """

    numbers: Mapping[str, Numbers | None]
    at_s: float = field(default_factory=time.monotonic)

    @classmethod
    def at(cls, **processes: Process) -> Look:
        """Ask the processes of jobs, by the last word of a job's name."""
        return cls(
            {
                f"prismlink-{side}": process.metrics() if process.runs else None
                for side, process in processes.items()
            }
        )


_EVERY_S: Final = 15
_MINUTES: Final = 20
"""Longer than what any alert of these tests looks back at, and waits."""
_GO_ON: Final = ("_total", "_age_seconds")
"""What grows with time; all else stays as it was at the last look."""


def fires(promtool: str, folder: Path, alert: str, before: Look, after: Look) -> bool:
    """Whether an alert fires if all goes on as between two looks.

    Args:
        promtool: The program.
        folder: For its files.
        alert: Name of the alert.
        before: A look.
        after: A later one, with the same jobs.

    Raises:
        RuntimeError: If promtool says anything else than yes or no.
    """
    (expression,) = (rule["expr"] for rule in alerts() if rule["alert"] == alert)
    asked, share = names(expression), _EVERY_S / (after.at_s - before.at_s)
    count = _MINUTES * 60 // _EVERY_S
    series = []
    for job, numbers in after.numbers.items():
        common = f'job="{job}", instance="one"'
        series.append((f"up{{{common}}}", f"{int(numbers is not None)}x{count}"))
        earlier = before.numbers[job]
        for key, value in (numbers.samples if numbers else {}).items():
            name, _, labels = key.partition("{")
            if name in asked:
                was = earlier.samples.get(key, 0.0) if earlier else value
                step = (value - was) * share * name.endswith(_GO_ON)
                labeled = f"{name}{{{common}, {labels or '}'}"
                series.append((labeled, f"{value:.6f}{step:+.6f}x{count}"))
    question = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    case = {
        "interval": f"{_EVERY_S}s",
        "input_series": [{"series": one, "values": values} for one, values in series],
        "promql_expr_test": [
            {
                "expr": f"count({question})",
                "eval_time": f"{_MINUTES}m",
                "exp_samples": [],
            }
        ],
    }
    path = folder / f"{alert}.yml"
    rules = {"rule_files": [str(DEPLOY / "alerts.yml")], "tests": [case]}
    path.write_text(yaml.safe_dump(rules), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, check=False
    )
    if done.returncode and not re.search(r"exp: *(nil|\[\])", said := done.stdout + done.stderr):
        raise RuntimeError(said)
    return done.returncode != 0
