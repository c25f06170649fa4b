"""What waits on a lane, or was sent and is kept: in a log, and where a disk fails in memory."""

from __future__ import annotations

import contextlib
import math
import struct
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from daemon.errors import DamagedRecordError
from daemon.link.lanes import Lane
from daemon.link.packet import FrameKey, header_of
from daemon.link.repeats import Handle
from daemon.onboard.segment_log import SegmentLog
from daemon.onboard.spool import SpooledPacket


class FoundPackets:
    """What a log held when it was opened.

    Attributes:
        keys: Of its frames, in their order.
        head: That of the first packet that was not sent.
    """

    def __init__(self) -> None:
        self.keys: list[FrameKey] = []
        self.head: FrameKey | None = None
        self._sent: list[tuple[FrameKey, array[int], array[int]]] = []

    def take(self, sequence: int, beginning: bytes, done: bool) -> bool:
        """Note a packet; False if it is none."""
        try:
            header = header_of(beginning)
        except struct.error:
            return False
        if not self.keys or self.keys[-1] != header.key:
            self.keys.append(header.key)
        if done:
            if not self._sent or self._sent[-1][0] != header.key:
                self._sent.append((header.key, array("H"), array("Q")))
            _, indexes, sequences = self._sent[-1]
            indexes.append(header.segment_index)
            sequences.append(sequence)
        elif self.head is None:
            self.head = header.key
        return True

    def sent(self) -> Iterator[tuple[FrameKey, array[int], array[int]]]:
        """Frames, and segments and sequences of their packets that were sent; each given once."""
        self._sent.reverse()
        while self._sent:
            yield self._sent.pop()


class LaneQueue:
    """The packets of a lane, oldest first: a log, and in memory what is newer than all of it.

    Args:
        lane: Which.
        order_of: Tells the place among what came by the sequence of a record.

    Attributes:
        log: None while the disk was never there.
        memory: What waits in memory.
        memory_bytes: Bytes of it, and of what was sent from there and is kept.
        offered: The packet that the link has in hand, or would get next.
        head: No later than the frame of the oldest packet; only where the ground acknowledges.
        unreadable_until_s: When the log is read again after it could not be [s, monotonic].
        no_repeats_until_s: When what was asked for is read again, likewise.
    """

    def __init__(self, lane: Lane, order_of: Callable[[int], int]) -> None:
        self.lane, self._order_of = lane, order_of
        self.log: SegmentLog | None = None
        self.memory: deque[SpooledPacket] = deque()
        self.memory_bytes = 0
        self.offered: SpooledPacket | None = None
        self.head: FrameKey | None = None
        self.unreadable_until_s = self.no_repeats_until_s = -math.inf

    @property
    def offers_memory(self) -> bool:
        """Whether what is offered is not the log's."""
        return bool(self.memory) and self.offered is self.memory[0]

    @property
    def logged(self) -> int:
        """Packets that wait in the log."""
        return 0 if self.log is None else self.log.packets

    @property
    def packets(self) -> int:
        """Packets that wait."""
        return self.logged + len(self.memory)

    @property
    def used_bytes(self) -> int:
        """Bytes of what waits or is kept."""
        return self.memory_bytes + (0 if self.log is None else self.log.used_bytes)

    @property
    def oldest_s(self) -> float:
        """When the oldest packet came in [s, monotonic]; some must wait."""
        if self.log is not None and self.log.packets:
            return self.log.oldest_s
        return self.memory[0].spooled_s

    @property
    def oldest_order(self) -> int | None:
        """The place among what came of the packet that `give_up` would drop; None: none waits."""
        if self.log is not None and self.log.packets and not self.offers_memory:
            return self._order_of(self.log.oldest_sequence)
        return self.oldest_in_memory

    @property
    def oldest_in_memory(self) -> int | None:
        """The same of the packet that `give_up_in_memory` would drop."""
        return self.memory[0].order if self.memory else None

    def remember(self, packets: Sequence[SpooledPacket]) -> None:
        """Keep packets in memory."""
        self.memory.extend(packets)
        self.memory_bytes += sum(len(packet.raw) for packet in packets)

    def forget_oldest(self) -> None:
        """Drop what is offered, or the oldest: a log may have been found before what is offered."""
        if self.log is not None and self.log.packets and not self.offers_memory:
            self.log.finish_oldest()
        else:
            self.memory_bytes -= len(self.memory.popleft().raw)
        self.offered = None

    def keep_oldest(self) -> Handle:
        """What is offered was sent, and is kept; return what it is found by."""
        if self.log is not None and self.log.packets and not self.offers_memory:
            handle: Handle = self.log.oldest_sequence
            self.log.finish_oldest(keep=True)
        else:
            handle = self.memory.popleft().raw
        self.offered = None
        return handle

    def release(self, handles: Iterable[Handle]) -> None:
        """What was kept is needed no more."""
        for handle in handles:
            if isinstance(handle, bytes):
                self.memory_bytes -= len(handle)
            elif self.log is not None:
                self.log.release(handle)

    def give_up(self, *, read: bool = True) -> SpooledPacket:
        """Drop the oldest packet; its bytes are told only where they are read, and can be."""
        packet = self.offered
        if packet is None and self.logged and self.log is not None:
            raw = b""
            if read:
                with contextlib.suppress(OSError, DamagedRecordError):
                    raw = self.log.oldest()
            packet = SpooledPacket(raw=raw, lane=self.lane, spooled_s=self.log.oldest_s)
        packet = packet or self.memory[0]
        self.forget_oldest()
        return packet

    def give_up_in_memory(self) -> SpooledPacket:
        """Drop the oldest packet that waits in memory."""
        packet = self.memory.popleft()
        self.memory_bytes -= len(packet.raw)
        if self.offered is packet:
            self.offered = None
        return packet

    def take_back_unsynced(self) -> None:
        """Have in memory what may not be on the disk, before what came later."""
        if self.log is None:
            return
        again = [
            SpooledPacket(
                raw=raw, lane=self.lane, spooled_s=spooled_s, order=self._order_of(sequence)
            )
            for raw, spooled_s, sequence in self.log.abandon()
        ]
        in_hand = [self.memory.popleft()] if self.offers_memory else []
        self.memory.extendleft(reversed([*in_hand, *again]))
        self.memory_bytes += sum(len(packet.raw) for packet in again)

    def empty_memory(self) -> list[SpooledPacket]:
        """Give what waits in memory, but for what the link has in hand."""
        held, in_hand = list(self.memory), int(self.offers_memory)
        self.memory = deque(held[:in_hand])
        self.memory_bytes -= sum(len(packet.raw) for packet in held[in_hand:])
        return held[in_hand:]

    def close(self) -> None:
        """Forget what is in memory, and close the log."""
        self.memory.clear()
        self.memory_bytes, self.offered = 0, None
        if self.log is not None:
            self.log.close()
            self.log = None
