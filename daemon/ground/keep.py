"""Frames in, the same frames out: kept on a disk on their way, and read back where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from codec.errors import CodecError
from daemon.ground.archive import FrameArchive
from daemon.ground.items import CollectedFrame
from daemon.ground.kept_tiles import Key
from daemon.ground.metrics import GroundMetrics

_READ_AT_ONCE_BYTES: Final = 4 << 20
"""Of frames read back, delivered before anything else is done."""


class KeepWorker:
    """Archives frames and passes them on, without waiting for the disk.

    Args:
        archive: Where they are kept; None: nowhere.
        on_durable: Told which frames need not be sent again, some more than once: those on the
            disk, those that are no frames, and without an archive all. Must not raise.
        metrics: Counts frames that are set aside or read back.
    """

    def __init__(
        self,
        archive: FrameArchive | None,
        on_durable: Callable[[Sequence[Key]], object],
        metrics: GroundMetrics,
    ) -> None:
        self._archive, self._on_durable, self._metrics = archive, on_durable, metrics

    def accept(self, item: CollectedFrame) -> Iterator[CollectedFrame]:
        """Keep a frame; pass it on unless it was here before or goes on with others of its tile."""
        if self._archive is None:
            self._on_durable([item.key])
            yield item
            return
        try:
            reason = self._archive.append(item)
        except CodecError:  # nothing will ever come of it; who decodes it counts it
            self._on_durable([item.key])
            reason = None
        if reason is None:
            yield item
        else:
            self._metrics.frames_set_aside.labels(item.channel.name.lower(), reason).inc()
        yield from self.tick()

    def tick(self) -> Iterator[CollectedFrame]:
        """Sync if it is time; read back some of what is to be decoded again."""
        if self._archive is None:
            return
        if self._archive.sync_is_due:
            self._on_durable(self._archive.sync())
        read_bytes = 0
        for frame in self._archive.unfinished():
            self._metrics.frames_read_back.labels(frame.channel.name.lower()).inc()
            yield frame
            read_bytes += frame.size_bytes
            if read_bytes >= _READ_AT_ONCE_BYTES:
                break

    def finish(self) -> tuple[()]:
        """Sync; what was not read back is found at the next start."""
        if self._archive is not None:
            self._on_durable(self._archive.sync())
        return ()
