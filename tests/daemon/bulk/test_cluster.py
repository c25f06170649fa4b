"""On a real cluster: the same bytes as in one process, also when a worker is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from daemon.errors import EXIT_UNAVAILABLE
from fakes import recordings
from fakes.processes import PATIENCE_S, ROOT, until

TILES = 12


class LocalWorkers:
    """The cluster's process, as a test sees it."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fakes.dask_cluster"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, text=True, cwd=ROOT,
        )  # fmt: skip
        self.address = self._line()

    def pids(self) -> list[int]:
        """Of the workers."""
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return [int(word) for word in self._line().split()]

    def kill(self) -> None:
        """Kill the scheduler; the workers end with it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it: with its input."""
        self.process.communicate()
        assert self.process.returncode in {0, -signal.SIGKILL}

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def cluster() -> Iterator[LocalWorkers]:
    """Two workers of a thread each."""
    workers = LocalWorkers()
    yield workers
    workers.end()


@contextmanager
def started(
    source: Path, output: Path, bundle: Path, *words: object
) -> Iterator[subprocess.Popen[str]]:
    """`prismlink decode` in a process of its own: dask's threads outlive its client."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "daemon.cli", "decode", source, "-o", output),
            *("--bundle", bundle, *map(str, words)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def arrays(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


def test_no_tile_is_lost_with_a_worker(
    cluster: LocalWorkers, tmp_path: Path, bundle_file: Path
) -> None:
    """One of two is killed at work: the store is that of a single process, byte for byte."""
    source = recordings.frame_file(tmp_path / "x.prism", *range(TILES))
    with started(source, tmp_path / "single.zarr", bundle_file, "--workers", 1) as single:
        assert single.wait() == 0
    journal = tmp_path / "cluster.zarr.jsonl"
    before = cluster.pids()
    with started(
        source, tmp_path / "cluster.zarr", bundle_file, "--scheduler", cluster.address,
        "--json", tmp_path / "report.json",
    ) as run:  # fmt: skip
        until(
            lambda: run.poll() is not None or (journal.exists() and journal.read_bytes()),
            "a tile",
        )
        assert run.poll() is None
        os.kill(before[0], signal.SIGKILL)
        out, err = run.communicate()

    assert run.returncode == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["decoded"], report["patches"]) == (TILES, TILES * recordings.PATCHES)
    assert len(out.split()) == TILES
    assert arrays(tmp_path / "cluster.zarr") == arrays(tmp_path / "single.zarr")
    until(lambda: len(set(cluster.pids()) - {before[0]}) == 2, "another worker")


def test_a_scheduler_that_dies_is_told(
    cluster: LocalWorkers, tmp_path: Path, bundle_file: Path
) -> None:
    """In one line, soon, with what to do; the command ends with 69."""
    source = recordings.frame_file(tmp_path / "x.prism", *range(TILES))
    journal = tmp_path / "cubes.zarr.jsonl"
    with started(
        source, tmp_path / "cubes.zarr", bundle_file, "--scheduler", cluster.address
    ) as run:
        until(
            lambda: run.poll() is not None or (journal.exists() and journal.read_bytes()),
            "a tile",
        )
        assert run.poll() is None
        cluster.kill()
        _, err = run.communicate(timeout=PATIENCE_S)

    assert (run.returncode, err.count("\n")) == (EXIT_UNAVAILABLE, 1), err
    assert err.startswith(f"prismlink: {cluster.address}: its scheduler is lost: ")
    assert "; remedy: the same command again" in err


TRY: Final = """
import daemon.bulk.cluster, daemon.cli, sys
daemon.bulk.cluster._CONNECT_S = 0.5
daemon.cli.main()
"""


@pytest.fixture
def strangers() -> Iterator[list[str]]:
    """Two addresses: of what answers nothing, and of what answers in another tongue."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):

        def answer() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = other.accept()
                    with peer:
                        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 9)

        thread = threading.Thread(target=answer)
        thread.start()
        yield [f"tcp://127.0.0.1:{server.getsockname()[1]}" for server in (mute, other)]
        other.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_no_scheduler_is_told(tmp_path: Path, bundle_file: Path, strangers: list[str]) -> None:
    """Whatever is wrong with its address, or there: one line, soon; the command ends with 69."""
    source = recordings.frame_file(tmp_path / "x.prism", 0)
    for address in ("tcp://127.0.0.1:1", "foo", "tls://127.0.0.1:1", "x://y:1", *strangers):
        ended = subprocess.run(
            [
                *(sys.executable, "-c", TRY, "decode", source, "-o", tmp_path / "cubes"),
                *("--bundle", bundle_file, "--scheduler", address),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

        assert ended.returncode == EXIT_UNAVAILABLE, ended.stderr
        assert ended.stderr.startswith(f"prismlink: {address}: no dask scheduler there: ")
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert not (tmp_path / "cubes").exists()
