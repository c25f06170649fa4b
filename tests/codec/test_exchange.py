"""Two names change places, and are never without what they name."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest

from codec.exchange import exchange


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two, each with a file of its own name."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    return tmp_path / "one", tmp_path / "other"


def names(folders: tuple[Path, Path]) -> list[str]:
    """What is in each."""
    return [(folder / "is").read_text() for folder in folders]


def test_folders_change_places(folders: tuple[Path, Path]) -> None:
    """With all in them; nothing else is left."""
    exchange(*folders)

    assert names(folders) == ["other", "one"]
    assert sorted(folders[0].parent.iterdir()) == sorted(folders)


def test_they_do_at_once(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By one call of the system, not by renaming one after the other."""

    def one_by_one(path: Path, target: Path) -> None:
        raise AssertionError(f"{path} is renamed to {target}")

    monkeypatch.setattr(Path, "rename", one_by_one)
    exchange(*folders)
    assert names(folders) == ["other", "one"]


@pytest.mark.parametrize("number", [None, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_is_served_otherwise(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """Where there is no such call, or it says that it is none, names are changed one by one."""
    fails(monkeypatch, number)
    exchange(*folders)

    assert names(folders) == ["other", "one"]
    assert sorted(folders[0].parent.iterdir()) == sorted(folders)


def test_what_may_not_be_renamed_is_an_error(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names both, and changes nothing."""
    fails(monkeypatch, errno.EACCES)
    with pytest.raises(PermissionError, match=r"one'.*other"):
        exchange(*folders)
    assert names(folders) == ["one", "other"]


def fails(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """Let the system have no such call, or let it fail."""

    class System:
        """What of the C library is asked for."""

        def __init__(self, *_: object, **__: object) -> None:
            if number is not None:
                self.renameat2 = lambda *_: (ctypes.set_errno(number), -1)[1]

    monkeypatch.setattr(ctypes, "CDLL", System)
