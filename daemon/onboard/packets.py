"""Frames in, packets out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from daemon.clock import Clock
from daemon.link.lanes import Level
from daemon.link.segment import Segmenter
from daemon.onboard.items import EncodedFrame, FramePackets
from daemon.stage import KeepsNothing


class PacketWorker(KeepsNothing):
    """Cuts frames into packets of the link's size, with repair packets; each level by its own."""

    def __init__(self, segmenters: Mapping[Level, Segmenter], clock: Clock) -> None:
        self._segmenters, self._clock = segmenters, clock

    def accept(self, item: EncodedFrame) -> Iterator[FramePackets]:
        """Cut one frame."""
        segmenter = self._segmenters[item.lane.level]
        packets = segmenter.packets(item.raw, item.channel, self._clock.utc_s())
        yield FramePackets(packets=tuple(packets), lane=item.lane, received_s=item.received_s)
