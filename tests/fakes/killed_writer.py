"""A ground that is killed at each step of writing a product anew, or of amending it.

`python -m fakes.killed_writer DIRECTORY FORMAT write|amend` makes a folder `000` with a product
that has a hole, and completes or amends it in a process that is killed before its first change of a
name there; then a folder `001`, before its second; and so on until a process gets to its end. A
file `told` in a folder says that the tile was told to be written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import rasterio  # noqa: F401  # once, before the processes that need it
import zarr  # noqa: F401

from daemon.ground.metrics import GroundMetrics
from daemon.ground.notes import QualityNotes
from daemon.ground.write import WriteWorker
from daemon.link.quality_note import QualityNote
from daemon.metrics import new_registry
from fakes.ground import restored
from fakes.product_reader import tile_of

TILE: Final = tile_of(1)
TOLD: Final = "told"
NOTE: Final = QualityNote(tile_id=TILE.info.tile_id, row=0, col=1, psnr_db=40.0, max_abs_error=2.0)
_KILLED: Final = 9
_MOST: Final = 100
_PATHS: Final = {"open": 1, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.rename": 2}
"""Events that change names, and how many paths are told with them."""


def writer(folder: Path, file_format: str, notes: QualityNotes | None = None) -> WriteWorker:
    """A ground's, that leaves word of what it says is written."""
    metrics, told = GroundMetrics(new_registry()), folder / TOLD
    return WriteWorker(folder, file_format, metrics, lambda _: told.touch(), notes=notes)


def _changes(event: str, given: tuple[Any, ...]) -> bool:
    """Whether a name changes, of what is no scratch; what is removed with that is relative."""
    if event == "ctypes.dlsym":
        return "renameat2" in given
    if event == "open" and not (isinstance(given[2], int) and given[2] & os.O_CREAT):
        return False
    paths = map(str, given[: _PATHS.get(event, 0)])
    return any(path.startswith(os.sep) and ".partial-" not in path for path in paths)


def _die_before(change: int) -> None:
    """End the process as `kill -9` does."""
    left = change

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if _changes(event, given):
            left -= 1
            if left < 0:
                os._exit(_KILLED)

    sys.addaudithook(watch)


def _work(folder: Path, file_format: str, what: str, change: int) -> None:
    folder.mkdir()
    notes = QualityNotes()
    target = writer(folder, file_format, notes)
    list(target.accept(restored(TILE, (1, 0))))
    (folder / TOLD).unlink()
    _die_before(change)
    if what == "amend":
        notes.put(NOTE)
        target.tick()
    else:
        list(target.accept(restored(TILE)))


def main(directory: str, file_format: str, what: str) -> None:
    """Have one process after the other killed."""
    for change in range(_MOST):
        process = os.fork()
        if process == 0:
            _work(Path(directory) / f"{change:03d}", file_format, what, change)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        ended = os.waitstatus_to_exitcode(status)
        if ended != _KILLED:
            raise SystemExit(ended)
    raise SystemExit(f"not at its end after {_MOST} changes")


if __name__ == "__main__":
    main(*sys.argv[1:])
