"""From the ground's stages to the page: what they tell, without waiting, becomes what visitors see.

    mosaic, write ─► mailbox (drops the oldest) ─► WatchWorker ─► Bulletin ◄─ visitors

The stages put and go on. The worker, on a thread of its own, is the only one that changes anything;
visitors read bulletins, which are frozen, and samples, which are behind a lock.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from codec.errors import TileError
from daemon.clock import Clock
from daemon.errors import OutputError
from daemon.ground.items import RestoredTile, TilePart
from daemon.ground.report import HeardBeacon
from daemon.ground.web.kept_samples import KeptSamples
from daemon.ground.web.link_watch import LinkCounts, LinkView, LinkWatch, PassRecord
from daemon.ground.web.pass_log import PassLog
from daemon.ground.web.tile_board import TileBoard
from daemon.ground.web.tile_view import MAX_PATCHES, TEXT_LIMIT, TileView, scene_files
from daemon.ground.write import MANIFEST, file_stem

log = logging.getLogger(__name__)

_MISSING: Final = ("prismlink_packets_missing", "gap")
_LOSS: Final = "prismlink_link_loss_ratio"
_KEEP_S: Final = 5.0
"""Time between two writes of the pass under way: so much of it is lost with the process [s]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """A tile is on the disk.

    Attributes:
        stem: Name of its files without suffix.
        sent_as: As of `daemon.ground.items.TilePart`.
        size_bytes: Of samples that this holds: none.
    """

    stem: str
    sent_as: tuple[int, int]
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneThere:
    """A product of a scene is on the disk.

    Attributes:
        sensor: Of its tiles.
        scene: Their scene's name.
        stem: Name of its files without suffix.
        size_bytes: Of samples that this holds: none.
    """

    sensor: str
    scene: str
    stem: str
    size_bytes: int = 0


