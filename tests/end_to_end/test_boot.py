"""A machine that systemd boots: installed from a wheel, watched, stopped, and emptied again.

One machine for all tests here, in their order; none but the last needs one before it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import pytest

from codec.quality import measure
from codec.tile_files import read_tile
from daemon.errors import EXIT_CONFIG
from fakes.accounts import check_flight
from fakes.booted import TOOLS, Booted, CannotBootError
from fakes.processes import DEPLOY, ROOT, Numbers, until
from fakes.services import CUBES, FLIGHT, GROUND, INSTALL, METRICS, PRISMLINK, PYTHON, Installed
from fakes.wheels import DEPENDENCIES, build_wheel, rebuild_wheel

LAST: Final = "/var/lib/prismlink/flight/last.json"
SCENES: Final = "/srv/tests/data/hyspecnet-11k"

FUSE: Final = ("10", "229")
"""A device that every kernel here has, and everybody may open."""
WATCHDOG_S: Final = 5
"""Of the test in which a stage hangs."""

MADE_BY_OTHERS: Final = re.compile(
    r"/var/log/|/var/lib/systemd/|/var/tmp/systemd-private-|/etc/(passwd|group|g?shadow)-$"
)
"""Logs, what systemd keeps for itself, and the copies that useradd and userdel leave."""


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
    requires_tool: Callable[[str], str],
    absent: Callable[[str], NoReturn],
) -> Iterator[Installed]:
    """A machine of which /usr is this one's and nothing else, with prismlink from a wheel."""
    for tool in TOOLS:
        requires_tool(tool)
    if os.geteuid():
        absent("this test needs root, to boot a machine")
    folder = tmp_path_factory.mktemp("boot")
    wheel = build_wheel(folder / "wheel")
    seen = {
        "/srv/deploy": DEPLOY,
        "/srv/tests": ROOT / "tests",
        "/srv/wheel": wheel.parent,
        "/srv/packages": DEPENDENCIES,
    }
    try:
        with Booted(folder / "machine", seen) as machine:
            yield Installed(machine, wheel)
    except CannotBootError as error:
        absent(f"this machine boots no other one: {error}")


def ended(facts: dict[str, str]) -> tuple[str, str, str]:
    """How a unit ended."""
    return facts["ActiveState"], facts["Result"], facts["ExecMainStatus"]


def test_board_and_ground_run_as_services(installed: Installed) -> None:
    """Enabled, ready, each in its sandbox as its user, with keys that systemd hands on.

    Tiles of an instrument come out as cubes on the ground, sealed on their way.
    """
    machine = installed.machine
    machine.run("mknod", "--mode=666", "/dev/probe", "c", *FUSE)
    machine.run("sh", "-c", ": </dev/probe")  # open to all but the unit, which names devices
    machine.path("/srv/probe.py").write_bytes((ROOT / "tests/fakes/probe.py").read_bytes())
    probe = f"[Service]\nExecStartPre={PYTHON} -I /srv/probe.py /var/lib/prismlink/flight\n"
    installed.edit(FLIGHT, "probe", probe)
    machine.run("systemctl", "enable", FLIGHT, GROUND)
    installed.start(FLIGHT, GROUND)
    for unit in METRICS:
        keys = ("Type", "User", "ActiveState", "SubState", "NRestarts", "UnitFileState")
        assert machine.show(unit, *keys) == dict(
            zip(keys, ("notify", "prismlink", "active", "running", "0", "enabled"), strict=True)
        )
        check_confined(machine, machine.show(unit, "MainPID")["MainPID"])
    (line,) = [line for line in machine.journal(FLIGHT).splitlines() if line.startswith('{"write')]
    assert json.loads(line) == {
        **dict.fromkeys(("write /usr", "write /etc", "write /opt", "write /var/lib"), "EROFS"),
        **dict.fromkeys(("write the state", "remove from the state"), "done"),
        **dict.fromkeys(("write the cache", "remove from the cache"), "done"),
        **dict.fromkeys(("read the settings", "udp"), "done"),
        **dict.fromkeys(("list keys", "list /root"), "EACCES"),
        **dict.fromkeys(("namespace", "mount", "become root"), "EPERM"),
        **dict.fromkeys(("set the host's name", "open a device"), "EPERM"),
        "see systemd": "ENOENT",
        "packets of any kind": "EAFNOSUPPORT",
    }
    installed.edit(FLIGHT, "probe", "")
    assert compiled(machine), "nothing was compiled into /var/cache/prismlink"

    assert installed.feed(SCENES, "--repeat", 3, "--rate", 0)["tiles"] == 3
    installed.until_written(3)
    landed = installed.numbers(GROUND)
    assert landed.total("packets_received_total") > 0
    assert landed.total("packets_refused_total") == landed.total("insecure") == 0
    (scene,) = (ROOT / "tests/data/hyspecnet-11k").rglob("*-SPECTRAL_IMAGE.TIF")
    for manifest in installed.manifests():
        assert not manifest["patches_missing"]
        cube = read_tile(machine.path(CUBES) / str(manifest["file"]))
        assert measure(read_tile(scene), cube).psnr_db > 40
    # What systemd hands on is there only while the unit runs.
    keys = "/etc/prismlink/keys"
    own = (f"security.curve_secret_key={keys}/curve.secret", f"security.seal_key={keys}/seal.key")
    sets = [word for value in own for word in ("--set", value)]
    cache = {"NUMBA_CACHE_DIR": "/var/cache/prismlink"}
    machine.run(PRISMLINK, "flight", "check-config", "/etc/prismlink/flight.yaml", *sets, env=cache)


