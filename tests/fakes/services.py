"""prismlink on a booted machine: installed by deploy/install.sh, run by systemd."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from fakes.booted import Booted
from fakes.processes import GET, ROOT, Numbers, until

FLIGHT: Final = "prismlink-flight.service"
GROUND: Final = "prismlink-ground.service"
PRISMLINK: Final = "/opt/prismlink/bin/prismlink"
PYTHON: Final = "/opt/prismlink/bin/python"
METRICS: Final = {FLIGHT: 47190, GROUND: 47191}
INSTALL: Final = "/srv/deploy/install.sh"
CUBES: Final = "/var/lib/prismlink/ground/cubes"

_MAKES_ENVIRONMENTS: Final = """#!/bin/sh
# What makes an environment in which pip finds all that it would load: this machine has no network.
set -e
{python} "$@"
"$3"/bin/python -m pip --quiet uninstall --yes setuptools # older than what torch needs
echo {packages} >"$(echo "$3"/lib/python*/site-packages)"/dependencies.pth
"""


class _WithoutAliases(yaml.SafeDumper):
    """Writes a value that occurs twice twice: settings take no aliases."""

    def ignore_aliases(self, _: object) -> bool:
        """Whatever it is."""
        return True


class Installed:
    """The machine, once prismlink is installed on it from a wheel, with keys for both sides.

    Args:
        machine: It; sees deploy/ in /srv/deploy, what prismlink needs in /srv/packages, and the
            wheel's folder in /srv/wheel.
        wheel: The wheel.

    Attributes:
        machine: It.
        wheel: The wheel.
        before: Its files before that, as `Booted.listing` has them.
        users: Its users and groups before that.
    """

    def __init__(self, machine: Booted, wheel: Path) -> None:
        self.machine, self.wheel = machine, wheel
        python = machine.path("/srv/python-with-packages")
        text = _MAKES_ENVIRONMENTS.format(python=machine.python, packages="/srv/packages")
        python.write_text(text, encoding="utf-8")
        python.chmod(0o755)
        self.before, self.users = machine.listing(), self.accounts()
        self.install(wheel)
        self._secure()

    def install(self, wheel: Path) -> str:
        """Run install.sh with a wheel in the first one's folder, or below; return its words."""
        seen = Path("/srv/wheel", wheel.relative_to(self.wheel.parent))
        words = ("--wheel", seen, "--python", "/srv/python-with-packages")
        return self.machine.run(INSTALL, *words, env={"PIP_NO_INDEX": "1"}).stdout

    def accounts(self) -> list[str]:
        """The users and groups that the machine knows."""
        files = [self.machine.path(f"/etc/{name}") for name in ("passwd", "group")]
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def change(self, side: str, section: str, **values: Any) -> None:
        """Put values into a section of a side's settings."""
        path = self.machine.path(f"/etc/prismlink/{side}.yaml")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings[section] |= values
        path.write_text(yaml.dump(settings, Dumper=_WithoutAliases), encoding="utf-8")

    def edit(self, unit: str, name: str, text: str) -> None:
        """Do what `systemctl edit` does; nothing is left of an empty text."""
        folder = self.machine.path(f"/etc/systemd/system/{unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.conf").write_text(text, encoding="utf-8")
        if not text:
            (folder / f"{name}.conf").unlink()
        self.machine.run("systemctl", "daemon-reload")

    def start(self, *units: str) -> None:
        """Start units, which returns once they are ready."""
        try:
            self.machine.run("systemctl", "start", *units)
        except RuntimeError as error:
            logs = "\n".join(self.machine.journal(unit)[-4_000:] for unit in units)
            raise RuntimeError(f"{error}\n{logs}") from None

    def stop(self, *units: str) -> None:
        """Stop units, which returns once they have ended."""
        self.machine.run("systemctl", "stop", *units)

    def numbers(self, unit: str) -> Numbers:
        """What Prometheus would be told."""
        url = f"http://127.0.0.1:{METRICS[unit]}/metrics"
        return Numbers.of_text(self.machine.run(PYTHON, "-IS", "-c", GET, url).stdout)

    def until_numbers(self, unit: str, condition: Callable[[Numbers], object], what: str) -> None:
        """Wait until they are so."""
        until(lambda: condition(self.numbers(unit)), f"{unit}: {what}")

    def written(self) -> float:
        """Cubes that the ground wrote since it started, those in place of older ones included."""
        return self.numbers(GROUND).total("tiles_written_total")

    def until_written(self, count: float) -> None:
        """Wait until it wrote so many."""
        until(lambda: self.written() == count, f"{count:.0f} cubes on the ground")

    def manifests(self) -> list[dict[str, Any]]:
        """What the ground wrote."""
        found = self.machine.path(CUBES).glob("*.manifest.json")
        return [json.loads(path.read_text(encoding="utf-8")) for path in found]

    def feed(self, *words: object) -> dict[str, Any]:
        """Play an instrument to its end; return its report."""
        report = self.machine.path("/srv/fed.json")
        self.machine.run(PRISMLINK, "feed", *words, "--json", "/srv/fed.json")
        fed: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return fed

    def _secure(self) -> None:
        """Do what docs/operations.md says of keys, with a pair of its own for each side."""
        etc = self.machine.path("/etc/prismlink")
        self.machine.run(PRISMLINK, "keys", "/etc/prismlink/keys-of-ground")
        text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        (edited,) = re.findall(
            r"^    \[Service\]\n(?:    LoadCredential=\S+\n)+", text, re.MULTILINE
        )
        edits = {
            FLIGHT: edited,
            GROUND: edited.replace("keys/curve.secret", "keys-of-ground/curve.secret"),
        }
        peers = {"flight": "keys-of-ground", "ground": "keys"}
        for (unit, edit), (side, peer) in zip(edits.items(), peers.items(), strict=True):
            self.edit(unit, "keys", re.sub("^    ", "", edit, flags=re.MULTILINE))
            shutil.copy(etc / peer / "curve.public", etc / f"peer-of-{side}.public")
            (etc / f"peer-of-{side}.public").chmod(0o644)
            public = [f"/etc/prismlink/peer-of-{side}.public"]
            self.change(
                side,
                "security",
                curve_secret_key=f"/run/credentials/{unit}/curve_secret",
                curve_peers={"link": public, "uplink": public},
                seal_key=f"/run/credentials/{unit}/seal_key",
                seal_state=f"/var/lib/prismlink/{side}/seal.state",
            )
