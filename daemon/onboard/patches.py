"""Tiles in, side information and patches out: fits each tile's conditioner."""

from __future__ import annotations

from collections.abc import Iterator

from codec.encoder import Encoder
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics
from daemon.onboard.items import EncodedFrame, OpenedPatch, ReceivedTile
from daemon.stage import KeepsNothing


class PatchWorker(KeepsNothing):
    """Opens tiles. The side frame leaves first, so that the ground has it before any patch."""

    def __init__(self, encoder: Encoder, metrics: FlightMetrics) -> None:
        self._encoder, self._metrics = encoder, metrics

    def accept(self, item: ReceivedTile) -> Iterator[EncodedFrame | OpenedPatch]:
        """Fit the conditioner and hand on what the tile becomes."""
        job = self._encoder.open(item.tile)
        if job.empty:
            self._metrics.tiles_empty.inc()
        yield EncodedFrame(raw=job.side_frame, channel=Channel.SIDE, received_s=item.received_s)
        for patch in job.patches:
            yield OpenedPatch(job=patch, received_s=item.received_s)
