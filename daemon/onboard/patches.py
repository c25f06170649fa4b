"""Tiles in, side information and patches out: each tile's conditioner is fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daemon.link.lanes import Level, lane_of
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics
from daemon.onboard.items import EncodedFrame, OpenedPatch, ReceivedTile
from daemon.onboard.models import Model
from daemon.onboard.pace import Pace
from daemon.stage import KeepsNothing


class PatchWorker(KeepsNothing):
    """Opens tiles, each with the model that is at work then.

    The side frame leaves first, so that the ground has it before any patch.
    """

    def __init__(
        self,
        model: Callable[[], Model],
        pace: Pace,
        metrics: FlightMetrics,
        octaves: Callable[[], float] = lambda: 0.0,
        level_of: Callable[[str], Level] = lambda _: Level.NORMAL,
    ) -> None:
        self._level_of = level_of
        self._model, self._pace = model, pace
        self._metrics, self._octaves = metrics, octaves

    def accept(self, item: ReceivedTile) -> Iterator[EncodedFrame | OpenedPatch]:
        """Fit the conditioner and hand on what the tile becomes."""
        octaves = self._octaves()
        self._metrics.step_octaves.set(octaves)
        model = self._model()
        opened = model.steps.open(item.tile, self._pace.next(), octaves)
        job = opened.job
        if job.empty:
            self._metrics.tiles_empty.inc()
        level = self._level_of(item.tile.info.scene)
        lane = lane_of(Channel.SIDE, level)
        yield EncodedFrame(raw=job.side_frame, lane=lane, received_s=item.received_s)
        for patch, expected_bytes in zip(job.patches, opened.expected_bytes, strict=True):
            yield OpenedPatch(
                job=patch,
                model=model,
                received_s=item.received_s,
                expected_bytes=expected_bytes,
                level=level,
                side_frame=job.side_frame,
            )