def check_confined(machine: Booted, pid: str) -> None:
    """The kernel has of a process what its unit says."""
    text = machine.run("cat", f"/proc/{pid}/status").stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    user = machine.run("id", "--user", "prismlink").stdout.strip()
    assert set(status["Uid"].split()) == {user} != {"0"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name


def compiled(machine: Booted) -> set[str]:
    """What is in Numba's cache."""
    return {path.name for path in machine.path("/var/cache/prismlink").rglob("*.nbc")}


def test_a_stop_under_load_loses_nothing(installed: Installed) -> None:
    """`systemctl stop` in a stream: status 0 in time, all accounts even.

    What was accepted is in a cube once the board has been started again, which compiles nothing.
    """
    machine = installed.machine
    report = f"[Service]\nExecStart=\nExecStart={PRISMLINK} flight run /etc/prismlink/flight.yaml"
    installed.edit(FLIGHT, "report", f"{report} --json {LAST}\n")
    installed.start(GROUND)
    machine.run("systemctl", "restart", FLIGHT)
    known = compiled(machine)
    written = installed.written()
    load = (PRISMLINK, "feed", SCENES, "--rate", "1", "--repeat", "100000")
    machine.run("systemd-run", "--unit=instrument", *load)
    installed.until_numbers(FLIGHT, lambda n: n.total("tiles_received_total") > 10, "a stream")
    installed.stop(FLIGHT)
    # SIGTERM would have it wait 15 s for a listener.
    machine.run("systemctl", "kill", "--signal=KILL", "instrument")

    assert ended(machine.show(FLIGHT)) == ("inactive", "success", "0")
    assert "stopped late=none packets_left=0" in machine.journal(FLIGHT)
    flown = Numbers(json.loads(machine.path(LAST).read_text(encoding="utf-8")))
    check_flight(flown)
    assert flown.total("stages_late") == flown.total("spool_dropped_packets_total") == 0
    accepted = flown.total("tiles_received_total") - flown.total("dropped_tiles_total")
    assert accepted > 0

    installed.start(FLIGHT)
    installed.until_numbers(
        FLIGHT,
        lambda n: not n.total("spool_packets") + n.total("spool_kept_frames"),
        "all acknowledged",
    )
    installed.until_written(written + accepted)
    assert not any(manifest["patches_missing"] for manifest in installed.manifests())
    assert compiled(machine) == known
    installed.stop(GROUND)
    assert ended(machine.show(GROUND)) == ("inactive", "success", "0")
    installed.edit(FLIGHT, "report", "")


def test_a_machine_without_power_comes_back(installed: Installed) -> None:
    """It boots both services by itself, and what had not come down by then does."""
    machine, tiles = installed.machine, 10
    machine.run("systemctl", "enable", FLIGHT, GROUND)
    installed.stop(FLIGHT, GROUND)
    installed.start(FLIGHT)
    installed.feed(SCENES, "--repeat", tiles)
    installed.until_numbers(
        FLIGHT, lambda n: n.total("frames_total", channel="patch") == tiles, "all on its disk"
    )
    machine.pull_plug()
    machine.boot()

    for unit in METRICS:
        facts = machine.show(unit, "ActiveState", "NRestarts")
        assert facts == {"ActiveState": "active", "NRestarts": "0"}, machine.journal(unit)
    installed.until_written(tiles)


def test_a_board_that_hangs_is_killed_and_started_again(installed: Installed) -> None:
    """By systemd's watchdog; the journal has the stage and the stacks, and the next one works."""
    machine = installed.machine
    hangs = f"{PYTHON} -m fakes.hangs flight run /etc/prismlink/flight.yaml"
    installed.stop(FLIGHT)
    installed.edit(
        FLIGHT,
        "hangs",
        f"[Service]\nWatchdogSec={WATCHDOG_S}\nEnvironment=PYTHONPATH=/srv/tests\n"
        f"ExecStart=\nExecStart={hangs}\n",
    )
    shutil.copy(ROOT / "tests/data/aviris_salton_sea.npz", machine.path("/srv/hang.npz"))
    installed.start(FLIGHT, GROUND)
    first = machine.show(FLIGHT, "MainPID", "NRestarts")
    installed.feed("/srv/hang.npz")
    until(lambda: machine.show(FLIGHT, "NRestarts") != {"NRestarts": "0"}, "another start")

    said = machine.journal(FLIGHT)
    assert re.search(r"stage hangs .*stage=patches", said)
    assert f"Watchdog timeout (limit {WATCHDOG_S}s)!" in said
    assert "Fatal Python error: Aborted" in said
    assert "in hang_for_ever" in said
    assert "Failed with result 'watchdog'" in said
    until(lambda: machine.show(FLIGHT)["ActiveState"] == "active", "the next one")
    assert machine.show(FLIGHT, "MainPID", "NRestarts") != first
    written = installed.written()
    installed.feed(SCENES, "--rate", 0)
    installed.until_written(written + 1)
    installed.edit(FLIGHT, "hangs", "")
    installed.stop(FLIGHT)


def test_a_rebuilt_wheel_replaces_the_program(installed: Installed) -> None:
    """Also where its version is that of the one before; settings, keys and models stay."""
    machine, marked = installed.machine, "IS_REBUILT = True\n"
    text = (ROOT / "daemon" / "__init__.py").read_text(encoding="utf-8")
    folder = installed.wheel.parent / "again"
    wheel = rebuild_wheel(installed.wheel, folder, "daemon/__init__.py", f"{text}{marked}".encode())

    def kept() -> dict[str, bytes]:
        folders = map(machine.path, ("/etc/prismlink", "/var/lib/prismlink/models"))
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = kept()
    said = installed.install(wheel)

    assert machine.run(PYTHON, "-c", "import daemon; print(daemon.IS_REBUILT)").stdout == "True\n"
    assert "systemctl try-restart prismlink-flight prismlink-ground" in said
    assert "kept /etc/prismlink/flight.yaml" in said
    assert kept() == before
    machine.run(PRISMLINK, "--version")


@pytest.mark.parametrize("unit", METRICS)
def test_wrong_settings_are_not_tried_again(installed: Installed, unit: str) -> None:
    """Status 78 leaves the unit stopped, with the reason in the journal; mended, it starts."""
    machine, side = installed.machine, unit.removeprefix("prismlink-").removesuffix(".service")
    path = machine.path(f"/etc/prismlink/{side}.yaml")
    right = path.read_bytes()
    path.write_bytes(right + b"unheard_of: 1\n")
    installed.stop(unit)
    assert machine.run("systemctl", "start", unit, check=False).returncode != 0
    facts = machine.show(unit)
    path.write_bytes(right)

    assert ended(facts) == ("failed", "exit-code", str(EXIT_CONFIG))
    assert (facts["NRestarts"], facts["SubState"]) == ("0", "failed")
    assert "unheard_of" in machine.journal(unit)
    installed.start(unit)


def test_what_is_removed_leaves_nothing(installed: Installed) -> None:
    """`--uninstall --purge` stops what runs, and the machine is as it was, users included."""
    machine = installed.machine
    installed.start(FLIGHT, GROUND)
    done = machine.run(INSTALL, "--uninstall", "--purge")
    assert "removed everything" in done.stdout

    shown = machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "prismlink*")
    assert shown.stdout == ""
    for name in ("fed.json", "probe.py", "hang.npz"):
        machine.path(f"/srv/{name}").unlink(missing_ok=True)
    assert changed(installed.before, machine.listing()) == {}
    assert installed.accounts() == installed.users
    assert machine.run("ls", "/run/prismlink", check=False).returncode != 0


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Files that came, went or are otherwise, but for those that others made."""
    return {
        name: (before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if after.get(name) != before.get(name) and not MADE_BY_OTHERS.match(name)
    }
