"""How much coarser to quantize, so that the store does not overflow and every pass is filled.

What comes in is averaged over an orbit or so, and held against what the contact plan can carry:
when a few passes are over, a part of the store may be left, and when each of them opens there must
be room in it. Where that asks for less than comes in, the step grows by octaves. An octave is taken
to halve the bytes; where it does not, the next look puts it right. It moves slowly, and not for
little: neighboring tiles look alike. Behind the last pass of a plan it stays as it is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Final

from daemon.link.passes import ContactPlan, Pass

_MEMORY_S: Final = 6000.0
"""Over what is averaged [s]: a third of it is older."""
_FULL: Final = 0.9
"""Share of the store that may be filled when a pass opens."""
_RESERVE: Final = 0.25
"""Share that should be left in the end: what comes varies, and passes go filled."""
_PASSES_AHEAD: Final = 3
_MOST_CHANGE: Final = 1 / 8
"""Octaves from one tile to the next, at most; what is wanted and nearer than this is left."""


class RateControl:
    """Follows what comes in; called from the threads of two stages.

    Args:
        plan: When the link is open, and what it takes.
        max_bytes: What the store holds.
        most_octaves: How much coarser steps may become; 0: never.
        share: Of what the link takes, the part that comes out of the store; the rest is seals.
    """

    def __init__(
        self, plan: ContactPlan, *, max_bytes: int, most_octaves: float, share: float = 1.0
    ) -> None:
        self._plan, self._max_bytes, self._most_octaves = plan, max_bytes, most_octaves
        self._share = share
        self._lock = threading.Lock()
        self._bytes, self._octaves, self._noted_s = 0.0, 0.0, 0.0
        self._began_s: float | None = None

    def note(self, size_bytes: int, now_s: float) -> None:
        """So many bytes came into the store at a moment [s, monotonic]."""
        with self._lock:
            if self._began_s is None:
                self._began_s = self._noted_s = now_s
            at_given_step = size_bytes * 2.0**self._octaves
            self._bytes = self._bytes * self._kept(now_s) + at_given_step
            self._noted_s = max(now_s, self._noted_s)

    def octaves(self, *, used_bytes: int, utc_s: float, now_s: float) -> float:
        """By how much the next tile's step should be above the given one.

        Args:
            used_bytes: What the store holds now.
            utc_s: The moment by which passes are planned.
            now_s: The same moment, monotonic.
        """
        with self._lock:
            ahead = self._plan.ahead(utc_s, _PASSES_AHEAD)
            if self._most_octaves and ahead:
                wanted = self._wanted(ahead, self._per_s(now_s), used_bytes, utc_s)
                wanted = min(max(wanted, 0.0), self._most_octaves)
                change = wanted - self._octaves
                if abs(change) >= _MOST_CHANGE or wanted == self._most_octaves:
                    self._octaves += min(max(change, -_MOST_CHANGE), _MOST_CHANGE)
            return self._octaves

    def _wanted(
        self, ahead: Sequence[Pass], bytes_per_s: float, used_bytes: int, utc_s: float
    ) -> float:
        wanted, carried, closes_s = -math.inf, 0.0, 0.0
        for one in ahead:
            if (until_s := one.opens_utc_s - utc_s) > 0:
                room = _FULL * self._max_bytes - used_bytes + carried
                wanted = max(wanted, _octaves_above(bytes_per_s * until_s, room))
            limit = math.inf if one.bits_per_s is None else self._share * one.bits_per_s / 8
            opens_s = max(one.opens_utc_s - utc_s, 0.0)
            # Of one that goes on and on no more is looked at than of what comes.
            closes_s = min(one.closes_utc_s - utc_s, opens_s + _MEMORY_S)
            carried += limit * (closes_s - opens_s)
        left = carried + _RESERVE * self._max_bytes - used_bytes
        if left == math.inf:
            return wanted
        return max(wanted, _octaves_above(bytes_per_s * closes_s, left))

    def _per_s(self, now_s: float) -> float:
        """What would come in at the given step [bytes/s]."""
        if self._began_s is None:
            return 0.0
        age_s = max(now_s - self._began_s, 1.0)
        return self._bytes * self._kept(now_s) / (-_MEMORY_S * math.expm1(-age_s / _MEMORY_S))

    def _kept(self, now_s: float) -> float:
        return math.exp(-max(0.0, now_s - self._noted_s) / _MEMORY_S)


def _octaves_above(comes: float, fits: float) -> float:
    """By how many octaves what comes is more than what fits."""
    if comes <= 0 or fits == math.inf:
        return -math.inf
    return math.log2(comes / fits) if fits > 0 else math.inf
