"""Log lines: one event, one line, whatever a hostile message puts into a field; no floods."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import log
from fakes.clock import FakeClock

HOSTILE = (
    *("a\nERROR forged", "\r<0>forged", "\x1b[2J", "\x00", "\x85", "\u2028next", "\ud800"),
    "x" * 1_000_000,
)
"""What an instrument may call a scene."""


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Put back what `setup` changes for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


def lines(stream: io.StringIO) -> list[str]:
    """What was written, and nothing any more."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return text.splitlines()


def begin(clock: FakeClock, *, as_json: bool, level: str = "info") -> io.StringIO:
    """Log into a text."""
    stream = io.StringIO()
    log.setup(level, as_json=as_json, clock=clock, stream=stream)
    return stream


def test_json_lines(clock: FakeClock) -> None:
    """Every field is a key of its own; time is UTC; a field cannot forge the event."""
    stream = begin(clock, as_json=True)
    fields = {"tile": b"\x01\xff", "count": 3, "ratio": float("nan"), "ok": True, "none": None}
    logging.getLogger("daemon.x").info("tile refused", extra=fields | {"event": "forged"})
    (line,) = lines(stream)
    entry = json.loads(line, parse_constant=pytest.fail)

    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        **{"level": "info", "logger": "daemon.x", "event": "tile refused"},
        **{"tile": "01ff", "count": 3, "ratio": "nan", "ok": True, "none": None},
    }


def test_human_lines(clock: FakeClock) -> None:
    """Time, level, event, key=value; quoted where a value would read as something else."""
    stream = begin(clock, as_json=False)
    fields = {"scene": "a b", "band": 7, "empty": "", "forged": "x=1"}
    logging.getLogger("daemon.x").warning("tile refused", extra=fields)
    (line,) = lines(stream)

    _, text = line.split(" ", 1)
    assert text == 'WARNING tile refused scene="a b" band=7 empty="" forged="x=1"'


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "human"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_value_stays_in_its_field(clock: FakeClock, value: str, *, as_json: bool) -> None:
    """A scene's name can start no line, send no terminal sequence, and fill no disk."""
    stream = begin(clock, as_json=as_json)
    logging.getLogger("daemon.x").info("tile refused: " + value, extra={"scene": value})
    (line,) = lines(stream)

    assert line.isprintable()
    assert len(line) < 3 * log.MAX_VALUE_CHARS


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "human"])
def test_a_bug_leaves_its_traceback(clock: FakeClock, *, as_json: bool) -> None:
    """An internal error says where; in JSON within the one line."""
    stream = begin(clock, as_json=as_json)
    try:
        raise ZeroDivisionError("in test")
    except ZeroDivisionError:
        logging.getLogger("daemon.x").exception("internal error", extra={"stage": "encode"})
    written = lines(stream)

    if as_json:
        assert json.loads(written[0])["traceback"].endswith("ZeroDivisionError: in test")
    assert written[-1].endswith('"}' if as_json else "ZeroDivisionError: in test")
    assert len(written) == 1 or not as_json


def test_levels(clock: FakeClock) -> None:
    """What is below the level is not written; one setup replaces the one before."""
    first = begin(clock, as_json=True)
    second = begin(clock, as_json=True, level="warning")
    logging.getLogger("daemon.x").info("quiet")
    logging.getLogger("daemon.x").warning("loud")

    assert lines(first) == []
    assert [json.loads(line)["event"] for line in lines(second)] == ["loud"]


