"""Passes in a file: they outlive the process, are bounded, and no damage stops anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.ground.web.link_watch import LinkCounts, PassRecord
from daemon.ground.web.pass_log import PassLog


def record(number: int) -> PassRecord:
    """One of many."""
    return PassRecord(
        begin_utc_s=float(number), end_utc_s=number + 0.5, counts=LinkCounts(packets=number)
    )


def test_they_outlive_the_process(tmp_path: Path) -> None:
    """The next process has them all, and adds its own."""
    path = tmp_path / "passes.jsonl"
    first = PassLog(path, 10)
    for number in range(3):
        first.append(record(number))
    second = PassLog(path, 10)
    second.append(record(3))

    assert PassLog(path, 10).passes == second.passes == tuple(map(record, range(4)))
    assert (first.version, second.version) == (3, 1)


def test_a_pass_that_was_cut_off_is_ended_by_the_next_process(tmp_path: Path) -> None:
    """As far as it was kept, once; one that is over leaves nothing to be ended."""
    path = tmp_path / "passes.jsonl"
    killed = PassLog(path, 10)
    killed.under_way(record(1))
    killed.under_way(longer := replace(record(1), end_utc_s=9.0))
    assert killed.passes == ()
    second = PassLog(path, 10)
    assert second.passes == PassLog(path, 10).passes == (longer,)
    second.under_way(record(2))
    second.append(record(2))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_process_killed_as_a_pass_ended_ends_it_once(tmp_path: Path) -> None:
    """It may be among those that are over, and said to be under way as well."""
    path = tmp_path / "passes.jsonl"
    log = PassLog(path, 10)
    log.append(record(1))
    log.under_way(record(1))
    assert PassLog(path, 10).passes == (record(1),)


def test_a_pass_under_way_that_cannot_be_read_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The page begins anyway."""
    (tmp_path / ".passes.jsonl.now").write_bytes(b"[" * 100_000)
    assert PassLog(tmp_path / "passes.jsonl", 10).passes == ()
    assert "pass not read" in caplog.text


def test_memory_and_file_are_bounded(tmp_path: Path) -> None:
    """The newest are kept; the file never holds more than twice as many."""
    path, most = tmp_path / "passes.jsonl", 0
    log = PassLog(path, 5)
    for number in range(100):
        log.append(record(number))
        most = max(most, len(path.read_bytes().splitlines()))

    assert log.passes == tuple(map(record, range(95, 100)))
    assert most == 10
    assert PassLog(path, 5).passes == log.passes


@pytest.mark.parametrize("cut", range(1, 40))
def test_half_a_line_costs_itself_alone(tmp_path: Path, cut: int) -> None:
    """Where the power went while it was written, those before and after are there."""
    path = tmp_path / "passes.jsonl"
    log = PassLog(path, 10)
    log.append(record(0))
    log.append(record(1))
    path.write_bytes(path.read_bytes()[:-cut])
    after = PassLog(path, 10)
    after.append(record(2))

    whole = [0, 1, 2] if cut == 1 else [0, 2]  # without its end a line is whole
    assert PassLog(path, 10).passes == tuple(map(record, whole))


@pytest.mark.parametrize("raw", [b"\xff\x00", b"[[[[", b"{}\n" * 5, b"[" * 100_000, b"NaN"])
def test_what_is_no_log_is_passed_over(tmp_path: Path, raw: bytes) -> None:
    """The page begins anyway."""
    path = tmp_path / "passes.jsonl"
    path.write_bytes(raw)
    log = PassLog(path, 10)
    log.append(record(1))

    assert PassLog(path, 10).passes == (record(1),)


def test_a_disk_that_fails_costs_no_pass(tmp_path: Path) -> None:
    """Those of this process are still shown."""
    log = PassLog(tmp_path / "nowhere" / "passes.jsonl", 10)
    log.append(record(1))
    (tmp_path / "folder").mkdir()
    other = PassLog(tmp_path / "folder", 10)
    other.under_way(record(2))
    other.append(record(2))

    assert (log.passes, other.passes) == ((record(1),), (record(2),))
