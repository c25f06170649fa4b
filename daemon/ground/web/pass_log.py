"""Passes that are over, in a file: one line of JSON each, so that they outlive the process.

The one under way is in a hidden file beside it; of a process that was killed the next one ends it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import deque
from pathlib import Path
from typing import Final

from daemon.errors import OutputError
from daemon.files import write_whole
from daemon.ground.web.link_watch import PassRecord

log = logging.getLogger(__name__)

FILE_NAME: Final = "passes.jsonl"

_LONGEST_LINE_BYTES: Final = 1024


class PassLog:
    """The last passes, newest last; one thread.

    A file that cannot be read or written costs what it held, and a line in the log: the passes of
    this process are still there.

    Args:
        path: The file; made where it is not there.
        max_passes: Most that are kept. The file holds twice as many at most.

    Attributes:
        version: Counts changes.
    """

    def __init__(self, path: Path, max_passes: int) -> None:
        self._path, self._max_passes = path, max_passes
        self._lines, self._torn, self.version = 0, False, 0
        self._passes: deque[PassRecord] = deque(self._read(), maxlen=max_passes)
        self._path_now = path.with_name(f".{path.name}.now")
        self._now: PassRecord | None = None
        self._end_what_was_cut_off()

    @property
    def passes(self) -> tuple[PassRecord, ...]:
        """Those kept, oldest first."""
        return tuple(self._passes)

    def under_way(self, record: PassRecord) -> None:
        """Keep the pass under way as far as it is, unless nothing came since."""
        if record == self._now:
            return
        self._now = record
        try:
            write_whole(self._path_now, _line(record))
        except OutputError as error:
            log.warning("pass not kept", extra={"file": self._path_now.name, "error": str(error)})

    def append(self, record: PassRecord) -> None:
        """Keep one more, which is over; none is under way now."""
        self._passes.append(record)
        self.version += 1
        self._write(record)
        self._now = None
        with contextlib.suppress(OSError):  # then the next process finds it in the list
            self._path_now.unlink(missing_ok=True)

    def _end_what_was_cut_off(self) -> None:
        """Take the pass that was under way when a process was killed as one that is over."""
        try:
            cut = PassRecord.from_json(json.loads(self._path_now.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("pass not read", extra={"file": self._path_now.name, "error": str(error)})
            return
        if not any(cut.begin_utc_s == known.begin_utc_s for known in self._passes):
            self.append(cut)

    def _write(self, record: PassRecord) -> None:
        try:
            if self._lines >= 2 * self._max_passes:
                write_whole(self._path, b"".join(map(_line, self._passes)))
                self._lines = len(self._passes)
                return
            with self._path.open("ab") as file:
                file.write(b"\n" * self._torn + _line(record))
                file.flush()
                os.fsync(file.fileno())
            self._lines, self._torn = self._lines + 1, False
        except (OSError, OutputError) as error:
            log.warning("pass not kept", extra={"file": self._path.name, "error": str(error)})

    def _read(self) -> list[PassRecord]:
        try:
            with self._path.open("rb") as file:
                size_bytes = file.seek(0, os.SEEK_END)
                file.seek(max(0, size_bytes - 2 * self._max_passes * _LONGEST_LINE_BYTES))
                raw = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("passes not read", extra={"file": self._path.name, "error": str(error)})
            return []
        lines = raw.splitlines()
        self._lines, self._torn = len(lines), not raw.endswith(b"\n") and bool(raw)
        found: list[PassRecord] = []
        for line in lines:
            try:
                found.append(PassRecord.from_json(json.loads(line)))
            except (ValueError, RecursionError):  # half a line, where the power went
                continue
        return found


def _line(record: PassRecord) -> bytes:
    return json.dumps(record.to_json()).encode() + b"\n"
