"""Batches in, patch frames out, each batch by the model that opened it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daemon.link.lanes import lane_of
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics
from daemon.onboard.items import Batch, EncodedFrame, OpenedPatch
from daemon.stage import KeepsNothing


class EncodeWorker(KeepsNothing):
    """Runs the codec on batches; frames that are encoded already pass.

    What becomes of a frame is not known here: who takes it counts it as encoded.

    Args:
        metrics: Told how large batches are.
        show: Shown each patch and its frame; must not wait.
    """

    def __init__(
        self,
        metrics: FlightMetrics,
        show: Callable[[OpenedPatch, bytes], object] = lambda _opened, _frame: None,
    ) -> None:
        self._metrics, self._show = metrics, show

    def accept(self, item: EncodedFrame | Batch) -> Iterator[EncodedFrame]:
        """Encode a batch; its frames come in the order of its patches."""
        if isinstance(item, EncodedFrame):
            yield item
            return
        self._metrics.batch_patches.observe(item.patches)
        model = item.model
        frames = model.encoder.encode_batch([opened.job for opened in item.opened])
        for opened, raw in zip(item.opened, frames, strict=True):
            model.steps.learn(opened.job, opened.expected_bytes, len(raw))
            self._show(opened, raw)
            lane = lane_of(Channel.PATCH, opened.level)
            yield EncodedFrame(raw=raw, lane=lane, received_s=opened.received_s)