def test_standard_error_is_the_default(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output stays free for numbers."""
    log.setup("info", as_json=False, clock=clock)
    logging.getLogger("daemon.x").info("started")
    captured = capsys.readouterr()

    assert (captured.out, captured.err.rstrip()[-7:]) == ("", "started")


def test_a_flood_is_cut_and_counted(clock: FakeClock) -> None:
    """Ten lines of a kind in ten seconds; the next that passes says how many did not."""
    stream = begin(clock, as_json=True)
    logger = logging.getLogger("daemon.x")

    def shout(times: int, **fields: Any) -> list[dict[str, Any]]:
        for _ in range(times):
            logger.warning("packet refused", extra=fields)
        return [json.loads(line) for line in lines(stream)]

    assert len(shout(1000, reason="packet_checksum")) == log.BURST
    assert len(shout(3, reason="packet_version")) == 3  # another kind
    clock.advance(log.PERIOD_S)
    first, second = shout(2, reason="packet_checksum")
    assert first["suppressed"] == 1000 - log.BURST
    assert "suppressed" not in second
    clock.advance(log.PERIOD_S)
    assert "suppressed" not in shout(1, reason="packet_checksum")[0]


def test_only_warnings_can_be_a_flood(clock: FakeClock) -> None:
    """What an operator follows, a line per tile, is written whole."""
    stream = begin(clock, as_json=True)
    for _ in range(100):
        logging.getLogger("daemon.x").info("tile written")

    assert len(lines(stream)) == 100


def test_the_memory_of_floods_is_bounded(clock: FakeClock) -> None:
    """A module that writes numbers into its events does not fill the memory."""
    flood = log.Flood(clock)
    for number in range(3 * log.MAX_KINDS):
        record = logging.LogRecord("x", logging.ERROR, "", 0, f"event {number}", (), None)
        assert flood.filter(record)

    assert len(flood._kinds) <= log.MAX_KINDS


def test_a_flood_that_ends_is_summed_up(clock: FakeClock) -> None:
    """No line of the kind follows: the next line of another, however quiet, brings the sum."""
    stream = begin(clock, as_json=True)
    logger = logging.getLogger("daemon.x")
    for _ in range(25):
        logger.warning("packet refused", extra={"reason": "seal", "error": "no key"})
    lines(stream)
    logger.info("tile written")
    assert len(lines(stream)) == 1  # not yet
    clock.advance(log.PERIOD_S)
    logger.info("tile written")
    summed, _ = (json.loads(line) for line in lines(stream))

    del summed["time"]
    assert summed == {
        **{"level": "warning", "logger": "daemon.x", "event": "packet refused"},
        **{"reason": "seal", "suppressed": 25 - log.BURST},
    }
    clock.advance(log.PERIOD_S)
    logger.info("tile written")
    assert len(lines(stream)) == 1  # once


def test_the_end_sums_up_what_is_left(clock: FakeClock) -> None:
    """A process that ends in a flood says how much of it is not in the log."""
    stream = begin(clock, as_json=True)
    for _ in range(log.BURST + 3):
        logging.getLogger("daemon.x").error("write failed")
    lines(stream)
    (handler,) = logging.getLogger().handlers
    handler.close()

    assert [json.loads(line)["suppressed"] for line in lines(stream)] == [3]


def test_burst_and_period_are_settings(clock: FakeClock) -> None:
    """As `log.burst` and `log.period_s` say."""
    stream = io.StringIO()
    log.setup("info", as_json=True, clock=clock, burst=2, period_s=60.0, stream=stream)
    logger = logging.getLogger("daemon.x")

    def shout() -> int:
        for _ in range(5):
            logger.warning("packet refused")
        return len(lines(stream))

    assert shout() == 2
    clock.advance(59.0)
    assert shout() == 0
    clock.advance(1.0)
    assert shout() == 2


def test_lines_that_are_not_written_are_counted(clock: FakeClock) -> None:
    """Those from before there was a metric too."""
    begin(clock, as_json=True)
    logger, counted = logging.getLogger("daemon.x"), list[float]()
    for _ in range(log.BURST + 5):
        logger.warning("packet refused")
    log.tell_suppressed(counted.append)
    logger.warning("packet refused")
    logger.warning("another")

    assert counted == [5, 1]


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "human"])
def test_an_error_cannot_forge_a_line(clock: FakeClock, *, as_json: bool) -> None:
    """Its text may be a scene's name: in JSON it is a field, for people it is indented."""
    stream = begin(clock, as_json=as_json)
    try:
        raise KeyError("x") from ValueError(
            "a\n2026-01-01T00:00:00 ERROR forged\x1b[2J" + "y" * 99_999
        )
    except KeyError:
        logging.getLogger("daemon.x").exception("internal error")
    first, *others = lines(stream)

    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert sum(map(len, (first, *others))) < 3 * log.MAX_TRACEBACK_CHARS
    assert not (as_json and others)


PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "human"])
def test_the_journal_gets_priorities(clock: FakeClock, tmp_path: Path, *, as_json: bool) -> None:
    """Each line, those of a traceback too, begins with one; sd-daemon(3) has the numbers."""
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        there = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        log.setup("debug", as_json=as_json, clock=clock, stream=journal, environment=there)
        logger = logging.getLogger("daemon.x")
        for level in PRIORITIES:
            getattr(logger, level)("said")
        try:
            raise ZeroDivisionError("in test")
        except ZeroDivisionError:
            logger.exception("internal error")
        journal.seek(0)
        written = journal.read().splitlines()

    assert [line[:3] for line in written[:5]] == [f"<{number}>" for number in PRIORITIES.values()]
    assert len(written) > 6 or as_json
    assert {line[:3] for line in written[5:]} == {"<3>"}
    if as_json:
        assert [json.loads(line[3:])["level"] for line in written[:5]] == list(PRIORITIES)


@pytest.mark.parametrize("stream", ["", "1:2", "journal", "9999999:9999999"])
def test_elsewhere_lines_have_no_priority(clock: FakeClock, tmp_path: Path, stream: str) -> None:
    """A service whose standard error was sent to a file inherits the name of a journal."""
    with (tmp_path / "file").open("w+") as file:
        there = {"JOURNAL_STREAM": stream}
        log.setup("info", as_json=True, clock=clock, stream=file, environment=there)
        logging.getLogger("daemon.x").info("said")
        file.seek(0)
        assert file.read().startswith("{")


def test_standard_error_may_be_the_journal(tmp_path: Path) -> None:
    """As systemd starts a process: descriptor 2 is what the environment names."""
    code = (
        "import logging; from daemon import log; from daemon.clock import SystemClock\n"
        "log.setup('info', as_json=False, clock=SystemClock())\n"
        "logging.getLogger('x').warning('said')\n"
    )
    with (tmp_path / "journal").open("wb") as journal:
        found = os.fstat(journal.fileno())
        there = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run([sys.executable, "-c", code], stderr=journal, env=there, check=True)

    assert re.fullmatch(r"<4>\S+ WARNING said\n", (tmp_path / "journal").read_text())
