"""The demo's judgment: what it compares, what it adds up, and what it does not let pass.

The three processes run in `tests/end_to_end`; here they are made up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from codec.quality import psnr_db
from codec.tile import Tile
from codec.tile_files import write_tile
from daemon import demo
from daemon.demo import DemoSettings
from daemon.errors import DemoError, OutputError
from daemon.ground.write import MANIFEST
from fakes import cubes

TILES = [cubes.tile(bands=4, rows=130, cols=9, sequence=i, scene=f"s{i}") for i in range(2)]


def land(tile: Tile, out: Path, missing: list[list[int]], error_dn: int = 10) -> Tile:
    """Write what the ground would: the tile, a little off, and its manifest."""
    restored = Tile(samples=tile.samples + np.int16(error_dn), info=tile.info)
    path = write_tile(restored, out / tile.info.scene, "npy")
    said = {
        "file": path.name, "sequence": tile.info.sequence, "patches_missing": missing,
        "frames": [[7, tile.info.sequence]],
    }  # fmt: skip
    (out / f"{tile.info.scene}{MANIFEST}").write_text(json.dumps(said))
    return restored


def stream(out: Path, *, decoded: int, missing: int, **flight: float) -> Any:
    """What the processes reported: two tiles of two patches each, all encoded."""
    counted = {
        "prismlink_patches_received_total": 4.0,
        "prismlink_patches_encoded_total": 4.0,
        "prismlink_packets_repeated_total": 3.0,
        'prismlink_frames_total{channel="patch"}': 4.0,
        'prismlink_stage_seconds_sum{stage="patches"}': 1.0,
        'prismlink_stage_seconds_sum{stage="encode"}': 2.0,
        'prismlink_stage_seconds_sum{stage="analyze"}': 0.8,
    }
    radio: Any = SimpleNamespace(
        packets=20,
        bytes_down=3000,
        link=SimpleNamespace(lost=2),
        frame_bytes=defaultdict(int, {(7, 0): 1000, (7, 1): 900}),
    )
    return demo._Stream(
        flight=counted | flight,
        ground={
            "prismlink_patches_decoded_total": float(decoded),
            "prismlink_patches_missing_total": float(missing),
        },
        feed={"tiles": 2, "refused": 0, "realtime_factor_enmap": 1.0},
        radio=radio,
        manifests=demo._manifests(out, radio),
    )


def judge(out: Path, found: Any) -> list[demo.TileResult]:
    """Every tile's result."""
    return [demo._judge(tile, out, found) for tile in TILES]


def test_a_tile_is_compared_patch_by_patch(tmp_path: Path) -> None:
    """PSNR is the mean over patches that arrived; bits are those of all packets of its frames."""
    restored = land(TILES[0], tmp_path, missing=[[1, 0]])
    (result, _) = judge(tmp_path, stream(tmp_path, decoded=1, missing=1))
    first = (slice(None), slice(128))
    peak = TILES[0].info.reflectance_scale

    assert (result.patches, result.patches_decoded) == (2, 1)
    assert result.psnr_db == psnr_db(
        TILES[0].samples[first], restored.samples[first], TILES[0].valid()[first], peak
    )
    assert (result.bytes_down, result.bpppc) == (1000, 8 * 1000 / TILES[0].samples.size)
    assert result.picture is not None
    assert (tmp_path / result.picture).stat().st_size > 0


def test_a_tile_without_a_valid_sample_is_no_number(tmp_path: Path) -> None:
    """It is a legal tile: no quality can be told, and nothing is divided by zero."""
    samples = np.full_like(TILES[0].samples, -1)
    empty = Tile(samples=samples, info=replace(TILES[0].info, nodata=-1.0))
    land(empty, tmp_path, missing=[], error_dn=0)
    result = demo._judge(empty, tmp_path, stream(tmp_path, decoded=2, missing=0))

    assert (result.patches_decoded, result.psnr_db) == (2, None)


def test_the_whole_is_added_up(tmp_path: Path) -> None:
    """With every field the design fixed, and JSON that any reader takes."""
    for tile in TILES:
        land(tile, tmp_path, missing=[])
    found = stream(tmp_path, decoded=4, missing=0)
    results = judge(tmp_path, found)
    demo._check_accounts(TILES, results, found)
    summary = demo._summary(results, found, TILES)

    assert summary.keys() >= {
        "tiles", "patches_sent", "patches_decoded", "packets_sent", "packets_lost", "bytes_raw",
        "bytes_down", "bpppc", "psnr_db_mean", "psnr_db_min", "spectral_angle_deg_mean",
        "realtime_factor_enmap", "outputs", "packets_repeated",
    }  # fmt: skip
    assert (summary["packets_lost"], summary["packets_repeated"]) == (2, 3)
    assert (summary["patches_sent"], summary["patches_decoded"]) == (4, 4)
    assert summary["bpppc"] == 8 * 3000 / (2 * TILES[0].samples.size)
    assert summary["stage_seconds_per_patch"]["analyze"] == pytest.approx(0.2)
    assert "NaN" not in json.dumps(summary)


