"""The peak of a process' memory, from a moment on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from daemon import peak_memory
from daemon.peak_memory import peak_rss_bytes, reset_peak_rss

MIB = 1 << 20


def test_a_peak_is_forgotten_when_asked() -> None:
    """What was held before counts no more; what is held after does, even if it is gone."""
    np.ones(64 * MIB, dtype=np.uint8)
    before = peak_rss_bytes()
    reset_peak_rss()
    rest = peak_rss_bytes()
    np.ones(48 * MIB, dtype=np.uint8)

    assert rest < before
    assert peak_rss_bytes() - rest > 40 * MIB


def test_where_the_system_does_not_tell_it_is_the_whole_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some number, never an error."""
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "absent" / "clear_refs")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    reset_peak_rss()
    assert peak_rss_bytes() > 10 * MIB
