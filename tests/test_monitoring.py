"""Alerts, their cases, their page of docs, and the dashboard agree, and Prometheus takes them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Final

import pytest
import yaml

from codec.speeds import FASTEST
from fakes.monitoring import (
    GPU_ONLY,
    alerts,
    dashboard_expressions,
    known_metrics,
    names,
    needs_gpu,
    panels,
    selectors,
    told,
)
from fakes.processes import DEPLOY, ROOT

PAGE: Final = ROOT / "docs" / "monitoring.md"


@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(words: tuple[str, ...], requires_tool: Callable[[str], str]) -> None:
    """Settings and rules are sound, and each alert fires and is quiet when it should."""
    run = [requires_tool("promtool"), *words]
    done = subprocess.run(run, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """A rule without both may never fire, or always."""
    cases = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fires: set[str] = set()
    quiet: set[str] = set()
    for check in (check for case in cases for check in case["promql_expr_test"]):
        (name,) = re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}', check["expr"])
        (fires if check["exp_samples"] else quiet).add(name)

    assert fires == quiet == {rule["alert"] for rule in alerts()}


def test_every_alert_says_what_to_do() -> None:
    """Whoever is woken has a name of our own, how bad it is, what it is, and one line of remedy."""
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["alert"].startswith("Prismlink")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        for text in (rule["annotations"]["summary"], rule["annotations"]["runbook"]):
            assert text.endswith(".")
            assert "\n" not in text


def test_no_remedy_is_at_its_end_already() -> None:
    """Tiles that wait are encoded as fast as can be unasked: who is to raise that looks first."""
    remedies = [rule["annotations"]["runbook"] for rule in alerts()]
    faster = [text for text in remedies if "raise model.speed" in text.lower()]

    assert len(faster) == 2
    assert all(f"where prismlink_encoding_speed is below {FASTEST}" in text for text in faster)


def test_the_page_has_every_alert_as_it_is() -> None:
    """The table of docs/monitoring.md is the rules' own words, in their order."""
    rows = re.findall(r"^\| `(Prismlink\w+)` \|.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [
        f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['annotations']['summary']} "
        f"| {rule['annotations']['runbook']} |"
        for rule in alerts()
    ]

    assert rows == [rule["alert"] for rule in alerts()]
    assert [line for line in lines if line not in PAGE.read_text(encoding="utf-8")] == []


def test_every_panel_is_explained() -> None:
    """A panel has a title, a description and a unit; its lines have names; none is twice."""
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_only_metrics_that_exist_are_asked_for() -> None:
    """A metric that was renamed would leave a panel empty, and an alert quiet for ever."""
    known = {"up", *known_metrics()}
    asked = [*dashboard_expressions(), *(rule["expr"] for rule in alerts())]

    assert {name for text in asked for name in names(text)} - known == set()


def test_what_only_gpus_tell_stands_alone() -> None:
    """The end-to-end test takes no answer for one there: all that is excepted is of GPUs alone."""
    asked = [*dashboard_expressions(), *(rule["expr"] for rule in alerts())]
    excepted = [text for text in asked if needs_gpu(text)]

    assert {name for text in excepted for name in names(text)} == GPU_ONLY
    assert sum(rule["expr"] in excepted for rule in alerts()) == 3


def test_expressions_are_taken_apart() -> None:
    """What the end-to-end test asks of an expression: nothing it names is left out."""
    text = 'rate(prismlink_a_total{b="c", d!~"e|f"}[5m]) > 0.5 * prismlink_g and up == 0'

    assert selectors(text) == {
        *("prismlink_a_total", "prismlink_g", "up"),
        *(f"prismlink_a_total{{{matcher}}}" for matcher in ('b=~"c"', 'd=~"e"', 'd=~"f"')),
    }
    assert " > bool 0.5 * prismlink_g and up == bool 0" in told(text)