@pytest.mark.parametrize(
    ("cores", "bound_s"), [(1, 3.0), (2, 2.0)], ids=["the cores bound it", "a thread bounds it"]
)
def test_real_time_is_what_could_be_kept_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, bound_s: float
) -> None:
    """Threads work side by side: the busiest one, or all of them on few cores, sets the pace."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    for tile in TILES:
        land(tile, tmp_path, missing=[])
    found = stream(tmp_path, decoded=4, missing=0)
    summary = demo._summary(judge(tmp_path, found), found, TILES)
    assert summary["realtime_factor_enmap"] == pytest.approx(4 / bound_s / 14.4)


@pytest.mark.parametrize(
    ("flight", "counted", "message"),
    [
        (
            {"prismlink_patches_received_total": 5.0},
            (3, 1),
            "5 patches received, 4 sent, 0 dropped",
        ),
        ({}, (4, 0), "4 patches decoded and 0 missing on the ground, 3 and 1 in its files"),
        ({}, (3, 0), "3 patches decoded and 0 missing"),
    ],
)
def test_accounts_that_do_not_add_up_fail_the_demo(
    tmp_path: Path, flight: dict[str, float], counted: tuple[int, int], message: str
) -> None:
    """What files say, what the ground counted and what the board counted must agree."""
    land(TILES[0], tmp_path, missing=[])
    land(TILES[1], tmp_path, missing=[[0, 0]])
    found = stream(tmp_path, decoded=counted[0], missing=counted[1], **flight)
    with pytest.raises(DemoError, match=message):
        demo._check_accounts(TILES, judge(tmp_path, found), found)


def test_what_was_counted_as_dropped_is_accounted_for(tmp_path: Path) -> None:
    """A loss that is counted is no failure; a tile nobody heard of is in the table as missing."""
    land(TILES[0], tmp_path, missing=[])
    dropped = {
        'prismlink_frames_total{channel="patch"}': 2.0,
        'prismlink_dropped_patches_total{stage="encode",reason="internal_error"}': 2.0,
    }
    found = stream(tmp_path, decoded=2, missing=0, **dropped)
    results = judge(tmp_path, found)
    demo._check_accounts(TILES, results, found)

    assert (results[1].file, results[1].patches_decoded, results[1].psnr_db) == (None, 0, None)
    assert demo._summary(results, found, TILES)["patches_decoded"] == 2


def test_a_radio_that_loses_everything_is_an_error_not_a_bug(tmp_path: Path) -> None:
    """It says so in one line."""
    found = stream(tmp_path, decoded=0, missing=0)
    with pytest.raises(DemoError, match="nothing arrived: 2 packets were lost"):
        demo._summary(judge(tmp_path, found), found, TILES)


def test_the_instrument_must_have_sent_every_tile(tmp_path: Path) -> None:
    """A feed that ended early is told."""
    for tile in TILES:
        land(tile, tmp_path, missing=[])
    found = stream(tmp_path, decoded=4, missing=0)
    found = replace(found, feed=found.feed | {"tiles": 1})
    with pytest.raises(DemoError, match="sent 1 of 2 tiles"):
        demo._check_accounts(TILES, judge(tmp_path, found), found)


def child(code: str, folder: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process of the demo that runs some code in place of a command."""
    start = demo._Starter(stack, folder, timeout_s=20.0)
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", code, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return start("feed", "x")


def test_a_process_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its status and its last lines, in one."""
    code = "import sys; sys.exit('first\\nlast line')"
    with ExitStack() as stack:
        process = child(code, tmp_path, stack, monkeypatch)
        with pytest.raises(DemoError, match="feed ended with status 1: first / last line"):
            process.report()


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time allowed it is given up, and not left running."""
    with ExitStack() as stack:
        process = child("import signal; signal.pause()", tmp_path, stack, monkeypatch)
        with pytest.raises(DemoError, match="feed did not end within 0 s"):
            replace(process, timeout_s=0.0).report()
    assert process.process.poll() is not None


def test_the_radio_waits_for_its_ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the socket is there, as long as that takes."""
    socket = tmp_path / "socket"
    touch = f"pathlib.Path({str(socket)!r}).touch()"
    code = f"import pathlib, time; time.sleep(0.3); {touch}; time.sleep(9)"
    with ExitStack() as stack:
        child(code, tmp_path, stack, monkeypatch).listens(socket)
        assert socket.exists()


def test_a_ground_that_fails_first_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it then."""
    with ExitStack() as stack:
        process = child("import sys; sys.exit('no model')", tmp_path, stack, monkeypatch)
        with pytest.raises(DemoError, match="ended with status 1: no model"):
            process.listens(tmp_path / "never")


def test_a_ground_that_never_listens_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time allowed."""
    with ExitStack() as stack:
        process = child("import signal; signal.pause()", tmp_path, stack, monkeypatch)
        with pytest.raises(DemoError, match="did not listen within 0 s"):
            replace(process, timeout_s=0.0).listens(tmp_path / "never")


def test_a_process_reports_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of `--json`."""
    code = "import sys; open(sys.argv[sys.argv.index('--json') + 1], 'w').write('{\"tiles\": 3}')"
    with ExitStack() as stack:
        assert child(code, tmp_path, stack, monkeypatch).report() == {"tiles": 3}


def test_an_output_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    """Before anything is started."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="out"):
        demo.run(
            DemoSettings(
                scenes=(), out=tmp_path / "out", flight_yaml=tmp_path, ground_yaml=tmp_path
            )
        )
