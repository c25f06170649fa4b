"""The pass now: what the counts of the ground say of the link, look after look.

Nothing here touches a socket or a clock: counts and moments are handed in. A contact begins with
the first sound packet after a silence, and ends with the last one before the next silence, so both
are as exact as looks are frequent.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from daemon.link.passes import ContactPlan

RATE_S: Final = 3.0
"""Rates are means over so long [s]."""
HISTORY: Final = 150
"""Points of the curve of rates."""
HISTORY_S: Final = 2.0
"""Time between two of them [s]."""

_PREFIX: Final = "prismlink_"
_SUMS: Final = {
    "packets": "packets_received_total",
    "octets": "bytes_in_total",
    "refused": "packets_refused_total",
    "repeated": "packets_duplicate_total",
    "frames": "frames_complete_total",
    "repaired": "frames_repaired_total",
    "given_up": "frames_incomplete_total",
    "asked": "frames_asked_total",
    "mended": "frames_mended_total",
    "lost": "frames_lost_total",
    "patches": "patches_decoded_once_total",
    "tiles": "tiles_written_total",
}
"""A count and the metric that has it, over all its labels."""


class LinkState(enum.Enum):
    """Whether the board is heard."""

    WAITING = "waiting"
    """It was not heard since the start."""
    CONTACT = "contact"
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounts:
    """What was counted up to a moment, or between two.

    Attributes:
        packets: Sound packets.
        octets: Bytes received, bad ones included [bytes].
        refused: Messages that are no packet.
        repeated: Packets that had come before.
        frames: Frames put together.
        repaired: Those of them that took repair packets.
        given_up: Frames given up for want of packets.
        asked: Frames asked for again, each time.
        mended: Frames that became whole after that.
        lost: Frames that the board can never send again.
        patches: Patches decoded, each once however often its tile is completed.
        tiles: Tiles written.
    """

    packets: int = 0
    octets: int = 0
    refused: int = 0
    repeated: int = 0
    frames: int = 0
    repaired: int = 0
    given_up: int = 0
    asked: int = 0
    mended: int = 0
    lost: int = 0
    patches: int = 0
    tiles: int = 0

    @classmethod
    def of(cls, totals: Mapping[str, float]) -> Self:
        """Read them from metrics, as `daemon.metrics.GroundMetrics.totals` has them."""
        sums: dict[str, float] = {}
        for key, value in totals.items():
            name = key.partition("{")[0].removeprefix(_PREFIX)
            sums[name] = sums.get(name, 0.0) + value
        return cls(**{field: round(sums.get(name, 0.0)) for field, name in _SUMS.items()})

    def since(self, earlier: LinkCounts) -> LinkCounts:
        """What was counted after an earlier moment."""
        return LinkCounts(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRecord:
    """A contact that is over.

    Attributes:
        begin_utc_s: When the first packet came [s since 1970-01-01 UTC].
        end_utc_s: When the last one came [s since 1970-01-01 UTC].
        counts: What was counted in it, and of what came in it.
        loss: Share of packets that did not come, at its end; None: unknown.
    """

    begin_utc_s: float
    end_utc_s: float
    counts: LinkCounts
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As an object of numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: object) -> Self:
        """Read what `to_json` made.

        Raises:
            ValueError: If it is anything else.
        """
        try:
            begin, end, counts, loss = (
                table[key]  # type: ignore[index]  # if it is no table, that is a TypeError
                for key in ("begin_utc_s", "end_utc_s", "counts", "loss")
            )
            record = cls(
                begin_utc_s=float(begin),
                end_utc_s=float(end),
                counts=LinkCounts(**{name: int(value) for name, value in counts.items()}),
                loss=None if loss is None else float(loss),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no record of a pass: {error}") from None
        if not all(map(math.isfinite, (record.begin_utc_s, record.end_utc_s, record.loss or 0.0))):
            raise ValueError("no record of a pass: what should be a number is none")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """The link at a moment.

    Attributes:
        state: Whether the board is heard.
        since_utc_s: When this contact began, or when the last packet came [s UTC]; None: never.
        contact_s: How long this contact lasts, or the last one lasted [s].
        silent_s: How long nothing has come [s]; None: nothing ever came.
        packets_per_s: Sound packets, a mean over `RATE_S` [1/s].
        bits_per_s: All that comes, likewise [bit/s].
        budget_bits_per_s: What the link carries [bit/s]; None: unknown.
        history_bits_per_s: The same every `HISTORY_S`, oldest first [bit/s].
        loss: Share of packets that do not come; None: unknown.
        left_s: Time until the plan's pass closes [s]; None: there is none now, or no plan.
        next_utc_s: When the plan's next pass opens [s UTC]; None: none is planned, or no plan.
        has_plan: Whether the contact plan is known.
        counts: What was counted in this contact, or the last one.
        total: What was counted since the process began.
    """

    state: LinkState
    since_utc_s: float | None
    contact_s: float
    silent_s: float | None
    packets_per_s: float
    bits_per_s: float
    budget_bits_per_s: float | None
    history_bits_per_s: tuple[float, ...]
    loss: float | None
    left_s: float | None
    next_utc_s: float | None
    has_plan: bool
    counts: LinkCounts
    total: LinkCounts

    def to_json(self) -> dict[str, Any]:
        """As an object of texts and numbers."""
        return {**asdict(self), "state": self.state.value}


class LinkWatch:
    """Follows the link from look to look; one thread.

    Args:
        silence_s: A contact is over once nothing has come for longer [s].
        plan: When the board is heard; None: not known.
        bits_per_s: What the link carries [bit/s], where the plan does not say; None: not known.
    """

    def __init__(
        self, *, silence_s: float, plan: ContactPlan | None = None, bits_per_s: float | None = None
    ) -> None:
        self._silence_s, self._plan, self._budget = silence_s, plan, bits_per_s
        self._state = LinkState.WAITING
        self._recent: deque[tuple[float, LinkCounts]] = deque()
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._next_point_s: float | None = None
        self._before = LinkCounts()
        """What was counted before this contact."""
        self._begin = self._heard = (0.0, 0.0)
        """When the first and the last packet of it came: on the clock that never jumps, and UTC."""
        self._at_end = LinkCounts()
        self._loss: float | None = None

    def look(
        self, counts: LinkCounts, loss: float | None, *, now_s: float, utc_s: float
    ) -> PassRecord | None:
        """Take what was counted up to now.

        Returns:
            The contact that has just ended, or None.
        """
        last = self._recent[-1][1] if self._recent else LinkCounts()
        ended = None
        if counts.packets > last.packets:
            if self._state is not LinkState.CONTACT:
                self._state, self._before = LinkState.CONTACT, last
                self._begin = now_s, utc_s
            self._heard = now_s, utc_s
            self._loss = loss
        elif self._state is LinkState.CONTACT and now_s - self._heard[0] > self._silence_s:
            self._state = LinkState.SILENT
            ended = self._record(counts)
        if self._state is LinkState.CONTACT:
            self._at_end = counts
        self._recent.append((now_s, counts))
        while len(self._recent) > 2 and self._recent[1][0] <= now_s - RATE_S:
            self._recent.popleft()
        if self._next_point_s is None or now_s >= self._next_point_s:
            self._next_point_s = now_s + HISTORY_S
            self._history.append(self._rates()[1])
        return ended

    def current(self) -> PassRecord | None:
        """The contact so far, as if it were cut off now, or None."""
        return self._record(self._at_end) if self._state is LinkState.CONTACT else None

    def finish(self) -> PassRecord | None:
        """The process ends: return the contact that is cut off by it, or None."""
        cut = self.current()
        if cut is not None:
            self._state = LinkState.SILENT
        return cut

    def view(self, *, now_s: float, utc_s: float) -> LinkView:
        """The link as it is now."""
        heard = self._state is not LinkState.WAITING
        current = self._plan.at(utc_s) if self._plan is not None else None
        ahead = self._plan.ahead(utc_s, 2) if self._plan is not None else ()
        following = next((one for one in ahead if one is not current), None)
        packets_per_s, bits_per_s = self._rates()
        begin_s, begin_utc_s = self._begin
        heard_s, heard_utc_s = self._heard
        in_contact = self._state is LinkState.CONTACT
        budget = current.bits_per_s if current is not None else None
        total = self._recent[-1][1] if self._recent else LinkCounts()
        return LinkView(
            state=self._state,
            since_utc_s=(begin_utc_s if in_contact else heard_utc_s) if heard else None,
            contact_s=(now_s if in_contact else heard_s) - begin_s if heard else 0.0,
            silent_s=now_s - heard_s if heard else None,
            packets_per_s=packets_per_s,
            bits_per_s=bits_per_s,
            budget_bits_per_s=budget or self._budget,
            history_bits_per_s=tuple(self._history),
            loss=self._loss,
            left_s=current.closes_utc_s - utc_s if current is not None else None,
            next_utc_s=following.opens_utc_s if following is not None else None,
            has_plan=self._plan is not None,
            counts=self._at_end.since(self._before),
            total=total,
        )

    def _rates(self) -> tuple[float, float]:
        """Packets and bits a second."""
        if len(self._recent) < 2:
            return 0.0, 0.0
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        span_s, came = max(last_s - first_s, 1e-6), last.since(first)
        return came.packets / span_s, 8 * came.octets / span_s

    def _record(self, counts: LinkCounts) -> PassRecord:
        return PassRecord(
            begin_utc_s=self._begin[1],
            end_utc_s=self._heard[1],
            counts=counts.since(self._before),
            loss=self._loss,
        )
