"""Frames into packets: cuts, numbers, and adds repair symbols."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.errors import FrameSizeError, LinkError
from daemon.link.fec import RepairPolicy, repair_symbols
from daemon.link.packet import (
    MAX_APID,
    MAX_FRAME_BYTES,
    MAX_PACKET_BYTES,
    MAX_SEGMENTS,
    MIN_PACKET_BYTES,
    OVERHEAD_BYTES,
    SYMBOL_ALIGNMENT_BYTES,
    Channel,
    Packet,
    symbol_bytes,
    ticks,
)


class Segmenter:
    """Owns the counters of one boot: one for packets, one for frames.

    When frames have used up their 32 bits a boot ends, and the next begins: no id ever comes twice.

    Args:
        boot_id: Names this run of the process, 32 bits; two runs must not share one.
        apid: Application process of every packet.
        mtu_bytes: Longest packet the link takes, headers and CRC included.
        repair: Repair symbols by channel, looked up for each frame; a channel left out gets none.

    Raises:
        LinkError: If an argument is out of range.
    """

    def __init__(
        self, *, boot_id: int, apid: int, mtu_bytes: int, repair: Mapping[Channel, RepairPolicy]
    ) -> None:
        for name, value, low, high in (
            ("boot_id", boot_id, 0, 2**32 - 1),
            ("apid", apid, 0, MAX_APID),
            ("mtu_bytes", mtu_bytes, MIN_PACKET_BYTES, MAX_PACKET_BYTES),
        ):
            if not low <= value <= high:
                raise LinkError(f"{name} must be in [{low}, {high}], got {value}")
        self._boot_id, self._apid, self._repair = boot_id, apid, repair
        room_bytes = mtu_bytes - OVERHEAD_BYTES
        self._room_bytes = room_bytes - room_bytes % SYMBOL_ALIGNMENT_BYTES
        self._counter = self._frame_id = 0

    @property
    def max_frame_bytes(self) -> int:
        """Longest frame that can be cut at this MTU."""
        return min(MAX_FRAME_BYTES, MAX_SEGMENTS * self._room_bytes)

    def packets(self, frame: bytes, channel: Channel, utc_s: float) -> list[bytes]:
        """Cut a frame into packets, repair symbols last; none is longer than the MTU.

        Args:
            frame: The whole frame.
            channel: What it is.
            utc_s: Time the packets carry [s since 1970-01-01 UTC].

        Raises:
            FrameSizeError: If the frame is empty or too long; no number is used up.
        """
        if not 0 < len(frame) <= self.max_frame_bytes:
            raise FrameSizeError(len(frame), self.max_frame_bytes)
        count = -(-len(frame) // self._room_bytes)
        size = symbol_bytes(len(frame), count)
        pieces = [frame[start : start + size] for start in range(0, len(frame), size)]
        repairs = self._repair.get(channel, RepairPolicy()).symbols(count)
        pieces += repair_symbols(frame, size, repairs)
        time_ticks = ticks(utc_s)
        packets = [
            Packet(
                apid=self._apid,
                channel=channel,
                boot_id=self._boot_id,
                counter=self._counter + index,
                time_ticks=time_ticks,
                frame_id=self._frame_id,
                segment_index=index,
                segment_count=count,
                frame_bytes=len(frame),
                data=piece,
            ).pack()
            for index, piece in enumerate(pieces)
        ]
        self._counter += len(packets)
        self._frame_id += 1
        if self._frame_id == 2**32:
            self._boot_id = (self._boot_id + 1) % 2**32
            self._counter = self._frame_id = 0
        return packets
