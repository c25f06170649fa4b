"""One event, one line: for people, or as JSON for machines.

A module takes `logging.getLogger(__name__)` and writes
`log.warning("packet refused", extra={"reason": reason})`: the event is a constant text, what
varies is a field. Fields must not be named like an attribute of `logging.LogRecord`.

Where standard error is the journal, lines begin with their priority, see sd-daemon(3): journald
takes it off, and `journalctl -p warning` finds them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
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
MAX_TRACEBACK_CHARS: Final = 20_000
"""A traceback begins here, counted from its end, where the error is."""

_PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
"""Of syslog(3)."""

_KIND_FIELDS: Final = ("stage", "reason")
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


_Kind = tuple[str, int, str, str | None, str | None]
"""Logger, level, event, stage and reason."""


class Flood(logging.Filter):
    """Lets a few warnings of a kind through in every period, and counts the rest.

    A kind is the logger, the event, and its `stage` and `reason` where it has them. The next line
    of the kind that passes carries `suppressed`, the count; where none comes, `sums` has a line
    that does. Lines below WARNING always pass. Not for two threads at a time.

    Args:
        clock: Measures periods.
        burst: Lines of a kind let through in each.
        period_s: How long one is [s].

    Attributes:
        suppressed: Lines not let through so far.
        tell: Called with 1 for each.
    """

    def __init__(self, clock: Clock, *, burst: int = BURST, period_s: float = PERIOD_S) -> None:
        super().__init__()
        self.suppressed = 0
        self.tell: Callable[[float], object] = lambda _: None
        self._clock, self._burst, self._period_s = clock, burst, period_s
        self._kinds: dict[_Kind, tuple[float, int]] = {}
        self._flooding: set[_Kind] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes."""
        if record.levelno < logging.WARNING:
            return True
        fields = record.__dict__
        stage, reason = (None if (v := fields.get(key)) is None else str(v) for key in _KIND_FIELDS)
        kind = (record.name, record.levelno, record.msg, stage, reason)
        now_s = self._clock.monotonic_s()
        since_s, seen = self._kinds.get(kind, (now_s, 0))
        if now_s - since_s >= self._period_s:
            if seen > self._burst:
                fields["suppressed"] = seen - self._burst
            self._flooding.discard(kind)
            since_s, seen = now_s, 0
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
            self._flooding.clear()
        self._kinds[kind] = (since_s, seen + 1)
        if seen < self._burst:
            return True
        self._flooding.add(kind)
        self.suppressed += 1
        self.tell(1)
        return False

    def sums(self, *, at_end: bool = False) -> Iterator[logging.LogRecord]:
        """Make a line for each kind whose period is over, or for all, that says how many it had."""
        now_s = self._clock.monotonic_s()
        for kind in sorted(self._flooding, key=str):
            since_s, seen = self._kinds[kind]
            if at_end or now_s - since_s >= self._period_s:
                self._flooding.discard(kind)
                del self._kinds[kind]
                yield _summed_up(kind, seen - self._burst)


def _summed_up(kind: _Kind, suppressed: int) -> logging.LogRecord:
    name, level, event, *values = kind
    fields = {key: v for key, v in zip(_KIND_FIELDS, values, strict=True) if v is not None}
    head = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    return logging.makeLogRecord(head | fields | {"suppressed": suppressed})


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines, and sums up those that `Flood` keeps back.

    Args:
        stream: Where to.
        flood: Limits them.
        journal: Whether each line begins with its priority.

    Attributes:
        flood: The same.
    """

    def __init__(self, stream: TextIO, flood: Flood, *, journal: bool) -> None:
        super().__init__(stream)
        self.flood, self._journal = flood, journal

    def handle(self, record: logging.LogRecord) -> bool:
        """Write it if it passes, after what is to be summed up by now."""
        self.acquire()
        try:
            passes = self.flood.filter(record)
            for one in self.flood.sums():
                self.emit(one)
            if passes:
                self.emit(record)
        finally:
            self.release()
        return passes

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of a traceback for people, the lines."""
        text = super().format(record)
        if not self._journal:
            return text
        priority = _PRIORITIES.get(record.levelname, _PRIORITIES["INFO"])
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))

    def close(self) -> None:
        """Sum up what is left; `logging` calls this when the process ends."""
        self.acquire()
        try:
            for one in self.flood.sums(at_end=True):
                self.emit(one)
        finally:
            self.release()
        super().close()


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
            head["traceback"] = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARS:]
        return json.dumps(_fields(record) | head)


class HumanFormatter(logging.Formatter):
    """Time, level, event, then key=value; a traceback follows on lines that are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with control characters escaped."""
        event = str(_plain(record.getMessage()))
        line = f"{_time(record)} {record.levelname:<7} {_escaped(event)}"
        for key, value in _fields(record).items():
            text = str(value)
            if not text or any(c.isspace() or c in "\"'=" for c in text):
                text = json.dumps(text, ensure_ascii=False)
            line += f" {key}={_escaped(text)}"
        if not record.exc_info:
            return line
        # Its last line is the error's own text, and may come from outside as a field may.
        trace = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARS:]
        return "\n  ".join((line, *(_escaped(part) for part in trace.split("\n"))))


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def setup(
    level: str,
    *,
    as_json: bool,
    clock: Clock,
    burst: int = BURST,
    period_s: float = PERIOD_S,
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send every module's events to one stream, and nowhere else.

    Args:
        level: "debug", "info", "warning" or "error"; what is below is not written.
        as_json: One JSON object a line; otherwise text for people.
        clock: Measures the periods of the flood limit.
        burst: Lines of one kind of warning written in a period.
        period_s: That period [s].
        stream: Where to; None: standard error.
        environment: Says which stream is the journal.
    """
    target = sys.stderr if stream is None else stream
    flood = Flood(clock, burst=burst, period_s=period_s)
    handler = Lines(target, flood, journal=_is_journal(target, environment))
    handler.setFormatter(JsonFormatter() if as_json else HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def tell_suppressed(tell: Callable[[float], object]) -> None:
    """Have lines that are not written counted, those so far included."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Lines):
            handler.flood.tell = tell
            tell(handler.flood.suppressed)


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Compare a stream with what systemd says it made, see systemd.exec(5)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file at all, or closed
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
