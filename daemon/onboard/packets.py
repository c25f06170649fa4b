"""Frames in, packets out."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.clock import Clock
from daemon.link.segment import Segmenter
from daemon.onboard.items import EncodedFrame, FramePackets
from daemon.stage import KeepsNothing


class PacketWorker(KeepsNothing):
    """Cuts frames into packets of the link's size, with repair packets."""

    def __init__(self, segmenter: Segmenter, clock: Clock) -> None:
        self._segmenter, self._clock = segmenter, clock

    def accept(self, item: EncodedFrame) -> Iterator[FramePackets]:
        """Cut one frame."""
        packets = self._segmenter.packets(item.raw, item.channel, self._clock.utc_s())
        yield FramePackets(packets=tuple(packets), channel=item.channel, received_s=item.received_s)
