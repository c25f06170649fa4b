"""Tiles in, products out, with a manifest beside each: every file whole or not at all."""

from __future__ import annotations

import logging
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from codec.tile import TileInfo
from codec.tile_writers import SCRATCH
from daemon.errors import OutputError
from daemon.files import PART, sync_folder
from daemon.ground.items import RestoredTile
from daemon.ground.metrics import GroundMetrics
from daemon.ground.notes import QualityNotes
from daemon.ground.products import (
    QUALITY,
    STAC,
    WITHDRAWN,
    amend_product,
    measured_in,
    mend_item,
    version_of,
    write_product,
)
from daemon.stage import KeepsNothing

log = logging.getLogger(__name__)

MANIFEST: Final = ".manifest.json"
"""What a tile's manifest ends in."""

_LEFT_BEHIND: Final = re.compile(rf"{re.escape(SCRATCH)}[a-z0-9_]{{8}}")
"""Folders of tiles half written: `codec.tile_writers.publish` removes them, unless it is killed."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_AMENDED: Final = 1024
"""Tiles, the last written, whose quality is written anew when notes of it come later."""
_NAME_LIMIT: Final = 120
"""Characters of a scene's name that go into a file's; file systems stop at 255 bytes."""


class WriteWorker(KeepsNothing):
    """Writes tiles.

    Args:
        directory: Where files go, of this process alone; made if it is not there. What one that
            was killed left half written is removed, or ended where that can be.
        file_format: As in `codec.tile_files.write_tile`.
        metrics: Counts tiles written and their patches, and tiles that could not be.
        on_written: Told each tile that would survive a loss of power. Must not raise.
        notes: What the board measured of patches; None: nothing.
        on_amended: Told the name without suffix, and `sent_as`, of a tile whose quality was written
            anew, because notes of it came after it was written. Must not raise.

    Raises:
        OutputError: If the directory cannot be made or read.
    """

    def __init__(
        self,
        directory: Path,
        file_format: str,
        metrics: GroundMetrics,
        on_written: Callable[[RestoredTile], object] = lambda _: None,
        *,
        notes: QualityNotes | None = None,
        on_amended: Callable[[str, tuple[int, int]], object] = lambda *_: None,
    ) -> None:
        self._directory, self._format, self._metrics = directory, file_format, metrics
        self._on_written, self._on_amended = on_written, on_amended
        self._notes = notes or QualityNotes()
        self._written: OrderedDict[bytes, tuple[Path, tuple[int, int]]] = OrderedDict()
        make_clean(directory)
        _mend_items(directory)

    def accept(self, item: RestoredTile) -> Iterator[Path]:
        """Write the tile, its manifest and what else a product has; return the tile's path.

        Raises:
            OutputError: If any of it cannot be written.
        """
        stem = self._directory / file_stem(item.tile.info)
        path, noted = stem, self._with_notes(item, stem)
        try:
            path = write_product(noted, stem, self._format, {MANIFEST: partial(manifest, item)})
            sync_folder(self._directory)
        except OutputError as error:
            self._metrics.tile_write_errors.inc()
            raise OutputError(path, str(error)) from None
        self._remember(item, stem)
        self._on_written(item)
        self._metrics.patches_written.inc(item.patches)
        self._metrics.patches_missing.inc(len(item.missing))
        state = "partial" if item.missing else "complete"
        self._metrics.tiles_written.labels(state).inc()
        log.info("written", extra={"file": path.name, "state": state, "version": version_of(stem)})
        yield path

    def tick(self) -> tuple[()]:
        """Amend what was written before notes of it came; what cannot be is a line and a count."""
        for tile_id in self._notes.news() & self._written.keys():
            path, sent_as = self._written[tile_id]
            try:
                if amend_product(path, self._notes.of(tile_id)):
                    self._on_amended(path.name, sent_as)
            except OutputError as error:
                self._metrics.tile_write_errors.inc()
                log.warning("quality not written", extra={"error": str(error)})
        return ()

    def finish(self) -> tuple[()]:
        """Amend what came last."""
        return self.tick()

    def _with_notes(self, item: RestoredTile, path: Path) -> RestoredTile:
        """The same with what the board measured, as told now or to what wrote it before."""
        measured = measured_in(path, item) | self._notes.of(item.side.tile_id)
        records = {
            place: replace(record, **measured[place]._asdict()) if place in measured else record
            for place, record in item.records.items()
        }
        return replace(item, records=records)

    def _remember(self, item: RestoredTile, path: Path) -> None:
        self._written[item.side.tile_id] = path, item.sent_as
        self._written.move_to_end(item.side.tile_id)
        if len(self._written) > _AMENDED:
            self._written.popitem(last=False)


def make_clean(directory: Path) -> None:
    """Make a folder, or remove what a process that was killed left half written there.

    Raises:
        OutputError: If it cannot be made or read.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            part = PART.fullmatch(path.name)
            if part and part[1].endswith((MANIFEST, QUALITY, STAC)) and path.is_file():
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(directory, str(error)) from None


def _mend_items(directory: Path) -> None:
    """Give products their items again whose quality was written anew when a process was killed."""
    for path in directory.glob(f".*{WITHDRAWN}"):
        try:
            mend_item(path.with_name(path.name[1:].removesuffix(WITHDRAWN)))
        except OutputError as error:
            log.warning("item not mended", extra={"error": str(error)})


def file_stem(info: TileInfo) -> str:
    """Name of a tile's files without suffix.

    The tile's id keeps apart what `safe_name` makes equal.
    """
    place = f"r{info.tile_row:03d}c{info.tile_col:03d}"
    return f"{safe_name(info.scene)}_{place}_{info.sequence:06d}_{info.tile_id.hex()[:8]}"


def safe_name(scene: str) -> str:
    """What of a scene's name goes into names of files.

    It comes over the link: only letters, digits and `._-` of it survive.
    """
    return _UNSAFE.sub("_", scene)[:_NAME_LIMIT].lstrip(".") or "scene"


def manifest(item: RestoredTile, file_name: str) -> dict[str, object]:
    """Describe a written tile for people and programs; patches as [row, col]."""
    info, side = item.tile.info, item.side
    return {
        "file": file_name,
        "tile_id": info.tile_id.hex(),
        "sensor": info.sensor,
        "scene": info.scene,
        "tile_row": info.tile_row,
        "tile_col": info.tile_col,
        "sequence": info.sequence,
        "start_utc_s": info.start_utc_s,
        "shape": list(side.shape),
        "patch_px": side.patch_px,
        "coded_bands": int(side.valid_bands.sum()),
        "model": side.model.hex(),
        "step": side.step,
        "patches": len(side.grid),
        "patches_missing": [list(position) for position in item.missing],
        "frames": [list(frame) for frame in item.frames],
        "frame_bytes": item.frame_bytes,
    }
