"""The ground's end of selective repeat: what it has, what it lacks, and when it says so.

Nothing is asked for before the board has said that it was sent, and a reorder window has passed;
nothing is asked for again before the board has said that the asking was answered, or was not heard.
So neither reordering nor a long way makes the board send twice, and there is one time alone, for
a board that says nothing of a report: it runs while packets come, and stands still otherwise.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.link.beacon import Beacon
from daemon.link.commands import (
    REPORT_BYTES,
    SPAN_BYTES,
    Command,
    Kind,
    Report,
    Span,
    Wanted,
)
from daemon.link.packet import FrameKey
from daemon.link.ranges import Ranges
from daemon.link.states import ReceiverState

MAX_BOOTS: Final = 64
"""Boots followed; of more, the one not heard of for longest is forgotten."""
_MAX_SPANS: Final = 64
"""Spans of segments asked for in one frame; a frame with more gaps is asked for in parts."""
_LOSS_WEIGHT: Final = 0.2
"""Weight of the latest share of packets lost in the mean that is told."""
_LEAST_SENT: Final = 20
"""Packets between two beacons below which nothing is learned of the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTimes:
    """When the ground speaks.

    Attributes:
        report_s: Time between two reports [s].
        reorder_s: How much later than a beacon a packet sent before it may come [s].
        retry_s: Time in contact after which a report of which nothing is heard counts as lost [s].
        contact_s: Longest silence within a contact [s].
    """

    report_s: float = 1.0
    reorder_s: float = 0.5
    retry_s: float = 5.0
    contact_s: float = 5.0


@dataclass(slots=True)
class _Boot:
    done: Ranges = field(default_factory=Ranges)
    whole: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)
    sent_below: int = 0
    inherited: int = -1
    """Frames below were sent before this ground heard of the boot."""


