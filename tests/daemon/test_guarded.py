"""Files that somebody else could change, or read, are refused before they are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from daemon.guarded import check_folder, read_guarded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as it should be."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    file.chmod(0o640)
    return file


def test_a_sound_file_is_read(path: Path) -> None:
    """Up to as many bytes as it may have; a group may do with it what its mode says."""
    path.chmod(0o664)
    assert read_guarded(path, max_bytes=7) == b"content"
    path.chmod(0o660)
    assert read_guarded(path, max_bytes=7, secret=True) == b"content"


@pytest.mark.parametrize(
    ("mode", "secret", "problem"),
    [
        (0o642, False, "is open to everybody (mode 642); chmod o-w it"),
        (0o644, True, "is open to everybody (mode 644); chmod 600 it"),
        (0o641, True, "is open to everybody (mode 641); chmod 600 it"),
    ],
)
def test_a_file_open_to_everybody_is_refused(
    *, mode: int, secret: bool, problem: str, path: Path
) -> None:
    """To change it; a secret, to do anything with it."""
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        read_guarded(path, max_bytes=99, secret=secret)


def test_a_link_is_refused(path: Path) -> None:
    """Even one that leads to a sound file: who may change it could lead it elsewhere."""
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(ValueError, match="is a symbolic link; name the file itself"):
        read_guarded(link, max_bytes=99)


def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    """A pipe nobody writes to would be waited for; a device has no end."""
    pipe = path.with_name("pipe")
    os.mkfifo(pipe, 0o600)
    for other in (pipe, Path("/dev/zero")):
        with pytest.raises(ValueError, match="is no regular file"):
            read_guarded(other, max_bytes=99)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_guarded(path.parent, max_bytes=99)


def test_a_file_too_long_is_refused(path: Path) -> None:
    """No more is read than it may have."""
    with pytest.raises(ValueError, match="has more than 6 bytes"):
        read_guarded(path, max_bytes=6)


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    """By what the system said."""
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_guarded(path.with_name("absent"), max_bytes=6)


def test_a_way_open_to_everybody_is_refused(tmp_path: Path) -> None:
    """Who may rename a folder may put another in its place, however closed it is itself."""
    folder = tmp_path / "open" / "closed"
    folder.mkdir(parents=True, mode=0o700)
    file = folder / "file"
    file.write_bytes(b"content")
    folder.parent.chmod(0o777)
    said = re.escape(f"lies in {folder.parent}, which is open to everybody; chmod o-w that")
    with pytest.raises(ValueError, match=said):
        read_guarded(file, max_bytes=99)
    with pytest.raises(ValueError, match=said):
        check_folder(folder)
    folder.parent.chmod(0o1777)  # as /tmp: only an owner may rename
    check_folder(folder)
    assert read_guarded(file, max_bytes=99) == b"content"


def test_a_folder_open_to_everybody_is_refused(tmp_path: Path) -> None:
    """Whoever may put a file into it may put another in its place; so may who can move a link."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir(mode=0o750)
    check_folder(folder)
    folder.chmod(0o1777)
    with pytest.raises(ValueError, match=r"is open to everybody \(mode 777\); chmod o-w it"):
        check_folder(folder)
    link.symlink_to(folder)
    with pytest.raises(ValueError, match="is a symbolic link; name the folder itself"):
        check_folder(link)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is no folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        check_folder(tmp_path / "absent")
