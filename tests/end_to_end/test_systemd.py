"""Board and ground as systemd starts them, with the environment of their units."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from codec.bundle import load_bundle
from codec.known_answer import answered
from daemon.errors import EXIT_CONFIG
from daemon.link.sockets import TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import DEPLOY, PATIENCE_S, ROOT, Desk, Process, towards, until
from fakes.systemd import FakeSystemd

WATCHDOG_S = 6.0
"""Of these tests: a machine that is busy with other things keeps a stage waiting for seconds."""


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[FakeSystemd]:
    """Hears what one process says."""
    with FakeSystemd(tmp_path / "notify") as listening:
        yield listening


def as_unit(side: str, systemd: FakeSystemd, folder: Path) -> dict[str, Any]:
    """What systemd gives the process of a unit, with folders that this test may write."""
    text = (DEPLOY / f"prismlink-{side}.service").read_text(encoding="utf-8")
    environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    del environment["NUMBA_CACHE_DIR"]  # compiled is here already, beside the source
    environment |= {
        "STATE_DIRECTORY": str(folder),
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    return {"env": environment}


def show(sender: TileSender, *sequences: int, scene: str = "s") -> None:
    """Send tiles of two patches with these numbers."""
    for sequence in sequences:
        tile = fake_tile(bands=6, rows=128, cols=256, scene=scene, sequence=sequence)
        assert sender.send(TileMessage.pack(tile), PATIENCE_S)


def asked(process: Process, path: str) -> tuple[int, Any]:
    """Status and answer of a process that is ready."""
    address = process.events("ready")[0]["metrics"]
    try:
        with urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def aborted(process: Process) -> str:
    """Do to a process what systemd's watchdog does; return what it left."""
    process._process.send_signal(signal.SIGABRT)
    assert process._process.wait(PATIENCE_S) == -signal.SIGABRT
    return process.log


def test_a_board_lives_with_systemd(
    desk: Desk, small_bundle: Path, tmp_path: Path, systemd: FakeSystemd
) -> None:
    """Ready after loading, alive under load and with a ground away, and stopping with a drain."""
    spool = ("spool.kind=disk", f"spool.directory={tmp_path / 'spool'}")
    patient = "mailboxes.tiles.max_items=1000"  # a machine may be busy with other things as well
    flight = desk.flight(small_bundle, *spool, patient, **as_unit("flight", systemd, tmp_path))
    flight.until_ready()
    until(lambda: "READY=1" in systemd.lines, "READY")
    before = systemd.lines[: systemd.lines.index("READY=1")]
    assert "STATUS=loading the model" in before
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)
    assert "WATCHDOG=1" not in before

    with TileSender(towards(desk.tiles)) as sender:
        shown, enough = 0, systemd.pings + 4
        while systemd.pings < enough:  # more than a period, and nobody takes a packet
            show(sender, shown)
            shown += 1
            time.sleep(0.1)  # what a board is too slow for, it drops
        flight.until_metrics(lambda n: n.total("tiles_received_total") == shown, "all tiles")
    assert asked(flight, "/healthz") == (200, {"alive": True, "hung": []})
    assert asked(flight, "/readyz") == (200, {"ready": True, "phase": "ready"})
    flown = flight.stop()

    assert systemd.lines.count("READY=1") == systemd.lines.count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in systemd.lines[systemd.lines.index("STOPPING=1") :]
    assert any(re.fullmatch(r"STATUS=\d+ packets wait for the link", s) for s in systemd.lines)
    assert flown.total("patches_encoded_total") == 2 * shown
    assert flown.total("dropped_patches_total") == 0
    assert "stage hangs" not in flight.log


def test_a_board_that_hangs_is_ended_and_says_where(
    desk: Desk, small_bundle: Path, tmp_path: Path, systemd: FakeSystemd
) -> None:
    """Pings stop, the log names the stage, and the stacks its function."""
    given = as_unit("flight", systemd, tmp_path)
    flight = desk.flight(small_bundle, module="fakes.hangs", **given).until_ready()
    until(lambda: systemd.pings > 1, "pings")
    with TileSender(towards(desk.tiles)) as sender:
        show(sender, 0, scene="hang")
        until(lambda: flight.events("stage hangs"), "the stage in the log")
        pings = systemd.pings
        until(lambda: "STATUS=hung: patches" in systemd.lines, "its name in the status")
        assert asked(flight, "/healthz") == (503, {"alive": False, "hung": ["patches"]})
        show(sender, 1)
        flight.until_metrics(lambda n: n.total("tiles_received_total") == 2, "another tile")
    assert [event["stage"] for event in flight.events("stage hangs")] == ["patches"]
    left = aborted(flight)

    assert systemd.pings == pings
    assert "Fatal Python error: Aborted" in left
    assert "in hang_for_ever" in left


def test_a_ground_lives_and_hangs_likewise(
    desk: Desk, small_bundle: Path, tmp_path: Path, systemd: FakeSystemd
) -> None:
    """It tells what it wrote; hung, it is silent, and its stacks name the function."""
    given = as_unit("ground", systemd, tmp_path)
    ground = desk.ground(small_bundle, "output.format=npy", module="fakes.hangs", **given)
    ground.until_ready()
    until(lambda: "READY=1" in systemd.lines, "READY")
    assert "STATUS=loading the models" in systemd.lines[: systemd.lines.index("READY=1")]
    desk.flight(small_bundle).until_ready()
    with TileSender(towards(desk.tiles)) as sender:
        show(sender, 0)
        until(lambda: "STATUS=1 tiles written" in systemd.lines, "a tile in the status")
        show(sender, 1, scene="hang")
        until(lambda: ground.events("stage hangs"), "the stage in the log")
    pings = systemd.pings
    assert asked(ground, "/healthz") == (503, {"alive": False, "hung": ["mosaic"]})
    assert [event["stage"] for event in ground.events("stage hangs")] == ["mosaic"]
    assert "in hang_for_ever" in aborted(ground)
    assert systemd.pings == pings


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_model_that_answers_wrongly_is_never_ready(
    side: str, desk: Desk, small_bundle: Path, tmp_path: Path, systemd: FakeSystemd
) -> None:
    """The self-test comes before READY: status 78, which the unit does not start again."""
    bundle = answered(load_bundle(small_bundle))
    other = {**bundle.known_answer, "frames": bundle.known_answer["frames"][::-1]}
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(replace(bundle, known_answer=other).to_bytes())
    process = getattr(desk, side)(broken, **as_unit(side, systemd, tmp_path))
    assert process._process.wait(PATIENCE_S) == EXIT_CONFIG

    assert any(line.startswith("STATUS=loading the model") for line in systemd.lines)
    assert "READY=1" not in systemd.lines


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_process_answers_before_it_is_ready(
    side: str, desk: Desk, small_bundle: Path, tmp_path: Path, systemd: FakeSystemd
) -> None:
    """While the model is loaded, which here never ends, it is alive, and says what it waits for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = as_unit(side, systemd, tmp_path)
    loading = f"loading the model{'s' if side == 'ground' else ''}"
    words = [side, "run", DEPLOY / f"{side}.yaml", "--set", f"metrics.port={port}"]
    process = desk.start(side, *words, module="fakes.loads_for_ever", **given)

    def answer(path: str) -> tuple[int, Any] | None:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as said:
                return said.status, json.load(said)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            if not process.runs:
                raise
            return None  # not even begun

    until(lambda: answer("/readyz") == (503, {"ready": False, "phase": loading}), "its answer")
    assert answer("/healthz") == (200, {"alive": True, "hung": []})
    assert "READY=1" not in systemd.lines
