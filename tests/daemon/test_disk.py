"""Rules of `daemon.disk`: what is not ours is not written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.disk import LocalDisk


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Neither to read, nor to make what it leads to."""
    disk, other, link = LocalDisk(), tmp_path / "other", tmp_path / "link"
    link.symlink_to(other)
    for call in (disk.open, disk.create):
        with pytest.raises(OSError, match="link"):
            call(link)
    assert not other.exists()
    other.write_bytes(b"content")
    with pytest.raises(OSError, match="link"):
        disk.open(link)


def test_a_file_is_opened_or_made(tmp_path: Path) -> None:
    """With what is in it; nobody beside user and group may do anything with it."""
    disk, path = LocalDisk(), tmp_path / "file"
    for expected in (b"", b"content"):
        file = disk.open(path)
        assert os.pread(file, 99, 0) == expected
        disk.write(file, b"content", 0)
        disk.close(file)
    assert path.stat().st_mode & 0o007 == 0
