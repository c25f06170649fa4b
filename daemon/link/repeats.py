"""The board's end of selective repeat: what was sent, until the ground has it.

No clock: the board repeats what it is asked for, once for each asking, and all waiting is the
ground's. A packet is known here by a handle, whatever its keeper finds it again by.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import msgpack

from daemon.link.beacon import MAX_BOOTS, MAX_GONE, SEEN_BITS, Beacon, BootState, Gone
from daemon.link.commands import Report, Span, list_of, number_of, read_list
from daemon.link.lanes import LANES, Lane, Level
from daemon.link.packet import FrameKey
from daemon.link.ranges import Ranges
from daemon.link.states import SenderState

Handle: TypeAlias = int | bytes

Unsent: TypeAlias = Mapping[Lane, FrameKey | None]
"""The frame of the next packet of each lane that was not sent yet; None: all were."""

MAX_ASKED: Final = 1 << 16
"""Packets of a lane that are asked for at a time; what is above is asked for again."""
_U32: Final = 2**32
_GONE_ASKED: Final = 256
"""Frames asked for in vain that are remembered until that is said."""
_GONE_AT_ONCE: Final = 4096
"""Frames about one of them that are said to be gone with it, each way."""


class Repeat(NamedTuple):
    """A packet that was asked for.

    Attributes:
        lane: Its own.
        key: Its frame.
        segment_index: Its segment.
        handle: What it is found by.
    """

    lane: Lane
    key: FrameKey
    segment_index: int
    handle: Handle


class _Sent:
    """Packets of a frame that were sent; its place among what came."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.indexes, self.handles = array("H"), list[Handle]()
        self.lacks = False
        """Whether a packet was asked for that is not there, and all others sent instead."""


class _Boot:
    def __init__(self, level: Level, order: int, first: int) -> None:
        self.level, self.order, self.first, self.next = level, order, first, first
        self.done = Ranges()
        self.is_found = False
        lanes = [lane for lane in LANES if lane.level is level]
        self.kept: dict[Lane, OrderedDict[int, _Sent]] = {lane: OrderedDict() for lane in lanes}
        self.in_memory: dict[Lane, OrderedDict[int, None]] = {lane: OrderedDict() for lane in lanes}

    @property
    def lowest_kept(self) -> int:
        """The lowest frame kept; where there is none, the first that may yet come.

        A disk that could not be read for a while has later frames sent before earlier ones.
        """
        return min((min(frames) for frames in self.kept.values() if frames), default=self.next)


