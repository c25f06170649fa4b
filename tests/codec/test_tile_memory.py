"""Rules of `codec.tile_memory`: no more memory is asked for than there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec import tile_memory
from codec.errors import TileFileError
from codec.tile_memory import check_fits, memory_bytes


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the last byte; what does not is told with both numbers and what to do."""
    monkeypatch.setattr(tile_memory, "memory_bytes", lambda: 100)
    check_fits(Path("a.tif"), 100)
    with pytest.raises(TileFileError, match=r"a\.tif: holds 101 bytes, this machine has 100; rem"):
        check_fits(Path("a.tif"), 101)


def test_the_machine_has_memory() -> None:
    """The system's number is one of bytes: no machine that runs this has less than 256 MiB."""
    assert 1 << 28 < memory_bytes() < 1 << 50
