"""The peak of a process' memory, from a moment on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon import peak_memory
from daemon.peak_memory import peak_rss_bytes, reset_peak_rss

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


SCRIPT = """
import numpy as np
from daemon.peak_memory import peak_rss_bytes, reset_peak_rss
np.ones(64 << 20, dtype=np.uint8)
before = peak_rss_bytes()
reset_peak_rss()
rest = peak_rss_bytes()
np.ones(48 << 20, dtype=np.uint8)
print(before, rest, peak_rss_bytes())
"""


def test_a_peak_is_forgotten_when_asked() -> None:
    """What was held before counts no more; what is held after does, even if it is gone.

    In a process of its own: here, what other tests leave is given back at any time.
    """
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT
    )
    before, rest, after = map(int, told.stdout.split())
    assert rest < before
    assert after - rest > 40 * MIB


def test_where_the_system_does_not_tell_it_is_the_whole_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some number, never an error."""
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "absent" / "clear_refs")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    reset_peak_rss()
    assert peak_rss_bytes() > 10 * MIB