class Unacknowledged:
    """Frames of which packets were sent, and the ground has not said that they are done.

    Args:
        release: Told the handles of packets that are needed no more, and their lane.

    Attributes:
        frames: How many are kept.
        all_found: Whether nothing of earlier boots may yet be found, or read; until then no frame
            of theirs is said to be gone.
        changes: Grows when frames are done.
    """

    def __init__(self, release: Callable[[Lane, Iterable[Handle]], None]) -> None:
        self._release = release
        self._boots: OrderedDict[int, _Boot] = OrderedDict()
        self._count = 0
        self._asked: dict[Lane, OrderedDict[tuple[FrameKey, int], int]]
        self._asked = {lane: OrderedDict() for lane in LANES}
        self._pending = Counter[int]()
        """Packets asked for and not sent, by the number of the report."""
        self._done: dict[int, Ranges] = {}
        """What an earlier process knew of boots that are not found yet."""
        self._gone: OrderedDict[FrameKey, None] = OrderedDict()
        self._session = self._seen = self._seen_bits = 0
        self.frames = self.changes = 0
        self.all_found = True

    # ---- what is sent --------------------------------------------------------------------------

    def note(self, lane: Lane, key: FrameKey) -> None:
        """A frame was spooled; frames of a boot come in the order of their ids."""
        boot_id, frame_id = key
        boot = self._boots.get(boot_id)
        if boot is None:
            boot = self._boots[boot_id] = _Boot(lane.level, self._count, frame_id)
            self._count += 1
        boot.next = max(boot.next, frame_id + 1)

    def find(self, lanes: Mapping[Lane, Sequence[FrameKey]]) -> None:
        """Frames of earlier boots were found, of each lane in the order they were spooled."""
        for level in Level:
            found = {lane: keys for lane, keys in lanes.items() if lane.level is level}
            first = dict[int, int]()
            for boot_id, frame_id in chain(*found.values()):
                first[boot_id] = min(first.get(boot_id, frame_id), frame_id)
            boots = [list(dict.fromkeys(key[0] for key in keys)) for keys in found.values()]
            order = _merged(boots)
            fresh = [boot_id for boot_id in order if boot_id not in self._boots]
            before = min((boot.order for boot in self._boots.values()), default=self._count)
            for place, boot_id in enumerate(reversed(fresh), start=1):
                boot = self._boots[boot_id] = _Boot(level, before - place, first[boot_id])
                boot.is_found, boot.done = True, self._done.pop(boot_id, boot.done)
                self._boots.move_to_end(boot_id, last=False)
        for lane, keys in lanes.items():
            for key in keys:
                self.note(lane, key)

    def add(
        self,
        lane: Lane,
        key: FrameKey,
        indexes: Sequence[int],
        handles: Sequence[Handle],
        order: int,
    ) -> None:
        """Packets of a frame were sent for the first time.

        Args:
            lane: Its own.
            key: It.
            indexes: Their segments.
            handles: What they are found by.
            order: The place of the first among what came, of which `oldest` tells.
        """
        boot = self._boots.get(key[0])
        if boot is None or key[1] in boot.done or lane not in boot.kept:
            self._release(lane, handles)
            return
        sent = boot.kept[lane].get(key[1])
        if sent is None:
            sent = boot.kept[lane][key[1]] = _Sent(order)
            self.frames += 1
        if isinstance(handles[0], bytes):
            boot.in_memory[lane][key[1]] = None
        sent.indexes.extend(indexes)
        sent.handles.extend(handles)

    def is_done(self, key: FrameKey) -> bool:
        """Whether the ground has said so: what is unsent of it need not be sent."""
        boot = self._boots.get(key[0])
        return boot is not None and key[1] in boot.done

    def state(self, key: FrameKey, unsent: Unsent) -> SenderState:
        """How far a frame is that was spooled."""
        boot = self._boots.get(key[0])
        if boot is None or key[1] in boot.done:
            return SenderState.DONE
        if any(key[1] in frames for frames in boot.kept.values()):
            is_asked = any(key == asked for each in self._asked.values() for asked, _ in each)
            return SenderState.ASKED if is_asked else SenderState.SENT
        is_sent = key[1] < self._sent_below(boot, unsent)
        return SenderState.GONE if is_sent else SenderState.WAITING

    def oldest(self, lane: Lane, *, in_memory: bool = False) -> int | None:
        """The place of the frame that `give_up` would forget among what came; None: of none."""
        if (found := self._oldest(lane, in_memory)) is None:
            return None
        boot, frame_id = found
        return boot.kept[lane][frame_id].order

    def give_up(self, lane: Lane, *, in_memory: bool = False) -> list[Handle]:
        """Forget the oldest frame of a lane; return its packets, none if no frame is kept.

        Args:
            lane: Which.
            in_memory: Whether it must be one whose packets are their own handles.
        """
        found = self._oldest(lane, in_memory)
        return [] if found is None else self._drop(found[0], lane, found[1])

    # ---- what is asked for ---------------------------------------------------------------------

    def hear(
        self,
        session: int,
        number: int,
        report: Report,
        unsent: Unsent,
    ) -> None:
        """Take a report: forget what is done, and queue what is asked for.

        Of a report that comes after a later one only the first counts: what it asks for may have
        been sent since.

        Args:
            session: Of the ground; with a new one, what the one before asked for is forgotten.
            number: Of the report, from 1 on.
            report: It.
            unsent: What was not sent yet.
        """
        if session != self._session:
            self._session, self._seen, self._seen_bits = session, 0, 0
            for asked in self._asked.values():
                asked.clear()
            self._pending.clear()
        newer = number > self._seen
        if newer:
            shift = min(number - self._seen, SEEN_BITS)
            self._seen_bits = (self._seen_bits << shift | 1) & (1 << SEEN_BITS) - 1
            self._seen = number
        boot = self._boots.get(report.boot_id)
        if boot is not None:
            self._finish(boot, [(0, report.below), *report.done])
        if newer:
            self._ask(number, report, boot, unsent)
        if boot is not None and report.boot_id not in self._latest():
            is_sent = self._sent_below(boot, unsent) >= boot.next
            if is_sent and boot.done.below >= boot.next:
                self._forget(report.boot_id)

    def next_repeat(self, lane: Lane) -> Repeat | None:
        """What was asked for first and not sent yet."""
        asked = self._asked[lane]
        while asked:
            key, index = next(iter(asked))
            boot = self._boots.get(key[0])
            sent = None if boot is None else boot.kept[lane].get(key[1])
            if sent is not None and index in sent.indexes:
                return Repeat(lane, key, index, sent.handles[sent.indexes.index(index)])
            self._answer(lane, key, index)
        return None

    def postpone(self, repeat: Repeat) -> None:
        """It cannot be had now: others that were asked for come first."""
        self._asked[repeat.lane].move_to_end((repeat.key, repeat.segment_index))

    def repeated(self, repeat: Repeat) -> bool:
        """It was sent; False if its frame was given up meanwhile."""
        was_asked = self._answer(repeat.lane, repeat.key, repeat.segment_index)
        boot = self._boots.get(repeat.key[0])
        return was_asked and boot is not None and repeat.key[1] in boot.kept[repeat.lane]

    def cannot(self, repeat: Repeat) -> None:
        """It cannot be had any more; others of its frame may do."""
        self._answer(repeat.lane, repeat.key, repeat.segment_index)
        boot = self._boots.get(repeat.key[0])
        sent = None if boot is None else boot.kept[repeat.lane].get(repeat.key[1])
        if boot is None or sent is None or repeat.segment_index not in sent.indexes:
            return
        at = sent.indexes.index(repeat.segment_index)
        sent.indexes.pop(at)
        self._release(repeat.lane, (sent.handles.pop(at),))
        if not sent.handles:
            self._drop(boot, repeat.lane, repeat.key[1])

    def beacon(self, sent_packets: int, unsent: Unsent) -> Beacon:
        """Say how far all is.

        Args:
            sent_packets: Packets sent since the process began.
            unsent: What was not sent yet.
        """
        latest, below = self._latest(), dict[int, int]()
        for boot_id, boot in self._boots.items():
            below[boot_id] = self._sent_below(boot, unsent)
        states = [
            BootState(
                boot_id=boot_id,
                kept_from=self._kept_from(boot, below[boot_id]),
                sent_below=below[boot_id],
            )
            for boot_id, boot in self._boots.items()
        ]
        older = [s for s in states if s.boot_id not in latest and s.kept_from < s.sent_below]
        ours = [state for state in states if state.boot_id in latest]
        return Beacon(
            session=self._session,
            seen=self._seen,
            seen_bits=self._seen_bits,
            answered=min(self._pending) - 1 if self._pending else self._seen,
            sent_packets=sent_packets,
            boots=(*older[: MAX_BOOTS - len(ours)], *ours),
            gone=self._gone_spans(unsent),
        )

    def acknowledged(self) -> bytes:
        """What is done, for another process to begin with."""
        known = {} if self.all_found else dict(self._done)
        known |= {boot_id: boot.done for boot_id, boot in self._boots.items()}
        raw: bytes = msgpack.packb([[i, *chain(*done)] for i, done in known.items()])
        return raw

    def begin_with(self, raw: bytes) -> None:
        """Take what was done at the end of an earlier process.

        Raises:
            PacketFieldError: If it is not what `acknowledged` gave.
        """
        for entry in read_list(raw, "list of what is done"):
            boot_id, *numbers = list_of(entry, "a boot")
            done = self._done.setdefault(number_of(boot_id, _U32, "boot id"), Ranges())
            ends = [number_of(number, _U32 + 1, "frame id") for number in numbers]
            for start, stop in zip(ends[::2], ends[1::2], strict=False):
                done.add(start, stop)

    # ---- inside --------------------------------------------------------------------------------

    def _oldest(self, lane: Lane, in_memory: bool) -> tuple[_Boot, int] | None:
        for boot in self._boots.values():
            if frames := (boot.in_memory if in_memory else boot.kept).get(lane):
                return boot, next(iter(frames))
        return None

    def _kept_from(self, boot: _Boot, sent_below: int) -> int:
        if not self._knows(boot):
            return boot.done.below
        return min(boot.lowest_kept, sent_below)

    def _latest(self) -> set[int]:
        """The last boot of each level, of which more frames may come."""
        return set({boot.level: boot_id for boot_id, boot in self._boots.items()}.values())

    def _sent_below(self, boot: _Boot, unsent: Unsent) -> int:
        """Every frame of a boot below it was sent: a lane sends boots and frames in order."""
        below = boot.next
        for lane, head in unsent.items():
            if head is None or lane not in boot.kept:
                continue
            head_boot = self._boots.get(head[0])  # one that is forgotten is older than any
            if head_boot is boot:
                below = min(below, head[1])
            elif head_boot is None or head_boot.order < boot.order:
                below = boot.first
        return below

    def _finish(self, boot: _Boot, spans: Iterable[Span]) -> None:
        for start, stop in spans:
            for first, last in list(boot.done.gaps(start, min(stop, boot.next))):
                if not boot.done.add(first, last):
                    continue
                self.changes += 1
                for lane, frames in boot.kept.items():
                    for frame_id in _both(frames, first, last):
                        self._drop(boot, lane, frame_id)

    def _ask(
        self,
        number: int,
        told: Report,
        boot: _Boot | None,
        unsent: Unsent,
    ) -> None:
        sent_below = 2**32 if boot is None else self._sent_below(boot, unsent)
        for wanted in told.wanted:
            key = told.boot_id, wanted.frame_id
            lane, sent = self._find(boot, wanted.frame_id)
            if boot is None or lane is None or sent is None:
                is_done = boot is not None and wanted.frame_id in boot.done
                if is_done or (wanted.frame_id < sent_below and self._knows(boot)):
                    self._say_gone(key)
                continue
            indexes = (i for start, stop in wanted.spans for i in range(start, stop))
            lacking = set(indexes if wanted.spans else sent.indexes)
            # What is not there was evicted before it was ever sent, or is damaged: others may do.
            is_sent = wanted.frame_id < sent_below
            lacks = is_sent and self._knows(boot) and not lacking.issubset(sent.indexes)
            if lacks and sent.lacks:
                self._drop(boot, lane, wanted.frame_id)
                self._say_gone(key)
                continue
            sent.lacks = lacks
            for index in sent.indexes:
                asked = self._asked[lane]
                is_asked = lacks or index in lacking
                if is_asked and (key, index) not in asked and len(asked) < MAX_ASKED:
                    asked[key, index] = number
                    self._pending[number] += 1

    def _find(self, boot: _Boot | None, frame_id: int) -> tuple[Lane | None, _Sent | None]:
        for lane, frames in () if boot is None else boot.kept.items():
            if frame_id in frames:
                return lane, frames[frame_id]
        return None, None

    def _say_gone(self, key: FrameKey) -> None:
        self._gone[key] = None
        if len(self._gone) > _GONE_ASKED:
            self._gone.popitem(last=False)

    def _gone_spans(self, unsent: Unsent) -> tuple[Gone, ...]:
        """Frames asked for that cannot be had, each with those about it; told once for an asking.

        The ground asks again for those of a beacon that is lost.
        """
        spans = list[Gone]()
        while self._gone and len(spans) < MAX_GONE:
            (boot_id, frame_id), _ = self._gone.popitem(last=False)
            boot = self._boots.get(boot_id)
            start, stop = frame_id, frame_id + 1
            if boot is not None and self._knows(boot):
                below = self._sent_below(boot, unsent)
                kept = set[int]().union(*boot.kept.values())
                while start > 0 and start - 1 not in kept and frame_id - start < _GONE_AT_ONCE:
                    start -= 1
                while stop < below and stop not in kept and stop - frame_id < _GONE_AT_ONCE:
                    stop += 1
            spans.append((boot_id, start, stop))
            for key in [k for k in self._gone if k[0] == boot_id and start <= k[1] < stop]:
                del self._gone[key]
        return tuple(spans)

    def _knows(self, boot: _Boot | None) -> bool:
        """Whether what is not here of a boot is nowhere."""
        return self.all_found or (boot is not None and not boot.is_found)

    def _answer(self, lane: Lane, key: FrameKey, index: int) -> bool:
        """A packet need not be sent again any more; False if it was not asked for."""
        number = self._asked[lane].pop((key, index), None)
        if number is None:
            return False
        self._pending[number] -= 1
        if not self._pending[number]:
            del self._pending[number]
        return True

    def _drop(self, boot: _Boot, lane: Lane, frame_id: int) -> list[Handle]:
        self.frames -= 1
        boot.in_memory[lane].pop(frame_id, None)
        handles = boot.kept[lane].pop(frame_id).handles
        self._release(lane, handles)
        return handles

    def _forget(self, boot_id: int) -> None:
        boot = self._boots[boot_id]
        for lane, frames in boot.kept.items():
            for frame_id in list(frames):
                self._drop(boot, lane, frame_id)
        del self._boots[boot_id]


def _both(frames: Mapping[int, object], start: int, stop: int) -> list[int]:
    """Ids of frames within a span."""
    if stop - start < len(frames):
        return [frame_id for frame_id in range(start, stop) if frame_id in frames]
    return [frame_id for frame_id in frames if start <= frame_id < stop]


def _merged(lists: Sequence[Sequence[int]]) -> list[int]:
    """One list in which the values of each keep their order."""
    merged = list[int]()
    for values in lists:
        place = 0
        for value in values:
            if value in merged:
                place = max(place, merged.index(value) + 1)
            else:
                merged.insert(place, value)
                place += 1
    return merged
