"""When the link is open, and how much it takes: a contact plan, and a token bucket.

No clock, no socket: moments are handed in. Windows are in UTC, as plans are made; the bucket runs
on a clock that never jumps.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from daemon.link.states import PASS, PassEvent, PassState, after


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A time in which the ground hears the board.

    Attributes:
        opens_utc_s: Acquisition of signal [s since 1970-01-01 UTC].
        closes_utc_s: Loss of signal; no packet is begun from here on.
        bits_per_s: Most bits in any second; None: as the link takes them.

    Raises:
        ValueError: If it ends before it begins.
    """

    opens_utc_s: float
    closes_utc_s: float
    bits_per_s: float | None = None

    def __post_init__(self) -> None:
        if not self.opens_utc_s < self.closes_utc_s:
            raise ValueError("a pass must close after it opens")


class ContactPlan:
    """Passes, one after another; without any the link is always open.

    Args:
        passes: In any order.
        bits_per_s: Limit where there are no passes, and before the first.

    Attributes:
        bits_per_s: The same.

    Raises:
        ValueError: If two overlap.
    """

    def __init__(self, passes: Sequence[Pass], bits_per_s: float | None = None) -> None:
        ordered = sorted(passes, key=_opening)
        for one, following in pairwise(ordered):
            if following.opens_utc_s < one.closes_utc_s:
                raise ValueError("two passes overlap")
        always = Pass(opens_utc_s=-math.inf, closes_utc_s=math.inf, bits_per_s=bits_per_s)
        self._passes = tuple(ordered) or (always,)
        self.bits_per_s = bits_per_s

    def at(self, utc_s: float) -> Pass | None:
        """The pass of a moment."""
        place = bisect_right(self._passes, utc_s, key=_opening) - 1
        if place < 0 or utc_s >= self._passes[place].closes_utc_s:
            return None
        return self._passes[place]

    def opens_in_s(self, utc_s: float) -> float:
        """Time until the next pass opens [s]; infinite if none is planned."""
        place = bisect_right(self._passes, utc_s, key=_opening)
        return self._passes[place].opens_utc_s - utc_s if place < len(self._passes) else math.inf

    def ahead(self, utc_s: float, most: int) -> Sequence[Pass]:
        """The pass of a moment, if there is one, and those after it: so many in all."""
        place = bisect_right(self._passes, utc_s, key=_closing)
        return self._passes[place : place + most]


class TokenBucket:
    """Keeps the bits of every second within a budget.

    It holds as many bits as the longest packet has, and fills with the rest of the budget: in any
    second no more can leave than it held and what came in. So of a budget of a few packets a second
    one packet's worth goes unused.

    Args:
        bits_per_s: The budget.
        packet_bits: Bits of the longest packet.

    Attributes:
        bits_per_s: What it fills with.

    Raises:
        ValueError: If the budget is not above one such packet a second.
    """

    def __init__(self, bits_per_s: float, packet_bits: int) -> None:
        if bits_per_s <= packet_bits:
            raise ValueError(f"{bits_per_s:g} bit/s are no more than a packet of {packet_bits}")
        self.bits_per_s = self._rate = bits_per_s - packet_bits
        self._most = packet_bits
        self._bits, self._at_s = float(packet_bits), -math.inf

    def wait_s(self, now_s: float, bits: int) -> float:
        """Time until a packet may leave [s]; 0 if it may now.

        One that is longer than the longest, of an earlier process, leaves from a full bucket.
        """
        held = min(self._most, self._bits + self._rate * max(0.0, now_s - self._at_s))
        return max(0.0, (min(bits, self._most) - held) / self._rate)

    def spend(self, now_s: float, bits: int) -> None:
        """A packet leaves."""
        held = min(self._most, self._bits + self._rate * max(0.0, now_s - self._at_s))
        self._bits, self._at_s = held - bits, now_s


class LinkSwitch:
    """Whether the board may send: what the plan says, and commands that overrule it.

    A command to open or close holds until the plan's next pass begins or ends, one to suspend until
    another resumes. Any thread may call.
    """

    def __init__(self) -> None:
        self._state, self._is_planned = PassState.CLOSED, False
        self._lock = threading.Lock()

    def plan(self, is_open: bool) -> bool:
        """Take what the plan says of this moment; return whether the board may send."""
        with self._lock:
            if is_open != self._is_planned:
                event = PassEvent.RISES if is_open else PassEvent.SETS
                self._state, self._is_planned = after(PASS, self._state, event), is_open
            return self._state is PassState.OPEN

    def command(self, event: PassEvent) -> PassState:
        """Take a command; return what follows."""
        with self._lock:
            self._state = after(PASS, self._state, event)
            return self._state


def _closing(one: Pass) -> float:
    return one.closes_utc_s


def _opening(one: Pass) -> float:
    return one.opens_utc_s