class Reporter:
    """Says what the ground has and lacks.

    Args:
        session: Names this run of the process, from 1 on.
        apid: Application process of the board.
        mtu_bytes: Longest message the uplink takes.
        lacks: Tells which segments would make a frame whole, None where none of it came.
        give_up: Told a boot and a span of its frames that can never be had.
        begin_anew: Told a frame that is asked for whole: what came of it before is no longer known.
        times: When it speaks.
        max_messages: Most reports at a time.

    Attributes:
        lost: Frames that can never be had.
        lost_before: Likewise, of those sent before the first beacon: an earlier ground may have
            them.
        asked: Frames asked for, in whole or in part, each time.
        mended: Frames that became whole after that.
        loss: Share of packets that do not come.
    """

    def __init__(
        self,
        *,
        session: int,
        apid: int,
        mtu_bytes: int,
        lacks: Callable[[FrameKey], Sequence[int] | None],
        give_up: Callable[[int, int, int], object],
        begin_anew: Callable[[int, int], object],
        times: ReportTimes,
        max_messages: int = 4,
    ) -> None:
        self._session, self._apid, self._mtu_bytes = session, apid, mtu_bytes
        self._lacks, self._on_lost, self._begin_anew = lacks, give_up, begin_anew
        self._times, self._max_messages = times, max_messages
        self._boots: OrderedDict[int, _Boot] = OrderedDict()
        self._listed: tuple[int, ...] = ()
        self._beacons: deque[tuple[float, Beacon]] = deque()
        self._said: dict[int, float] = {}
        """Reports that may be unheard, and when each was sent, in contact."""
        self._answered = self._number = 0
        self._heard_s: float | None = None
        self._contact_s = 0.0
        self._next_s = 0.0
        self._came = 0
        self._counted: tuple[int, int, int] | None = None
        self.lost = self.lost_before = 0
        self.asked = self.mended = 0
        self.loss = 0.0

    # ---- what comes ----------------------------------------------------------------------------

    def heard(self, now_s: float) -> None:
        """A packet came, whatever it is."""
        if self._heard_s is not None:
            self._contact_s += min(max(0.0, now_s - self._heard_s), self._times.contact_s)
        self._heard_s = now_s
        self._came += 1

    def beacon(self, boot_id: int, beacon: Beacon, now_s: float) -> None:
        """A beacon came from a boot; it is believed when what was sent before it must have come."""
        self._beacons.append((now_s + self._times.reorder_s, beacon))
        if self._counted is not None and self._counted[0] == boot_id:
            sent = beacon.sent_packets - self._counted[1]
            if sent < _LEAST_SENT:
                return
            lost = min(max(1 - (self._came - self._counted[2]) / sent, 0.0), 1.0)
            self.loss += _LOSS_WEIGHT * (lost - self.loss)
        self._counted = boot_id, beacon.sent_packets, self._came

    def whole(self, key: FrameKey) -> None:
        """All of a frame is there, if not for good."""
        boot = self._boot(key[0])
        if key[1] not in boot.done:
            boot.whole.add(key[1])
        self.mended += boot.asked.pop(key[1], None) is not None

    def forgotten(self, key: FrameKey) -> None:
        """A frame that was whole could not be kept: it is asked for again."""
        self._boot(key[0]).whole.discard(key[1])

    def durable(self, keys: Iterable[FrameKey]) -> None:
        """Frames are there for good."""
        for boot_id, frame_id in keys:
            self._finish(self._boot(boot_id), frame_id, frame_id + 1)

    def state(self, key: FrameKey) -> ReceiverState:
        """How far a frame is; `DURABLE` stands for one that is lost, too."""
        boot = self._boots.get(key[0], _Boot())
        if key[1] in boot.done:
            return ReceiverState.DURABLE
        if key[1] in boot.whole:
            return ReceiverState.WHOLE
        if key[1] >= boot.sent_below:
            return ReceiverState.UNKNOWN
        return ReceiverState.ASKED if self._waits(boot, key[1]) else ReceiverState.LACKING

    # ---- what is said --------------------------------------------------------------------------

    def due(self, now_s: float) -> list[bytes]:
        """Return the reports to be sent now; none while nothing is heard."""
        while self._beacons and self._beacons[0][0] <= now_s:
            self._believe(self._beacons.popleft()[1])
        in_contact = self._heard_s is not None and now_s - self._heard_s <= self._times.contact_s
        if not (in_contact and self._listed) or now_s < self._next_s:
            return []
        self._next_s = now_s + self._times.report_s
        self._count_unheard(now_s)
        share = max(1, self._max_messages // len(self._listed))
        return [
            self._pack(report, now_s)
            for boot_id in self._listed
            for report in self._reports(boot_id, share)
        ]

    # ---- inside --------------------------------------------------------------------------------

    def _boot(self, boot_id: int) -> _Boot:
        boot = self._boots.setdefault(boot_id, _Boot())
        self._boots.move_to_end(boot_id)
        if len(self._boots) > MAX_BOOTS:
            self._boots.popitem(last=False)
        return boot

    def _finish(self, boot: _Boot, start: int, stop: int) -> int:
        """Frames are done; return how many were not before."""
        fresh = 0
        for first, last in list(boot.done.gaps(start, stop)):
            fresh += last - first if boot.done.add(first, last) else 0
        if stop - start == 1:
            boot.whole.discard(start)
            boot.asked.pop(start, None)
        else:
            boot.whole = {frame_id for frame_id in boot.whole if not start <= frame_id < stop}
            boot.asked = {i: number for i, number in boot.asked.items() if not start <= i < stop}
        return fresh

    def _believe(self, beacon: Beacon) -> None:
        if beacon.session == self._session:
            self._answered = max(self._answered, beacon.answered)
            for number in [n for n in self._said if n <= beacon.seen]:
                if beacon.has_seen(number):
                    del self._said[number]
                else:
                    self._unheard(number)
        self._listed = tuple(state.boot_id for state in beacon.boots)
        for state in beacon.boots:
            boot = self._boot(state.boot_id)
            known = boot.inherited >= 0
            if not known:
                boot.inherited = state.sent_below
            boot.sent_below = max(boot.sent_below, state.sent_below)
            if known:
                self._give_up(state.boot_id, boot, 0, state.kept_from)
            elif state.kept_from:  # of an earlier ground; it may have had them
                boot.done.add(0, state.kept_from)
                self._on_lost(state.boot_id, 0, state.kept_from)
        for boot_id, start, stop in beacon.gone:
            self._give_up(boot_id, self._boot(boot_id), start, stop)

    def _give_up(self, boot_id: int, boot: _Boot, start: int, stop: int) -> None:
        """Frames that cannot be had count as done; one that is whole waits to be durable."""
        for first, last in list(boot.done.gaps(start, stop)):
            at = first
            for frame_id in [*sorted(i for i in boot.whole if first <= i < last), last]:
                if at < frame_id:
                    ours = max(at, min(boot.inherited, frame_id))
                    self.lost_before += self._finish(boot, at, ours) if at < ours else 0
                    self.lost += self._finish(boot, ours, frame_id) if ours < frame_id else 0
                    self._on_lost(boot_id, at, frame_id)
                at = frame_id + 1

    def _unheard(self, number: int) -> None:
        """What was asked for in a report that the board did not hear was not asked for."""
        del self._said[number]
        for boot in self._boots.values():
            boot.asked = {i: asked for i, asked in boot.asked.items() if asked != number}

    def _count_unheard(self, now_s: float) -> None:
        contact_s = self._contact_at(now_s)
        for number, said_s in list(self._said.items()):
            if contact_s - said_s >= self._times.retry_s:
                self._unheard(number)

    def _contact_at(self, now_s: float) -> float:
        since_s = 0.0 if self._heard_s is None else max(0.0, now_s - self._heard_s)
        return self._contact_s + min(since_s, self._times.contact_s)

    def _reports(self, boot_id: int, most: int) -> Iterator[Report]:
        """At most so many reports on a boot, at least one: what is oldest in it comes first."""
        boot = self._boot(boot_id)
        entries = self._entries(boot_id, boot)
        entry = next(entries, None)
        for _ in range(most):
            left = self._mtu_bytes - REPORT_BYTES
            done, wanted = list[Span](), list[Wanted]()
            while entry is not None and left >= (size := _size_bytes(entry)):
                left -= size
                if isinstance(entry, Wanted):
                    wanted.append(entry)
                else:
                    done.append(entry)
                entry = next(entries, None)
            yield Report(
                loss=self.loss,
                boot_id=boot_id,
                below=boot.done.below,
                done=tuple(done),
                wanted=tuple(wanted),
            )
            if entry is None:
                return

    def _entries(self, boot_id: int, boot: _Boot) -> Iterator[Span | Wanted]:
        """What is to be said of a boot: spans that are done, and frames that are asked for."""
        at, end = boot.done.below, boot.sent_below
        for start, stop in [*boot.done, (max(at, end), max(at, end))]:
            for frame_id in range(at, min(start, end)):
                if (wanted := self._wanted(boot_id, boot, frame_id)) is not None:
                    yield wanted
            if 0 < start < stop:
                yield start, stop
            at = max(at, stop)

    def _waits(self, boot: _Boot, frame_id: int) -> bool:
        """Whether a frame was asked for, and the answer may be on its way."""
        asked = boot.asked.get(frame_id)
        return asked is not None and (asked in self._said or asked > self._answered)

    def _wanted(self, boot_id: int, boot: _Boot, frame_id: int) -> Wanted | None:
        if frame_id in boot.whole or self._waits(boot, frame_id):
            return None
        lacking = self._lacks((boot_id, frame_id))
        if lacking is None:
            return Wanted(frame_id=frame_id)
        # As many as one message takes, or nothing behind this frame would ever be said.
        room = (self._mtu_bytes - REPORT_BYTES - Wanted(frame_id=0).size_bytes) // 6
        spans = _spans(lacking)[: min(_MAX_SPANS, room)]
        return Wanted(frame_id=frame_id, spans=spans) if spans else None

    def _pack(self, report: Report, now_s: float) -> bytes:
        self._number += 1
        self._said[self._number] = self._contact_at(now_s)
        boot = self._boot(report.boot_id)
        for wanted in report.wanted:
            boot.asked[wanted.frame_id] = self._number
            self.asked += 1
            if not wanted.spans:
                self._begin_anew(report.boot_id, wanted.frame_id)
        command = Command(
            apid=self._apid,
            kind=Kind.REPORT,
            session=self._session,
            number=self._number,
            body=report.pack(),
        )
        return command.pack()


def _size_bytes(entry: Span | Wanted) -> int:
    return entry.size_bytes if isinstance(entry, Wanted) else SPAN_BYTES


def _spans(numbers: Sequence[int]) -> tuple[Span, ...]:
    """Rising numbers as spans."""
    spans = list[Span]()
    for number in numbers:
        if spans and spans[-1][1] == number:
            spans[-1] = spans[-1][0], number + 1
        else:
            spans.append((number, number + 1))
    return tuple(spans)
