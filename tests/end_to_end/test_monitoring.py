"""A real Prometheus scrapes both processes under load: all that is asked of it has an answer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from daemon.link.sockets import TileSender
from fakes.instrument import Instrument
from fakes.models import STRANGER, put_model, write_key
from fakes.monitoring import alerts, dashboard_expressions, needs_gpu, selectors, told
from fakes.processes import DEPLOY, PATIENCE_S, Desk, Process, towards, until


class Prometheus:
    """A server that runs."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, path: str, **words: str) -> Any:
        """Return what its API says.

        Raises:
            ValueError: If it refuses; names the question.
        """
        try:
            with urlopen(
                f"http://{self._address}/api/v1/{path}?{urlencode(words)}", timeout=30
            ) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise ValueError(f"{words}: {error.read().decode()}") from None

    def is_empty(self, expression: str) -> bool:
        """Whether an expression has no value now."""
        return not self.ask("query", query=expression)["result"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        found = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def is_ready(self) -> bool:
        """Whether it takes questions."""
        try:
            with urlopen(f"http://{self._address}/-/ready", timeout=30):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(program: str, directory: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Run a server with the settings of deploy/, but for where processes are and how often."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    directory.mkdir()
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(DEPLOY / "alerts.yml", directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = (
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, *words], stdout=log, stderr=subprocess.STDOUT)
    try:
        server = Prometheus(address)
        until(server.is_ready, "Prometheus")
        yield server
    finally:
        process.kill()
        process.wait()
        print((directory / "log").read_text(encoding="utf-8")[-2000:])


def address_of(process: Process) -> str:
    """Where a process answers Prometheus."""
    return str(process.events("ready")[0]["metrics"])


def exposition(process: Process) -> bytes:
    """What it answers."""
    with urlopen(f"http://{address_of(process)}/metrics", timeout=PATIENCE_S) as answer:
        return bytes(answer.read())


def test_all_that_is_asked_has_an_answer(
    desk: Desk, small_bundle: Path, tmp_path: Path, requires_tool: Callable[[str], str]
) -> None:
    """No expression of dashboard or alerts is empty or an error, every value they name is there.

    Both ends pass `promtool check metrics`. Nothing fires on account of a message that is a tile;
    the first one that is none makes its alert fire, and so does a model that nobody trusted signed.
    """
    models = tmp_path / "models"
    models.mkdir(mode=0o750)
    uplink = f"{desk.link}-up"
    ground = desk.ground(
        small_bundle,
        f"link.uplink={{address: '{uplink}', report_s: 0.2}}",
        f"archive.directory={tmp_path / 'archive'}",
        "output.format=npy",
    ).until_ready()
    flight = desk.flight(
        small_bundle,
        f"link.uplink={{address: '{uplink}', beacon_s: 0.2}}",
        *("model.quality_every=1", "model.self_test_s=1.0"),
        f"model.store.directory={models}",
        f"model.store.trusted_keys=[{write_key(tmp_path / 'key.pem')}]",
        *("spool.kind=disk", f"spool.directory={tmp_path / 'spool'}"),
    ).until_ready()
    targets = {"prismlink-flight": address_of(flight), "prismlink-ground": address_of(ground)}
    instrument = Instrument(desk.tiles)
    try:
        with prometheus(requires_tool("prometheus"), tmp_path / "prometheus", targets) as server:
            until(
                lambda: not server.is_empty("rate(prismlink_tiles_written_total[10s]) > 0"),
                "tiles that Prometheus knows of",
            )
            until(
                lambda: not server.is_empty("prismlink_quality_checked_total > 0"),
                "patches that were decoded on board",
            )
            until(
                lambda: not server.is_empty('prismlink_model_tests_total{result="passed"} > 0'),
                "tests of the model at work",
            )
            check_expressions(server)
            for process in (flight, ground):
                check_metrics(requires_tool("promtool"), exposition(process))

            refused, distrusted = "PrismlinkTileMessagesRefused", "PrismlinkModelRefused"
            assert {refused, distrusted}.isdisjoint(server.firing())
            put_model(models, 1, STRANGER)
            until(lambda: distrusted in server.firing(), distrusted)
            with TileSender(towards(desk.tiles)) as sender:
                assert sender.send([b"no tile"], PATIENCE_S)
            until(lambda: refused in server.firing(), refused)
    finally:
        instrument.stop()


def check_expressions(server: Prometheus) -> None:
    """Evaluate all expressions, and the selectors in them; those of GPUs may have no answer."""
    rules = [rule["expr"] for rule in alerts()]
    asked = [*dashboard_expressions(), *map(told, rules)]
    for expression in filter(needs_gpu, asked):
        server.is_empty(expression)  # raises where it is none
    expressions = [expression for expression in asked if not needs_gpu(expression)]

    empty: list[str] = []

    def answered() -> bool:
        empty[:] = [expression for expression in expressions if server.is_empty(expression)]
        return not empty

    with suppress(TimeoutError):  # a rate needs two samples, and one that is new has none at first
        until(answered, "answers")
    assert empty == []
    named = {selector for text in expressions for selector in selectors(text)}
    assert [selector for selector in sorted(named) if server.is_empty(selector)] == []
    groups = server.ask("rules")["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys((rule["alert"] for rule in alerts()), "ok")


def check_metrics(promtool: str, text: bytes) -> None:
    """Let promtool judge names, units and help texts."""
    run = [promtool, "check", "metrics"]
    done = subprocess.run(run, input=text, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
