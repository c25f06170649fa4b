"""The units and what installs them: sound, hardened, fit for the settings that ship."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import pytest

from daemon.config import FlightSettings, GroundSettings, load_flight, load_ground
from daemon.config_downlink import FlightUplinkSettings
from daemon.errors import EXIT_CONFIG
from daemon.lifecycle import LAST_POLL_S
from daemon.notify import LOADING_S

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"
INSTALL: Final = DEPLOY / "install.sh"
SIDES: Final = ("flight", "ground")
VENV: Final = Path(sys.prefix)

MAX_EXPOSURE: Final = 1.5
"""Of 10, as `systemd-analyze security` has it."""
MOST_STAGES: Final = 10
GIB: Final = 1024
"""In MiB."""


def unit(side: str) -> Path:
    """The unit of a side."""
    return DEPLOY / f"prismlink-{side}.service"


def values(side: str, key: str) -> list[str]:
    """Every value of a key of a unit, in order."""
    return re.findall(rf"^{key}=(.*)$", unit(side).read_text(encoding="utf-8"), re.MULTILINE)


def settings(side: str) -> FlightSettings | GroundSettings:
    """The settings that ship."""
    path = DEPLOY / f"{side}.yaml"
    return load_flight(path) if side == "flight" else load_ground(path)


# ---------------------------------------------------------------- the units


@pytest.mark.parametrize("side", SIDES)
def test_systemd_understands_every_line(
    side: str, tmp_path: Path, requires_tool: Callable[[str], str]
) -> None:
    """No unknown key, no value of the wrong kind; the program is there once it is installed."""
    copy = tmp_path / unit(side).name
    text = unit(side).read_text(encoding="utf-8")
    assert text.count("ExecStart=/opt/prismlink/bin/prismlink ") == 1
    copy.write_text(text.replace("/opt/prismlink/bin/prismlink", "/bin/true"), encoding="utf-8")
    analyze = requires_tool("systemd-analyze")
    done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("side", SIDES)
def test_little_is_exposed(side: str, requires_tool: Callable[[str], str]) -> None:
    """What systemd can take away is taken away, but for what the daemons need."""
    done = subprocess.run(
        [requires_tool("systemd-analyze"), "security", "--offline=true", unit(side)],
        capture_output=True,
        text=True,
        check=True,
    )
    (level,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)

    assert float(level) <= MAX_EXPOSURE


@pytest.mark.parametrize("side", SIDES)
def test_a_gpu_can_be_used(side: str) -> None:
    """Devices are closed but for NVIDIA's, and compiled code may run."""
    assert values(side, "DevicePolicy") == ["closed"]
    assert values(side, "DeviceAllow") == ["char-nvidia* rw"]
    assert values(side, "PrivateDevices") == values(side, "MemoryDenyWriteExecute") == []


@pytest.mark.parametrize("side", SIDES)
def test_the_unit_fits_the_settings(side: str) -> None:
    """Longer than we do, systemd waits for the end, and does not start again what cannot work."""
    assert values(side, "RestartPreventExitStatus") == [str(EXIT_CONFIG)]
    longest_s = settings(side).shutdown_deadline_s + (MOST_STAGES + 1) * LAST_POLL_S
    assert float(values(side, "TimeoutStopSec")[0]) > longest_s
    assert float(values(side, "TimeoutStartSec")[0]) >= LOADING_S


@pytest.mark.parametrize("side", SIDES)
def test_what_may_wait_is_half_of_the_memory_at_most(side: str) -> None:
    """The limits are for what goes wrong, not for a day on which every mailbox is full."""
    made = settings(side)
    boxes = made.mailboxes
    waits_mib = sum(getattr(boxes, name).max_mib for name in type(boxes).model_fields)
    if isinstance(made, FlightSettings):
        waits_mib += max(made.spool.max_mib, made.spool.max_memory_mib)
    else:
        waits_mib += 2 * made.collect.max_mib  # frames, and patches without side information
        waits_mib += 1.5 * made.web.max_mib  # what it keeps, and what waits to be shown
    (high,) = values(side, "MemoryHigh")

    assert 2 * waits_mib <= GIB * int(high.removesuffix("G"))


@pytest.mark.parametrize("side", SIDES)
def test_what_settings_give_as_an_example_can_be_written(side: str) -> None:
    """Of all that lies under /var/lib the unit may write to its own folders alone."""
    (own,) = values(side, "StateDirectory")
    text = (DEPLOY / f"{side}.yaml").read_text(encoding="utf-8")
    named = re.findall(r"/var/lib/[\w./-]+", text)

    assert len(named) >= 3
    assert [path for path in named if not path.startswith(folders(own))] == []


def folders(own: str) -> tuple[str, ...]:
    """Where a StateDirectory is."""
    return tuple(f"/var/lib/{name}" for name in own.split())


