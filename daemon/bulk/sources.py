"""What there is to decode: frame files, archives, spools, and captures of the link.

A folder is an archive if files of records lie in it, a spool if they lie in folders named after its
lanes; any other folder is searched to the bottom.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from codec.errors import TileFileError
from codec.prism_file import MAGIC
from daemon.link.lanes import LANES

Kind: TypeAlias = Literal["frame file", "archive", "spool", "capture"]

LOG_NAME: Final = re.compile(r"[0-9]{20}\.log")
"""Of a file of records, whoever wrote it."""
FRAME_FILE: Final = ".prism"
CAPTURES: Final = (".pcap", ".pcapng", ".cap", ".bin", ".raw")
"""Suffixes by which a folder's files are known to be captures; a file that is named need not have
one."""

_LANES: Final = frozenset(lane.folder for lane in LANES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that holds frames.

    Attributes:
        kind: Which.
        path: A file, or the folder of an archive or a spool.
    """

    kind: Kind
    path: Path


def find_sources(path: Path) -> list[Source]:
    """Find what is at a path, in order of names.

    Raises:
        TileFileError: If nothing is there, or it cannot be read.
    """
    try:
        if path.is_dir():
            found = _in_folder(path)
        else:
            with path.open("rb") as file:
                framed = file.read(len(MAGIC)) == MAGIC or path.suffix.lower() == FRAME_FILE
            found = [Source(kind="frame file" if framed else "capture", path=path)]
    except OSError as error:
        raise TileFileError(
            f"{path}: cannot be read: {error.strerror}; remedy: check the path"
        ) from None
    if not found:
        raise TileFileError(
            f"{path}: neither frames nor packets there; remedy: name a {FRAME_FILE} file, the "
            f"folder of an archive or a spool, or captures ({', '.join(CAPTURES)})"
        )
    return found


def log_files(source: Source) -> list[Path]:
    """The files of records of an archive or a spool, in the order they were begun.

    Raises:
        OSError: If a folder cannot be read.
    """
    folders = [source.path]
    if source.kind == "spool" and source.path.name not in _LANES:
        folders = [source.path / lane.folder for lane in LANES]
    return [
        folder / name for folder in folders if folder.is_dir() for name in _logs(os.listdir(folder))
    ]


def _in_folder(path: Path) -> list[Source]:
    found = list[Source]()
    for folder, folders, files in os.walk(path, onerror=_raise):
        here = Path(folder)
        if kind := _kind_of_folder(here, folders, files):
            found.append(Source(kind=kind, path=here))
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if name.startswith(".") or suffix not in (FRAME_FILE, *CAPTURES):
                continue
            found.append(
                Source(kind="frame file" if suffix == FRAME_FILE else "capture", path=here / name)
            )
    return found


def _kind_of_folder(path: Path, folders: Iterable[str], files: Iterable[str]) -> Kind | None:
    names = set(files)
    if path.name in _LANES and ("cursor" in names or _logs(names)):
        return "spool"
    if _logs(names) or (names == {"lock"} and not {*folders} - {"half-received"}):
        return "archive"
    lanes = _LANES.intersection(folders)
    return "spool" if any((path / lane / "cursor").exists() for lane in lanes) else None


def _logs(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if LOG_NAME.fullmatch(name))


def _raise(error: OSError) -> None:
    raise error
