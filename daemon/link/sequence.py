"""What is missing: the board's packet counters, boot by boot; instruments' counts of tiles."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

WINDOW: Final = 1 << 14
"""Counters back from the highest in which a repeat is told from a late packet: half a minute at
500 packets/s, 2 KiB of memory for each boot."""

MAX_BOOTS: Final = 16
"""Boots followed at a time; beyond it the one not heard for longest becomes a total."""


MAX_TILE_GAP: Final = 1 << 20
"""Most tiles that can be missing between two: at EnMAP's rate, with one patch each, 20 hours. The
instrument's message has no checksum, and one flipped bit would spoil the count for good."""

MAX_SENSORS: Final = 16
"""Instruments followed at a time; beyond it the one not heard for longest becomes a total."""


class Arrival(Enum):
    """What a counter was when it came."""

    NEW = "new"
    """Above all others of its run."""
    LATE = "late"
    """Below the highest; it was missing until now."""
    DUPLICATE = "duplicate"
    """It has come before."""
    STALE = "stale"
    """Too far below the highest to tell late from duplicate; what is missing stays missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCounts:
    """Packets so far, over all boots.

    Attributes:
        received: Different packets that came in time to be told apart.
        duplicate: Repeats of them.
        late: Those of `received` that came after a higher counter.
        stale: Packets too old to tell whether they are repeats.
        missing: Counters skipped between packets that came; falls when a late one comes.
        missing_before_start: Counters below the first packet heard of a boot; falls likewise.
    """

    received: int = 0
    duplicate: int = 0
    late: int = 0
    stale: int = 0
    missing: int = 0
    missing_before_start: int = 0

    def __add__(self, other: SequenceCounts) -> SequenceCounts:
        return SequenceCounts(
            received=self.received + other.received,
            duplicate=self.duplicate + other.duplicate,
            late=self.late + other.late,
            stale=self.stale + other.stale,
            missing=self.missing + other.missing,
            missing_before_start=self.missing_before_start + other.missing_before_start,
        )


class Window:
    """Which of the last counters have come; bit i of `_seen` is counter `highest` − i.

    Args:
        highest: The highest so far.
        size: Counters back from the highest that are told apart.
        all_seen: Whether all below the highest count as seen; otherwise none does.

    Attributes:
        highest: The highest counter that came.
    """

    def __init__(self, highest: int, size: int, *, all_seen: bool = False) -> None:
        self.highest = highest
        self._mask = (1 << size) - 1
        self._seen = self._mask if all_seen else 1

    def note(self, counter: int) -> Arrival:
        """Take a counter; a jump of any size costs no memory."""
        ahead = counter - self.highest
        if ahead > 0:
            # Not shifted by a jump of any size: a hostile counter would ask for that much memory.
            far = ahead >= self._mask.bit_length()
            self._seen = 1 if far else (self._seen << ahead & self._mask) | 1
            self.highest = counter
            return Arrival.NEW
        bit = 1 << -ahead if -ahead < self._mask.bit_length() else 0
        if not bit:
            return Arrival.STALE
        if self._seen & bit:
            return Arrival.DUPLICATE
        self._seen |= bit
        return Arrival.LATE


class _Run:
    """Counters that go up from a first."""

    def __init__(self, first: int, window: int) -> None:
        self._first, self._window = first, Window(first, window)
        self._before_start = 0  # received below the first
        self._arrivals = dict.fromkeys(Arrival, 0) | {Arrival.NEW: 1}

    def note(self, counter: int) -> Arrival:
        arrival = self._window.note(counter)
        self._arrivals[arrival] += 1
        self._before_start += arrival is Arrival.LATE and counter < self._first
        return arrival

    @property
    def highest(self) -> int:
        return self._window.highest

    @property
    def counts(self) -> SequenceCounts:
        received = self._arrivals[Arrival.NEW] + self._arrivals[Arrival.LATE]
        return SequenceCounts(
            received=received,
            duplicate=self._arrivals[Arrival.DUPLICATE],
            late=self._arrivals[Arrival.LATE],
            stale=self._arrivals[Arrival.STALE],
            missing=self.highest - self._first + 1 - (received - self._before_start),
            missing_before_start=self._first - self._before_start,
        )


class SequenceTracker:
    """Tells new packets from late and repeated ones, and counts those that are missing.

    Packets after the last one that came cannot be known to be missing; neither can a boot of
    which nothing came.
    """

    def __init__(self, *, window: int = WINDOW, max_boots: int = MAX_BOOTS) -> None:
        self._window, self._max_boots = window, max_boots
        self._boots: OrderedDict[int, _Run] = OrderedDict()
        self._closed = SequenceCounts()

    def note(self, boot_id: int, counter: int) -> Arrival:
        """Take the counter of a packet that came."""
        boot = self._boots.get(boot_id)
        if boot is None:
            if len(self._boots) == self._max_boots:
                self._closed += self._boots.popitem(last=False)[1].counts
            self._boots[boot_id] = _Run(counter, self._window)
            return Arrival.NEW
        self._boots.move_to_end(boot_id)
        return boot.note(counter)

    @property
    def counts(self) -> SequenceCounts:
        """Totals over all boots."""
        return sum((boot.counts for boot in self._boots.values()), self._closed)


class TileSequences:
    """Counts the tiles that instruments numbered and that never came.

    A number that leaps, falls far, or is a second 0 is of an instrument that began anew: nothing
    is missing between it and the one before. Tiles before an instrument's first are not missing.

    Args:
        reorder: How far below the highest number a tile may come late; one that is lower yet
            begins anew. 0 where tiles come in their order.
    """

    def __init__(self, *, reorder: int) -> None:
        self._reorder = reorder
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._closed = 0

    def note(self, sensor: str, sequence: int) -> int:
        """Take the number of a tile that came; return how many it shows to be missing."""
        run = self._runs.pop(sensor, None)
        gap = 0 if run is None else sequence - run.highest - 1
        if run is None or not self._goes_on(run, sequence):
            self._closed += run.counts.missing if run else 0
            run, gap = _Run(sequence, self._reorder + 1), 0
        self._runs[sensor] = run
        if len(self._runs) > MAX_SENSORS:
            self._closed += self._runs.popitem(last=False)[1].counts.missing
        return max(0, gap)

    def _goes_on(self, run: _Run, sequence: int) -> bool:
        """Whether a number is of this run, which then has it."""
        if not -self._reorder <= sequence - run.highest <= MAX_TILE_GAP + 1:
            return False
        return run.note(sequence) is not Arrival.DUPLICATE or sequence > 0

    @property
    def missing(self) -> int:
        """Tiles skipped so far, over all instruments; falls when a late one comes."""
        return self._closed + sum(run.counts.missing for run in self._runs.values())