def test_processes_that_share_an_instrument_share_nothing_else() -> None:
    """As the file's own lines start them: no port that another, or the ground, has, and no apid."""
    path = DEPLOY / "flight-shared.yaml"
    lines = re.findall(r"^# +prismlink flight run \S+ (.+)$", path.read_text(), re.MULTILINE)
    made = [load_flight(path, re.findall(r"--set (\S+)", line)) for line in lines]
    ports = [settings("ground").metrics.port, *(one.metrics.port for one in made)]
    first, *others = made
    taken = {*first.link.apids.values(), FlightUplinkSettings().housekeeping_apid}

    assert len(made) > 1
    assert len(set(ports)) == len(ports)
    assert taken.isdisjoint(one.link.apid for one in others)


# ---------------------------------------------------------------- the installation


@pytest.fixture
def install(
    tmp_path: Path, requires_tool: Callable[[str], str], absent: Callable[[str], NoReturn]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script under a root of its own, with this test's environment."""
    requires_tool("systemd-sysusers")
    if os.geteuid():
        absent("this test needs root, to make files of another user")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [INSTALL, "--root", tmp_path, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files under a root: mode, user, and what is in them."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_uid,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
        if not path.is_relative_to(root / "opt/prismlink/")
    }


def test_the_script_is_sound(requires_tool: Callable[[str], str]) -> None:
    """It, and what CI runs, give shellcheck nothing to say."""
    scripts = [INSTALL, ROOT / ".ci" / "run"]
    done = subprocess.run(
        [requires_tool("shellcheck"), *scripts], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


def test_what_is_installed_keeps_what_it_has(
    install: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Spool, archive and uplink are on, under the state directory; the settings load."""
    done = install("--venv", VENV)
    assert done.returncode == 0, done.stderr
    etc, state = tmp_path / "etc/prismlink", tmp_path / "var/lib/prismlink"
    flight = load_flight(
        etc / "flight.yaml", (f"model.bundle={state}/models/default.flight.safetensors",)
    )
    ground = load_ground(
        etc / "ground.yaml", (f"model.bundles=[{state}/models/default.safetensors]",)
    )

    assert (tmp_path / "opt/prismlink").readlink() == VENV
    for side in SIDES:
        text = (etc / f"{side}.yaml").read_text(encoding="utf-8")
        assert "/var/lib/prismlink/models/default" in text
        states = values(side, "StateDirectory")[0].split()
        assert {f"prismlink/{side}", "prismlink/models"} == set(states)
    assert (flight.spool.kind, flight.spool.directory) == (
        "disk",
        Path("/var/lib/prismlink/flight/spool"),
    )
    assert flight.link.uplink is not None
    assert ground.link.uplink is not None
    assert flight.link.uplink.address == ground.link.uplink.address
    assert ground.archive.directory == Path("/var/lib/prismlink/ground/archive")
    assert ground.output.directory == Path("/var/lib/prismlink/ground/cubes")


def test_secrets_are_nobody_elses(
    install: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Keys are root's alone, and systemd hands them on; settings are read by the daemons."""
    install("--venv", VENV)
    etc = tmp_path / "etc/prismlink"

    assert {path.name for path in (etc / "keys").iterdir()} == {
        *("curve.secret", "curve.public", "seal.key")
    }
    for path in (etc / "keys").iterdir():
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 0)
    for path in etc.glob("*.yaml"):
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o640, 0)
    assert (tmp_path / "var/lib/prismlink").stat().st_uid != 0


def test_a_second_time_changes_nothing(
    install: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Not even what was changed by hand, which is told."""
    install("--venv", VENV)
    with (tmp_path / "etc/prismlink/flight.yaml").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    before = tree(tmp_path)
    again = install("--venv", VENV)

    assert again.returncode == 0, again.stderr
    assert tree(tmp_path) == before
    assert f"kept {tmp_path}/etc/prismlink/flight.yaml" in again.stdout
    assert "ground.yaml" not in again.stdout


def test_what_is_removed_is_gone(
    install: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """What is kept is named; with --purge nothing is. The environment behind the link stays."""
    install("--venv", VENV)
    done = install("--uninstall")
    kept = {str(path) for path in (tmp_path / "etc/prismlink", tmp_path / "var/lib/prismlink")}
    named = {name for name in tree(tmp_path) if "prismlink" in name and (tmp_path / name).is_file()}
    assert all(path in done.stdout for path in kept)
    assert named
    assert all(any(str(tmp_path / name).startswith(path) for path in kept) for name in named)

    install("--uninstall", "--purge")
    assert [name for name in tree(tmp_path) if "prismlink" in name] == []
    assert "prismlink" not in (tmp_path / "etc/passwd").read_text(encoding="utf-8")
    assert (VENV / "bin" / "prismlink").exists()
    assert install("--uninstall", "--purge").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--purge",), "--purge goes with --uninstall"),
        ((), "--root needs --venv"),
        (("--venv", "/nowhere"), "/nowhere/bin/prismlink is not there"),
        (("--venv", "here"), "should be an absolute path"),
        (("--wheel",), "--wheel needs a value"),
        (("--wheel", "x", "--venv", "/y"), "exclude each other"),
        (("--locked", "--venv", str(VENV)), "--locked and --venv exclude each other"),
        (("--unheard-of",), "--unheard-of is not known"),
    ],
)
def test_wrong_words_are_told(
    install: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    """In one line, before anything is made."""
    done = install(*words)

    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
    assert tree(tmp_path) == {}
