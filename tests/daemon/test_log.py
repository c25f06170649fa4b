"""Log lines: one event, one line, whatever a hostile message puts into a field; no floods."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from daemon import log
from fakes.clock import FakeClock


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
@pytest.mark.parametrize(
    "value", ["a\nERROR forged", "\x1b[2J", "\u2028next", "\x85", "x" * 1_000_000], ids=ascii
)
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
