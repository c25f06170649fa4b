"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.errors import OutputError
from daemon.files import check_writable, lock_folder, sync_folder, write_whole


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_content_appears_under_its_name(tmp_path: Path) -> None:
    """Missing folders are made, what was there is replaced, and nothing else is left."""
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")

    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file"]


def test_a_path_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    """Its folder is made; nothing lies in it, and what was there is as it was."""
    check_writable(tmp_path / "a" / "file")
    assert names(tmp_path / "a") == []
    write_whole(tmp_path / "a" / "file", b"old")
    check_writable(tmp_path / "a" / "file")

    assert (tmp_path / "a" / "file").read_bytes() == b"old"
    assert names(tmp_path / "a") == ["file"]


def test_a_path_that_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    """In a file, or a folder itself: whatever `write_whole` would refuse."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(OutputError) as before:
            check_writable(path)
        assert before.value.path == path
        with pytest.raises(OutputError):
            write_whole(path, b"")


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the flush costs the new content, not the old, and leaves no part."""
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_whole(path, b"new")

    assert caught.value.path == path
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("where", ["file/out", "file/a/out", "folder"])
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, where: str
) -> None:
    """A file where a folder should be, or a folder where the file should: one kind of error."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write_whole(tmp_path / where, b"x")

    assert caught.value.path == tmp_path / where
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_that_cannot_be_synced_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Names in it might be gone after a loss of power; where it can be, nothing is to be seen."""
    sync_folder(tmp_path)
    with pytest.raises(OutputError, match="absent"):
        sync_folder(tmp_path / "absent")


def test_a_link_that_lies_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    """Whoever may put a link into the folder could have another file of ours written over."""
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    for make in (lambda path: write_whole(path, b"new"), check_writable):
        (tmp_path / ".file.part").symlink_to(other)
        make(tmp_path / "file")
        assert other.read_bytes() == b"mine"
        assert names(tmp_path) == ["file", "other"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_folder_is_of_one_at_a_time(tmp_path: Path) -> None:
    """The second is told, and leaves it as it is; once the first has ended, it is the second's."""
    folder = tmp_path / "a" / "b"
    first = lock_folder(folder)
    with pytest.raises(OutputError, match="b: another process writes into it; remedy: "):
        lock_folder(folder)
    assert names(folder) == []
    os.close(first)
    os.close(lock_folder(folder))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: a file is there, not a folder; remedy: "):
        lock_folder(tmp_path / "file")
