"""One event, one line: for people, or as JSON for machines.

A module takes `logging.getLogger(__name__)` and writes
`log.warning("packet refused", extra={"reason": reason})`: the event is a constant text, what
varies is a field. Fields must not be named like an attribute of `logging.LogRecord`.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from daemon.clock import Clock

BURST: Final = 10
PERIOD_S: Final = 10.0
"""Lines of one kind of warning let through, per period [s]: a bad link must not fill the disk."""
MAX_KINDS: Final = 1024
"""Kinds remembered at most; other people's modules may put numbers into their events."""
MAX_VALUE_CHARS: Final = 500
"""A field's text is cut here: a hostile message names its own scene."""

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class Flood(logging.Filter):
    """Lets a few warnings of a kind through in every period, and counts the rest.

    A kind is the logger, the event, and its `stage` and `reason` where it has them. The next line
    of the kind that passes carries `suppressed`, the count. Lines below WARNING always pass.
    """

    def __init__(self, clock: Clock, *, burst: int = BURST, period_s: float = PERIOD_S) -> None:
        super().__init__()
        self._clock, self._burst, self._period_s = clock, burst, period_s
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes. Handlers call this under their lock."""
        if record.levelno < logging.WARNING:
            return True
        fields = record.__dict__
        kind = (record.name, record.msg, str(fields.get("stage")), str(fields.get("reason")))
        now_s = self._clock.monotonic_s()
        since_s, seen = self._kinds.get(kind, (now_s, 0))
        if now_s - since_s >= self._period_s:
            if seen > self._burst:
                fields["suppressed"] = seen - self._burst
            since_s, seen = now_s, 0
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (since_s, seen + 1)
        return seen < self._burst


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: _plain(value) for key, value in record.__dict__.items() if key not in _STANDARD}


def _plain(value: object) -> object:
    """What JSON can say, of bounded length."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _plain(record.getMessage()),
        }
        if record.exc_info:
            head["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_fields(record) | head)


class HumanFormatter(logging.Formatter):
    """Time, level, event, then key=value; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with control characters escaped."""
        event = str(_plain(record.getMessage()))
        line = f"{_time(record)} {record.levelname:<7} {_escaped(event)}"
        for key, value in _fields(record).items():
            text = str(value)
            if not text or any(c.isspace() or c in "\"'=" for c in text):
                text = json.dumps(text, ensure_ascii=False)
            line += f" {key}={_escaped(text)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def setup(level: str, *, as_json: bool, clock: Clock, stream: TextIO | None = None) -> None:
    """Send every module's events to one stream, and nowhere else.

    Args:
        level: "debug", "info", "warning" or "error"; what is below is not written.
        as_json: One JSON object a line; otherwise text for people.
        clock: Measures the periods of the flood limit.
        stream: Where to; None: standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if as_json else HumanFormatter())
    handler.addFilter(Flood(clock))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
