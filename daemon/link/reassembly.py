"""Packets into frames, in bounded memory, whatever the link does to their order and number.

A frame is given up when nothing of it has come for a while, or to make room for newer ones. It is
not remembered after that: packets of it that come later, sent again for instance, begin it anew.
Frames that were completed are remembered, so that stragglers do not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from daemon.errors import ReassemblyError
from daemon.link.fec import recover
from daemon.link.packet import Channel, FrameKey, Packet

REMEMBERED: Final = 16_384
"""Completed frames remembered: 18 minutes at EnMAP's rate, about 4 MiB."""

_SEGMENT_BYTES: Final = 128
"""What keeping a segment costs beside its bytes: two objects and a place in a dictionary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncompleteFrame:
    """A frame that was given up.

    Attributes:
        boot_id: Boot of the board that sent it.
        frame_id: The board's count of frames since that boot.
        channel: What it is.
        have: Different segments and repair symbols that came.
        needed: Segments it was cut in; about as many of either kind are enough.
    """

    boot_id: int
    frame_id: int
    channel: Channel
    have: int
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketCount:
    """What a frame was made of.

    Attributes:
        segments: Packets it was cut in.
        repaired: Those of them that never came, and were made from repair symbols.
    """

    segments: int
    repaired: int


@dataclass(slots=True)
class _Partial:
    first: Packet
    begun_s: float
    heard_s: float
    symbols: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0

    def given_up(self) -> IncompleteFrame:
        return IncompleteFrame(
            boot_id=self.first.boot_id,
            frame_id=self.first.frame_id,
            channel=self.first.channel,
            have=len(self.symbols),
            needed=self.first.segment_count,
        )


class Reassembler:
    """Puts frames together again; each complete one is given once.

    Args:
        max_frames: Incomplete frames kept at a time; also reports kept until `expire`.
        max_bytes: Memory they may take together.
        max_age_s: Time after its last packet when a frame is given up [s].

    Attributes:
        repaired: Frames completed with the help of repair symbols.
        evicted: Frames given up early, to make room.
        made_of: What the frame that `feed` gave last was made of.
    """

    def __init__(self, *, max_frames: int, max_bytes: int, max_age_s: float) -> None:
        self._max_frames, self._max_bytes, self._max_age_s = max_frames, max_bytes, max_age_s
        self._partials: OrderedDict[FrameKey, _Partial] = OrderedDict()
        self._completed: OrderedDict[FrameKey, None] = OrderedDict()
        self._given_up: deque[IncompleteFrame] = deque(maxlen=max_frames)
        self._held_bytes = 0
        self.repaired = self.evicted = 0
        self.made_of = PacketCount(segments=0, repaired=0)

    @property
    def frames(self) -> int:
        """Incomplete frames kept."""
        return len(self._partials)

    @property
    def held_bytes(self) -> int:
        """Memory they take."""
        return self._held_bytes

    def feed(self, packet: Packet, now_s: float) -> bytes | None:
        """Take one packet.

        Args:
            packet: From the link.
            now_s: When it came [s, monotonic].

        Returns:
            The frame, if this packet completes it.

        Raises:
            ReassemblyError: If it contradicts earlier packets of its frame, which stay, or its
                frame could never be kept.
        """
        key = packet.boot_id, packet.frame_id
        if key in self._completed:
            return None
        partial = self._partials.get(key) or self._begin(packet, now_s)
        _check_agreement(partial.first, packet)
        partial.heard_s = now_s
        self._partials.move_to_end(key)
        if packet.segment_index in partial.symbols:
            return None
        partial.symbols[packet.segment_index] = packet.data
        partial.held_bytes += (cost_bytes := len(packet.data) + _SEGMENT_BYTES)
        self._held_bytes += cost_bytes
        frame = recover(partial.symbols, packet.frame_bytes, packet.symbol_bytes)
        if frame is None:
            self._make_room()
            return None
        came = sum(index < packet.segment_count for index in partial.symbols)
        self.repaired += came < len(partial.symbols)
        count = packet.segment_count
        self.made_of = PacketCount(segments=count, repaired=count - came)
        self._drop(key)
        self._completed[key] = None
        if len(self._completed) > REMEMBERED:
            self._completed.popitem(last=False)
        return frame

    def lacks(self, key: FrameKey) -> list[int] | None:
        """Which segments would make a frame whole, rising; None if nothing of it is kept.

        Of those that are not there it names no more than are needed beside repair symbols.
        """
        partial = self._partials.get(key)
        if partial is None:
            return None
        count = partial.first.segment_count
        lacking = [index for index in range(count) if index not in partial.symbols]
        # As many as needed may not be enough: RaptorQ then takes one more.
        return lacking[: max(1, count - len(partial.symbols))]

    def incomplete(self, begun_by_s: float) -> Iterator[tuple[Packet, int]]:
        """Tell of each incomplete frame begun by then its first packet, and how many are kept."""
        for partial in self._partials.values():
            if partial.begun_s <= begun_by_s:
                yield partial.first, len(partial.symbols)

    def packets(self, key: FrameKey, start: int = 0) -> list[Packet]:
        """Packets of an incomplete frame in the order they came, but for so many first ones.

        To be fed to another reassembler: they have counter and time of the frame's first packet.
        """
        partial = self._partials[key]
        return [
            replace(partial.first, segment_index=index, data=data)
            for index, data in islice(partial.symbols.items(), start, None)
        ]

    def remembers(self, key: FrameKey) -> bool:
        """Whether a frame is incomplete, or was completed and not forgotten."""
        return key in self._partials or key in self._completed

    def give_up(self, boot_id: int, start: int, stop: int) -> None:
        """Give up a boot's frames from `start` to before `stop`: they can never be whole."""
        for key in [k for k in self._partials if k[0] == boot_id and start <= k[1] < stop]:
            self._given_up.append(self._drop(key).given_up())

    def forget(self, boot_id: int, frame_id: int) -> None:
        """Begin a frame that was completed anew when packets of it come again."""
        self._completed.pop((boot_id, frame_id), None)

    def expire(self, now_s: float) -> list[IncompleteFrame]:
        """Give up frames of which nothing came for `max_age_s`.

        Returns:
            They, and those given up since the last call, to make room or by `give_up`, oldest
            first; of the latter no more than `max_frames` (`evicted` counts all that gave room).
        """
        incomplete = list(self._given_up)
        self._given_up.clear()
        while self._partials:
            key, oldest = next(iter(self._partials.items()))
            if now_s - oldest.heard_s <= self._max_age_s:
                break
            incomplete.append(self._drop(key).given_up())
        return incomplete

    def _begin(self, packet: Packet, now_s: float) -> _Partial:
        needed_bytes = packet.frame_bytes + packet.segment_count * _SEGMENT_BYTES
        if needed_bytes > self._max_bytes:
            raise ReassemblyError(f"frame needs {needed_bytes} bytes, limit {self._max_bytes}")
        partial = _Partial(first=packet, begun_s=now_s, heard_s=now_s)
        self._partials[packet.boot_id, packet.frame_id] = partial
        return partial

    def _make_room(self) -> None:
        while len(self._partials) > self._max_frames or self._held_bytes > self._max_bytes:
            self._given_up.append(self._drop(next(iter(self._partials))).given_up())
            self.evicted += 1

    def _drop(self, key: FrameKey) -> _Partial:
        partial = self._partials.pop(key)
        self._held_bytes -= partial.held_bytes
        return partial


def _check_agreement(first: Packet, packet: Packet) -> None:
    for name in ("channel", "segment_count", "frame_bytes"):
        expected, got = getattr(first, name), getattr(packet, name)
        if expected != got:
            raise ReassemblyError(
                f"frame {packet.frame_id} of boot {packet.boot_id:#010x}: "
                f"{name} {got} in one packet, {expected} in another"
            )
