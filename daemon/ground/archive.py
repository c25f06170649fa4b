"""Complete frames on a disk: what the board was told is safe outlives the ground's process.

Records (`daemon.ground.record_files`) are frames, and marks that a tile was written. Of each frame
only its place is kept in memory.

A frame of a tile of which nothing is under way (`daemon.ground.kept_tiles`) does not go on alone:
once there are more at hand than the tile was written with, `unfinished` gives them all.

Where the disk fails frames go on as ever and are not durable; `on_lost` has them, so that the board
can send them again. From time to time the disk is tried again, with a new file.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from codec.frame import SideFrame, parse
from daemon.clock import Clock
from daemon.disk import Disk, LocalDisk
from daemon.ground.archive_records import FRAME, HEAD, MADE_OF, MARK, MAX_PAYLOAD_BYTES
from daemon.ground.items import CollectedFrame, RestoredTile
from daemon.ground.kept_tiles import KeptTile, KeptTiles, Key
from daemon.ground.metrics import GroundMetrics
from daemon.ground.record_files import Place, RecordFiles
from daemon.link.packet import Channel
from daemon.records import OVERHEAD_BYTES, Recovery

log = logging.getLogger(__name__)

REPEATED: Final = "repeated"
LATE: Final = "late"
WAITS: Final = "waits"
NO_MODEL: Final = "no_model"
"""Why a frame does not go on at once: it, or its whole tile, was here before; its tile was sent
anew, or written with as many; `unfinished` gives it, now or with its side information; or once its
model has come."""

WRITTEN: Final = "written"
UNWRITTEN: Final = "unwritten"
DAMAGED: Final = "damaged"
"""Why a frame is no longer in the archive: for want of room, its tile being written whole, or not;
its record cannot be read."""

_UNMARKED_KEPT: Final = 4096
"""Tiles remembered as written whose marks the disk does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Bounds of an archive.

    Attributes:
        max_bytes: Most its files take; beyond it whole segments are removed.
        segment_bytes: A file that has grown to this gets no more records.
        sync_frames: So many frames are synced together.
        sync_s: None waits longer for others to be synced with [s].
        retry_s: Time between two tries of a disk that failed [s].
    """

    max_bytes: int
    segment_bytes: int
    sync_frames: int
    sync_s: float
    retry_s: float


class _Held(NamedTuple):
    place: Place
    tile: KeptTile


class FrameArchive:
    """Frames by boot and number, of one process alone.

    One thread appends, syncs and reads; the rest may be called from any.

    Args:
        folder: Of its files; made if it is not there.
        limits: Bounds.
        clock: Times syncs and retries.
        disk: The file system.
        metrics: Told what is kept, found and lost.
        on_lost: Called with frames that are not on the disk: that came while it failed, or whose
            records are damaged. Must not raise.
        has_model: Whether frames of a model can be decoded; those of another wait for `model_came`.

    Attributes:
        degraded: Why the disk is not used: the error's name, as "ENOSPC"; None while it is.
    """

    def __init__(
        self,
        folder: Path,
        limits: ArchiveLimits,
        clock: Clock,
        disk: Disk | None = None,
        *,
        metrics: GroundMetrics,
        on_lost: Callable[[Sequence[Key]], object] = lambda _: None,
        has_model: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        self._has_model = has_model
        self._limits, self._clock = limits, clock
        self._metrics, self._on_lost = metrics, on_lost
        self._files = RecordFiles(
            folder,
            disk or LocalDisk(),
            segment_bytes=limits.segment_bytes,
            limit=MAX_PAYLOAD_BYTES,
        )
        self._mutex = threading.RLock()
        self._frames: dict[Key, _Held] = {}
        self._tiles = KeptTiles()
        self._reading: Iterator[CollectedFrame] = iter(())
        self._unsynced: dict[Key, None] = {}
        self._again: list[Key] = []
        self._since_s = math.inf
        self._retry_at_s = -math.inf
        self.degraded: str | None = None
        self._took_since = False  # a record, since the disk failed last
        with self._mutex:
            self._is_ready()
            self._tell()

    @property
    def recovery(self) -> Recovery:
        """What was found of an earlier process."""
        return self._files.recovery

    # ---- the thread that keeps -----------------------------------------------------------------

    def append(self, frame: CollectedFrame) -> str | None:
        """Take a frame in.

        Returns:
            None where it goes on to be decoded; otherwise why it does not.

        Raises:
            CodecError: If it is no frame.
        """
        parsed = parse(frame.raw)
        tile_id = parsed.tile_id
        with self._mutex:
            self._is_ready()
            self._record_marks()
            tile = self._tiles.find(frame.boot_id, tile_id)
            if frame.key in self._frames or (tile and tile.has_whole(frame.frame_id)):
                if frame.key not in self._frames and tile in self._tiles.unmarked:
                    self._on_lost([frame.key])  # the next process would know of neither
                elif frame.key not in self._unsynced:
                    self._again.append(frame.key)
                    self._since_s = min(self._since_s, self._clock.monotonic_s())
                return REPEATED
            self._make_room(OVERHEAD_BYTES + HEAD.size + frame.size_bytes)
            place = self._write(HEAD.pack(FRAME, frame.channel, *frame.key, tile_id) + frame.raw)
            if place is None:
                self._on_lost([frame.key])
                return LATE if tile and tile.written and not tile.under_way else None
            tile = self._tiles.have(frame.boot_id, tile_id, under_way=True)
            self._frames[frame.key] = _Held(place, tile)
            if frame.channel is Channel.SIDE or not tile.has_side:
                known = self._has_model(parsed.model)
                self._tiles.lack(tile, None if known else parsed.model)
            self._tiles.add(tile, frame.frame_id, frame.channel)
            self._unsynced[frame.key] = None
            self._tell()
            if not self._tiles.is_newest(tile):
                return LATE
            if tile.lacks_model is not None:
                return NO_MODEL
            if tile.under_way and frame.frame_id >= tile.side:
                return None
            return WAITS if self._tiles.is_due(tile) or not tile.has_side else LATE

    @property
    def sync_is_due(self) -> bool:
        """Whether there is something for `sync` that should wait no longer."""
        with self._mutex:
            waited_s = self._clock.monotonic_s() - self._since_s
            waiting = len(self._unsynced) + len(self._again)
            return waiting >= self._limits.sync_frames or waited_s >= self._limits.sync_s

    def sync(self) -> list[Key]:
        """Bring what was written to the disk.

        Returns:
            The frames that are durable now, and those that were and came again.
        """
        with self._mutex:
            again, unsynced, dirty = self._again, list(self._unsynced), self._files.dirty
            self._again, self._unsynced, self._since_s = [], {}, math.inf
            try:
                self._files.sync()
            except OSError as error:
                self._degrade(error)
                for segment in dirty:
                    self._tiles.lose_marks_of(segment)
                self._lose(unsynced)
                self._on_lost(again)
                return []
            else:
                if self._took_since and self.degraded is not None:
                    log.info("archive uses the disk again", extra={"was": self.degraded})
                    self.degraded = None
            finally:
                self._tell()
            return again + unsynced

    def unfinished(self) -> Iterator[CollectedFrame]:
        """Read frames of tiles of which more is at hand than they were written with.

        Tile by tile, in the order these came; of each the side frame, then the others in the order
        they came. A later call goes on where an earlier one was left.
        """
        while True:
            while (frame := next(self._reading, None)) is not None:
                yield frame
            with self._mutex:
                self._is_ready()
                tile = self._tiles.next_due()
                if tile is None:
                    return
                self._reading = self._frames_if_decodable(tile)

    def _frames_if_decodable(self, tile: KeptTile) -> Iterator[CollectedFrame]:
        frames = self.frames_of(*tile.key)
        if (side := next(frames, None)) is None:
            return
        model = parse(side.raw).model
        with self._mutex:
            if not self._has_model(model):  # what an earlier process left does not say so
                self._tiles.lack(tile, model)
                self._tell()
                return
        for frame in chain([side], frames):
            if not tile.under_way:
                return  # its deadline passed between two of its frames; it is due anew
            tile.tried += 1
            yield frame

    def frames_of(self, boot_id: int, tile_id: bytes) -> Iterator[CollectedFrame]:
        """Read the frames of a tile as it was sent last, its side frame first."""
        with self._mutex:
            tile = self._tiles.find(boot_id, tile_id)
            keys = tile.current if tile else []
        for key in keys:
            if (frame := self.read(key)) is not None:
                yield frame

    def read(self, key: Key) -> CollectedFrame | None:
        """Read a frame; one that cannot be read is no longer in the archive."""
        with self._mutex:
            held = self._frames.get(key)
            if held is None:
                return None
            try:
                payload = self._files.read(held.place) or bytes(HEAD.size)
            except OSError as error:
                log.warning("archived frame cannot be read", extra={"error": str(error)})
                payload = bytes(HEAD.size)
            kind, channel, *found, tile_id = HEAD.unpack_from(payload)
            if (kind, tuple(found), tile_id) != (FRAME, key, held.tile.key[1]):
                log.warning("archived frame lost", extra={"boot_id": key[0], "frame_id": key[1]})
                self._metrics.archive_dropped_frames.labels(DAMAGED).inc()
                self._unsynced.pop(key, None)
                self._lose([key])
                return None
            raw, (boot_id, frame_id) = payload[HEAD.size :], key
            return CollectedFrame(
                raw=raw, channel=Channel(channel), boot_id=boot_id, frame_id=frame_id, replayed=True
            )

    # ---- any thread ----------------------------------------------------------------------------

    def holds(self, boot_id: int, frame_id: int) -> bool:
        """Whether a frame is in the archive, durable or not yet."""
        with self._mutex:
            return (boot_id, frame_id) in self._frames

    def keys(self) -> list[Key]:
        """Every frame that is durable, in the order they came."""
        with self._mutex:
            return [key for key in self._frames if key not in self._unsynced]

    def written(self, item: RestoredTile) -> None:
        """Note that a tile is whole on the disk, as far as it arrived."""
        boot_id, side = item.sent_as
        last = max(frame_id for _, frame_id in item.frames)
        with self._mutex:
            self._is_ready()
            tile = self._tiles.have(boot_id, item.side.tile_id, under_way=True)
            whole, frames = not item.missing, len(item.frames)
            if self._tiles.mark(tile, side, complete=whole, frames=frames, last=last):
                self._tiles.unmarked[tile] = None
                self._record_marks()
            if len(self._tiles.unmarked) > _UNMARKED_KEPT:
                forgotten = next(iter(self._tiles.unmarked))
                del self._tiles.unmarked[forgotten]
                self._tiles.forget_if_empty(forgotten)

    def waits(self, side: SideFrame, sent_as: Key) -> None:
        """Note that of a tile nothing but its side information came yet, and nothing is written."""
        boot_id, side_id = sent_as
        with self._mutex:
            tile = self._tiles.find(boot_id, side.tile_id)
            if tile is not None:
                self._tiles.rest(tile, side_id)

    def model_came(self, model: bytes) -> None:
        """Have tiles of a model that was not there be decoded."""
        with self._mutex:
            self._tiles.model_came(model)
            self._tell()

    def gave_up(self, frame: CollectedFrame) -> None:
        """Note that a patch was not decoded, for want of side information."""
        with self._mutex:
            held = self._frames.get(frame.key)
            if held is not None:
                self._tiles.halt(held.tile)

    def close(self) -> None:
        """Sync and close; nothing is taken in after that."""
        with self._mutex:
            self.sync()
            self._files.close()
            self._retry_at_s = math.inf

    # ---- inside: the disk ----------------------------------------------------------------------

    def _is_ready(self) -> bool:
        """Whether the disk may be used; when it first can, find what an earlier process left."""
        if self._clock.monotonic_s() < self._retry_at_s:
            return False
        if self._files.is_open:
            return True
        try:
            for place, head in self._files.open(HEAD.size + MADE_OF.size):
                self._find(place, head)
        except OSError as error:
            self._degrade(error)
            return False
        found = self._files.recovery
        log.info(
            "archive opened",
            extra={"frames": len(self._frames), "skipped_bytes": found.skipped_bytes},
        )
        self._metrics.archive_recovered_frames.set(len(self._frames))
        self._metrics.archive_skipped_bytes.set(found.skipped_bytes)
        self._metrics.archive_unreadable_files.set(found.unreadable)
        self._again.extend(self._frames)  # the next sync tells them, however late it is
        self._since_s = self._clock.monotonic_s()
        return True

    def _find(self, place: Place, head: bytes) -> None:
        """Enter a record that an earlier process wrote."""
        if len(head) < HEAD.size:
            return
        kind, flag, boot_id, frame_id, tile_id = HEAD.unpack_from(head)
        if kind == FRAME and flag in tuple(Channel) and (boot_id, frame_id) not in self._frames:
            tile = self._tiles.have(boot_id, tile_id, under_way=False)
            self._frames[boot_id, frame_id] = _Held(place, tile)
            self._tiles.add(tile, frame_id, flag)
        elif kind == MARK and place.size == HEAD.size + MADE_OF.size:
            tile = self._tiles.have(boot_id, tile_id, under_way=False)
            frames, last = MADE_OF.unpack_from(head, HEAD.size)
            self._tiles.mark(tile, frame_id, complete=bool(flag), frames=frames, last=last)
            tile.marked_in = place.segment

    def _write(self, payload: bytes) -> Place | None:
        """Write a record; None if the disk fails, or has failed lately."""
        if not self._is_ready():
            return None
        try:
            place = self._files.append(payload)
        except OSError as error:
            self._degrade(error)
            return None
        self._since_s = min(self._since_s, self._clock.monotonic_s())
        self._took_since = True
        return place

    def _record_marks(self) -> None:
        """Write the marks that wait; in the end they are synced with the frames."""
        for tile in self._tiles.to_be_marked():
            head = HEAD.pack(MARK, tile.complete, tile.key[0], tile.side, tile.key[1])
            place = self._write(head + MADE_OF.pack(tile.written, tile.last))
            if place is None:
                return
            tile.marked_in = place.segment
            del self._tiles.unmarked[tile]

    def _lose(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self._forget(key)
        self._on_lost(keys)

    def _forget(self, key: Key) -> None:
        held = self._frames.pop(key, None)
        if held is not None:
            self._tiles.remove(held.tile, key[1])

    def _make_room(self, size: int) -> None:
        """Remove the oldest segment of tiles all written whole; if there is none, the oldest."""
        while self._files.used_bytes + size > self._limits.max_bytes:
            if not (segments := self._files.removable()):
                return
            needed = {
                h.place.segment for h in self._frames.values() if not self._tiles.is_spent(h.tile)
            }
            segment = next((s for s in segments if s not in needed), segments[0])
            for key in [k for k, held in self._frames.items() if held.place.segment is segment]:
                reason = WRITTEN if self._tiles.is_spent(self._frames[key].tile) else UNWRITTEN
                self._metrics.archive_dropped_frames.labels(reason).inc()
                self._forget(key)
            self._tiles.lose_marks_of(segment)
            self._record_marks()
            self._files.remove(segment)

    def _degrade(self, error: OSError) -> None:
        reason = errno.errorcode.get(error.errno or 0, "EIO")
        if self.degraded is None:  # said once, however often the disk is tried
            told = {"folder": str(self._files.folder), "reason": reason, "error": str(error)}
            log.error("archive degraded", extra=told)
        self.degraded, self._took_since = reason, False
        self._retry_at_s = self._clock.monotonic_s() + self._limits.retry_s
        self._tell()

    def _tell(self) -> None:
        self._metrics.archive_frames.set(len(self._frames))
        self._metrics.tiles_without_model.set(self._tiles.without_model)
        self._metrics.archive_bytes.set(self._files.used_bytes)
        self._metrics.archive_degraded.set(self.degraded is not None)
