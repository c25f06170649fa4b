"""Frames in, the same frames out: kept on a disk on their way, and read back where needed.

What comes faster than it can be decoded does not wait in memory, and holds nothing up: it is on the
disk, and is read back in the order it came when there is room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Final

from codec.errors import CodecError
from daemon.ground.archive import FrameArchive
from daemon.ground.half_received import HalfReceived
from daemon.ground.items import CollectedFrame
from daemon.ground.kept_tiles import Key
from daemon.ground.metrics import GroundMetrics

DEFERRED: Final = "deferred"
"""Why a frame is set aside: there is no room for more that wait to be decoded."""
_READ_AT_ONCE_BYTES: Final = 4 << 20
"""Of frames read back, delivered before anything else is done."""


class KeepWorker:
    """Archives frames and passes them on, without waiting for the disk or for who decodes them.

    Args:
        archive: Where they are kept; None: nowhere.
        on_durable: Told which frames need not be sent again, some more than once: those on the
            disk, those that are no frames, and without an archive all. Must not raise.
        metrics: Counts frames that are set aside or read back.
        room: How many frames can be passed on now without having to wait.
        half_received: Told the same, and has what it was offered of incomplete frames written;
            None: nobody keeps that.
    """

    def __init__(
        self,
        archive: FrameArchive | None,
        on_durable: Callable[[Sequence[Key]], object],
        metrics: GroundMetrics,
        room: Callable[[], int],
        half_received: HalfReceived | None = None,
    ) -> None:
        self._archive, self._on_durable, self._metrics = archive, on_durable, metrics
        self._room, self._half_received = room, half_received
        self._deferred: deque[Key] = deque()

    def accept(self, item: CollectedFrame) -> Iterator[CollectedFrame]:
        """Keep a frame; pass it on unless it was here before or goes on with others of its tile."""
        if self._archive is None:
            self._on_durable([item.key])
            yield item
            return
        try:
            reason = self._archive.append(item)
        except CodecError:  # nothing will ever come of it; who decodes it counts it
            self._are_durable([item.key])
            reason = None
        if reason is None and self._waits(self._archive, item.key):
            self._deferred.append(item.key)
            self._tell()
            reason = DEFERRED
        if reason is None:
            yield item
        else:
            self._metrics.frames_set_aside.labels(item.channel.name.lower(), reason).inc()
        yield from self.tick()

    def tick(self) -> Iterator[CollectedFrame]:
        """Sync if it is time; read back some of what is to be decoded later, or again."""
        if self._archive is None:
            return
        if self._archive.sync_is_due:
            self._are_durable(self._archive.sync())
        if self._half_received is not None:
            self._half_received.write()
        read_bytes = 0
        again = chain(self._put_off(self._archive), self._archive.unfinished())
        for frame in islice(again, max(0, self._room())):
            self._metrics.frames_read_back.labels(frame.channel.name.lower()).inc()
            yield frame
            read_bytes += frame.size_bytes
            if read_bytes >= _READ_AT_ONCE_BYTES:
                break

    def finish(self) -> tuple[()]:
        """Sync; what was not read back is found at the next start."""
        if self._archive is not None:
            self._are_durable(self._archive.sync())
        if self._half_received is not None:
            self._half_received.write(last=True)
        return ()

    def _are_durable(self, keys: Sequence[Key]) -> None:
        if self._half_received is not None:
            self._half_received.durable(keys)
        self._on_durable(keys)

    def _waits(self, archive: FrameArchive, key: Key) -> bool:
        """Whether a frame is to be read back later: in turn, and only if it can be."""
        return (bool(self._deferred) or self._room() <= 0) and archive.holds(*key)

    def _put_off(self, archive: FrameArchive) -> Iterator[CollectedFrame]:
        while self._deferred:
            frame = archive.read(self._deferred.popleft())
            self._tell()
            if frame is not None:  # else it had to give way, and is counted there
                yield replace(frame, replayed=False)  # its tile goes on, it does not begin anew

    def _tell(self) -> None:
        self._metrics.frames_deferred.set(len(self._deferred))
