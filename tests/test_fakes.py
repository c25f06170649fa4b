"""Helpers in tests/fakes keep their word."""

from __future__ import annotations

import os
from pathlib import Path

from fakes.processes import Process, until

HALF: str = """
import time
print('{"event": "whole"}', '{"event": "ha', sep="\\n", end="", flush=True)
time.sleep(600)
"""


def test_a_line_that_is_being_written_is_no_event_yet(tmp_path: Path) -> None:
    """Whoever reads a log while its process writes does not trip over half a line."""
    (tmp_path / "half.py").write_text(HALF)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = Process("half", ("",), directory=tmp_path, module="half", env=env)
    try:
        until(lambda: process.log.endswith("ha"), "half a line")
        assert process.events() == [{"event": "whole"}]
    finally:
        process.end()
