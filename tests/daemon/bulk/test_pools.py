"""Pools: every job ends once, whatever happens to processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from codec.tile_files import read_tile
from daemon.bulk.jobs import DecodedTile, DecodeJob, Output
from daemon.bulk.pools import Pool, Processes, ThisProcess, pool_of, run
from fakes import recordings
from fakes.bundles import klt_bundle
from fakes.processes import ROOT, until

TILES: Final = 24


def job(number: int, output: Path, bundle: Path) -> DecodeJob:
    """A tile to decode."""
    return DecodeJob(
        name=f"tile {number}",
        frames=tuple((1, at, raw) for at, raw in enumerate(recordings.frames(number))),
        bundle=bundle, model=klt_bundle().model, output=Output(folder=output, file_format="npy"),
        threads=1, mark=f"{number}",
    )  # fmt: skip


@pytest.mark.parametrize("pool", [ThisProcess(threads=1), Processes(2)], ids=["one", "two"])
def test_every_job_ends_once(pool: Pool, tmp_path: Path, bundle_file: Path) -> None:
    """Those that fail as well; few are asked for ahead of those that run."""
    jobs = [job(number, tmp_path, bundle_file) for number in range(6)]
    jobs[2] = replace(jobs[2], bundle=tmp_path / "absent.safetensors")
    asked = list[int]()

    def hand_out() -> Iterator[DecodeJob]:
        for at, one in enumerate(jobs):
            asked.append(at)
            yield one

    ended = list[str]()
    for one, made in pool.results(hand_out()):
        ended.append(one.name)
        assert len(asked) <= len(ended) + 4
        assert (made.file is None) == (one is jobs[2])
        assert (made.problems != ()) == (one is jobs[2])
    assert sorted(ended) == [one.name for one in jobs]


def test_a_bug_costs_one_job(
    tmp_path: Path, bundle_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as one, and the next job runs."""

    def once(one: DecodeJob) -> DecodedTile:
        if one.name == "tile 0":
            raise ZeroDivisionError("oops")
        return run(one)

    monkeypatch.setattr("daemon.bulk.pools.run", once)
    jobs = [job(number, tmp_path, bundle_file) for number in range(2)]
    first, second = (made for _, made in ThisProcess(threads=1).results(jobs))

    assert first.problems == ("internal error: ZeroDivisionError: oops",)
    assert second.file is not None


def dies_of_the_first(one: DecodeJob) -> DecodedTile:
    """Run a job; the first of them ends its process, while others are under way."""
    if one.name == "tile 0":
        os._exit(1)
    threading.Event().wait(0.5)
    return run(one)


def test_a_job_that_ends_its_process_costs_no_other(
    tmp_path: Path, bundle_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried: those beside it are decoded."""
    monkeypatch.setattr("daemon.bulk.pools.run", dies_of_the_first)
    jobs = [job(number, tmp_path, bundle_file) for number in range(4)]
    made = {one.name: made for one, made in Processes(4).results(jobs)}

    assert "its process died" in made.pop("tile 0").problems[0]
    assert len(made) == 3
    assert all(one.file is not None for one in made.values())


def test_a_pool_is_as_large_as_is_worth_it() -> None:
    """Starting processes takes as long as decoding a few tiles; who asks for them gets them."""
    cores = len(os.sched_getaffinity(0))

    assert isinstance(pool_of(None, 1), ThisProcess)
    assert isinstance(pool_of(None, 10 * cores), Processes if cores > 1 else ThisProcess)
    assert isinstance(pool_of(1, 1000), ThisProcess)
    assert isinstance(pool_of(2, 1), Processes)


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def is_forked(pid: int) -> bool:
    """Whether a process is a worker, or forks them; not what multiprocessing keeps beside it."""
    with suppress(OSError):
        return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Command:
    """`prismlink decode` of many tiles with two processes."""

    def __init__(self, source: Path, output: Path, bundle: Path, report: Path) -> None:
        self.journal = output / "decoded.jsonl"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "daemon.cli", "decode", source, "-o", output),
                *("--bundle", bundle, "--format", "npy", "--workers", "2", "--json", report),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def until_tiles(self, count: int) -> None:
        """Wait until so many are written."""
        until(
            lambda: self.journal.exists() and self.journal.read_bytes().count(b"\n") >= count,
            f"{count} tiles",
        )

    def workers(self) -> list[int]:
        """Its processes that decode."""
        servers = [pid for pid in children(self.process.pid) if is_forked(pid)]
        return [worker for server in servers for worker in children(server)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many tiles."""
    return recordings.frame_file(tmp_path_factory.mktemp("tiles") / "x.prism", *range(TILES))


def check_all(output: Path) -> None:
    """All are there, and nothing half written."""
    cubes = sorted(read_tile(path).info.sequence for path in output.glob("*.npy"))
    assert cubes == list(range(TILES))
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []


def test_a_process_that_dies_costs_no_tile(source: Path, tmp_path: Path, bundle_file: Path) -> None:
    """It is replaced, and what it had is decoded."""
    command = Command(source, tmp_path / "cubes", bundle_file, tmp_path / "report.json")
    command.until_tiles(1)
    os.kill(command.workers()[0], signal.SIGKILL)
    _, err = command.process.communicate()

    assert command.process.returncode == 0, err
    assert json.loads((tmp_path / "report.json").read_text())["decoded"] == TILES
    check_all(tmp_path / "cubes")


def test_a_run_that_is_killed_goes_on(source: Path, tmp_path: Path, bundle_file: Path) -> None:
    """Its processes end with it; the next run keeps what is whole, and decodes the rest."""
    output, report = tmp_path / "cubes", tmp_path / "report.json"
    first = Command(source, output, bundle_file, report)
    first.until_tiles(2)
    workers = first.workers()
    first.process.kill()
    first.process.communicate()
    assert len(workers) == 2
    until(lambda: not any(is_forked(pid) for pid in workers), "the end of its processes")
    there = {path: path.stat().st_ino for path in output.glob("*.npy")}
    second = Command(source, output, bundle_file, report)
    _, err = second.process.communicate()

    assert second.process.returncode == 0, err
    told = json.loads(report.read_text())
    assert told["decoded"] + told["kept"] == TILES
    assert told["kept"] >= 2
    still = sum(path.stat().st_ino == inode for path, inode in there.items())
    assert still >= told["kept"] >= len(there) - 4  # those whose line was not yet written
    check_all(output)