Seen: TypeAlias = TilePart | RestoredTile | Written | SceneThere
"""What the stages tell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bulletin:
    """All that visitors are told, at a moment.

    Attributes:
        utc_s: The moment [s since 1970-01-01 UTC].
        version: Of the tiles.
        link: The link.
        beacon: What the board said of itself last; None: it is not heard.
        tiles: The tiles, the last changed last.
        scenes: Files of products of scenes, by sensor and scene.
        passes: Contacts that are over, oldest first.
        passes_version: How many there have been.
    """

    utc_s: float
    version: int
    link: LinkView
    beacon: Mapping[str, Any] | None
    tiles: tuple[TileView, ...]
    scenes: Mapping[tuple[str, str], tuple[str, ...]]
    passes: tuple[PassRecord, ...]
    passes_version: int

    def has_file(self, name: str) -> bool:
        """Whether it is the name of a file of one of the products."""
        return any(name in view.files for view in self.tiles) or any(
            name in files for files in self.scenes.values()
        )

    def tile(self, tile_id: str) -> TileView | None:
        """One of the tiles."""
        return next((view for view in self.tiles if view.tile_id == tile_id), None)

    def to_json(self, seen: int = -1, passes_seen: int = -1) -> dict[str, Any]:
        """As a table for a visitor who has seen all up to a version of the tiles, and some passes.

        The ids of all tiles are there whenever one has changed: others are told of no more.
        """
        table: dict[str, Any] = {
            "utc_s": self.utc_s,
            "version": self.version,
            "passes_version": self.passes_version,
            "link": self.link.to_json(),
            "beacon": self.beacon,
        }
        if self.version != seen:
            table["ids"] = [view.tile_id for view in self.tiles]
            table["tiles"] = [view.to_json() for view in self.tiles if view.version > seen]
            table["products"] = [
                {"sensor": sensor, "scene": scene, "files": list(files)}
                for (sensor, scene), files in self.scenes.items()
            ]
        if self.passes_version != passes_seen:
            table["passes"] = [record.to_json() for record in self.passes]
        return table


class WatchWorker:
    """Keeps the bulletin; a `daemon.stage.Worker` at the end of its line.

    Args:
        directory: Where tiles and their manifests are.
        board: The tiles told of.
        samples: Their samples.
        passes: Where contacts that are over go.
        link: Follows the link.
        totals: Every metric, as `daemon.metrics.GroundMetrics.totals` has them.
        beacon: The last beacon heard, or None.
        has_uplink: Whether `link_loss` is measured.
        clock: Tells when.

    Attributes:
        bulletin: The latest; replaced whole, so that any thread may take it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        board: TileBoard,
        samples: KeptSamples,
        passes: PassLog,
        link: LinkWatch,
        totals: Callable[[], Mapping[str, float]],
        beacon: Callable[[], HeardBeacon | None],
        has_uplink: bool,
        clock: Clock,
    ) -> None:
        self._directory, self._board, self._samples = directory, board, samples
        self._passes, self._link, self._clock = passes, link, clock
        self._totals, self._beacon, self._has_uplink = totals, beacon, has_uplink
        self._has_begun, self._keep_at_s = False, 0.0
        self.bulletin = self._made()

    def accept(self, item: Seen) -> Iterator[None]:
        """Take what a stage told.

        Raises:
            TileError: If it has more patches than are shown.
            OutputError: If the manifest of a tile that was written cannot be read.
        """
        self._begin()
        if isinstance(item, SceneThere):
            files = scene_files(self._directory, item.stem)
            self._board.scene_written(item.sensor[:TEXT_LIMIT], item.scene[:TEXT_LIMIT], files)
            return iter(())
        if not isinstance(item, Written) and len(item.side.grid) > MAX_PATCHES:
            raise TileError(f"a tile of {len(item.side.grid)} patches; {MAX_PATCHES} are shown")
        match item:
            case TilePart():
                self._samples.part(item)
                gone = self._board.part(item)
            case RestoredTile():
                self._samples.closed(item)
                gone = self._board.closed(item)
            case Written():
                path = self._directory / f"{item.stem}{MANIFEST}"
                try:
                    gone = self._board.written(TileView.of_manifest(path), item.sent_as)
                except (OSError, ValueError) as error:
                    raise OutputError(path, f"cannot be read again: {error}") from None
        for tile_id in gone:
            self._samples.drop(tile_id)
        return iter(())

    def tick(self) -> tuple[()]:
        """Look at the link; tell visitors."""
        self._begin()
        totals = self._totals()
        came, now_s = LinkCounts.of(totals), self._clock.monotonic_s()
        ended = self._link.look(
            came, self._loss(totals, came), now_s=now_s, utc_s=self._clock.utc_s()
        )
        if ended is not None:
            self._passes.append(ended)
        elif now_s >= self._keep_at_s and (current := self._link.current()) is not None:
            self._passes.under_way(current)
            self._keep_at_s = now_s + _KEEP_S
        self.bulletin = self._made()
        return ()

    def finish(self) -> tuple[()]:
        """Keep the contact that is cut off."""
        self.tick()
        if (cut := self._link.finish()) is not None:
            self._passes.append(cut)
        return ()

    def _begin(self) -> None:
        """Find what earlier processes wrote; here, so that no packet has to wait for that."""
        if not self._has_begun:
            self._has_begun = True
            self._board.found(_newest(self._directory, self._board.max_tiles))

    def _made(self) -> Bulletin:
        now_s, utc_s = self._clock.monotonic_s(), self._clock.utc_s()
        heard = self._beacon()
        return Bulletin(
            utc_s=utc_s,
            version=self._board.version,
            link=self._link.view(now_s=now_s, utc_s=utc_s),
            beacon=None if heard is None else _told(heard, now_s),
            tiles=self._board.tiles,
            scenes=self._board.scenes,
            passes=self._passes.passes,
            passes_version=self._passes.version,
        )

    def _loss(self, totals: Mapping[str, float], came: LinkCounts) -> float | None:
        """Share of packets that do not come: lately, where beacons tell, else since the start."""
        if self._has_uplink:
            return totals.get(_LOSS)
        name, reason = _MISSING
        missing = totals.get(f'{name}{{reason="{reason}"}}', 0.0)
        sent = came.packets - came.repeated + missing
        return missing / sent if sent > 0 else None


def written(item: RestoredTile) -> Written:
    """What there is to tell of a tile that was written."""
    return Written(stem=file_stem(item.tile.info), sent_as=item.sent_as)


def _told(heard: HeardBeacon, now_s: float) -> dict[str, Any]:
    """A beacon for people."""
    beacon = heard.beacon
    return {
        "age_s": now_s - heard.heard_s,
        "boot_id": f"{heard.boot_id:08x}",
        "sent_packets": beacon.sent_packets,
        "frames_sent": sum(boot.sent_below for boot in beacon.boots),
        "frames_kept": sum(max(0, b.sent_below - b.kept_from) for b in beacon.boots),
    }


def _newest(directory: Path, most: int) -> list[TileView]:
    """The tiles whose manifests were written last, oldest first."""
    try:
        with os.scandir(directory) as entries:
            found = heapq.nlargest(
                most,
                (
                    (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                    for entry in entries
                    if entry.name.endswith(MANIFEST)
                ),
            )
    except FileNotFoundError:  # nothing was ever written
        return []
    except OSError as error:
        log.warning("manifests not found", extra={"error": str(error)})
        return []
    views: list[TileView] = []
    for _, name in reversed(found):
        try:
            views.append(TileView.of_manifest(directory / name))
        except (OSError, ValueError) as error:  # of another program, or of another version
            log.warning("manifest not read", extra={"error": str(error)})
    return views
