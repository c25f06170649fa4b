"""Patches in, batches out: closed by count, by bytes or by age, whichever comes first.

With the first patch of another model, too: models are exchanged between batches.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.clock import Clock
from daemon.onboard.items import Batch, EncodedFrame, OpenedPatch


class BatchWorker:
    """Gathers patches; frames that need no encoding pass at once.

    Args:
        max_patches: A batch closes when it holds this many.
        max_bytes: It closes before it would hold more: the next mailbox takes no larger one.
        max_age_s: A batch closes when its first patch has waited this long [s].
        clock: Measures the age.
    """

    def __init__(self, *, max_patches: int, max_bytes: int, max_age_s: float, clock: Clock) -> None:
        self._max_patches, self._max_bytes = max_patches, max_bytes
        self._max_age_s, self._clock = max_age_s, clock
        self._open: list[OpenedPatch] = []
        self._opened_s = 0.0

    def accept(self, item: EncodedFrame | OpenedPatch) -> Iterator[EncodedFrame | Batch]:
        """Take one; return what can go on."""
        if isinstance(item, EncodedFrame):
            yield item
            return
        others = self._open and self._open[0].model is not item.model
        if others or sum(patch.size_bytes for patch in (*self._open, item)) > self._max_bytes:
            yield from self.finish()
        if not self._open:
            self._opened_s = self._clock.monotonic_s()
        self._open.append(item)
        if len(self._open) >= self._max_patches:
            yield from self.finish()
        else:
            yield from self.tick()

    def tick(self) -> Iterator[Batch]:
        """Close a batch that has become old."""
        if self._open and self._clock.monotonic_s() - self._opened_s >= self._max_age_s:
            yield from self.finish()

    def finish(self) -> Iterator[Batch]:
        """Close what is open."""
        if self._open:
            batch, self._open = Batch(opened=tuple(self._open)), []
            yield batch
