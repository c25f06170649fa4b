"""A day of a satellite: an instrument, a store, and a dozen passes, in steps of a tile."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final

from daemon.link.passes import ContactPlan, Pass
from daemon.onboard.rate import RateControl

DAY_S: Final = 86_400.0
ORBIT_S: Final = 5_700.0
PASS_S: Final = 600.0
TILE_S: Final = 0.557
PATCHES: Final = 8
_PATCH_BYTES: Final = 40_000.0
"""At the given step, on average."""
_BYTES_PER_OCTAVE: Final = 1.1
"""Octaves of bytes for one of step: not what the control takes for granted."""


@dataclass
class Day:
    """What came of it.

    Attributes:
        lost_bytes: What the store had no room for.
        filled: Share of each pass that was used.
        hours: When `used_bytes` and `octaves` were noted, every minute.
        used_bytes: What the store held.
        octaves: How much coarser tiles were.
    """

    lost_bytes: float = 0.0
    filled: list[float] = field(default_factory=list)
    hours: list[float] = field(default_factory=list)
    used_bytes: list[float] = field(default_factory=list)
    octaves: list[float] = field(default_factory=list)


def simulated_day(seed: int, *, most_octaves: float, max_bytes: int, bits_per_s: float) -> Day:
    """Fly for a day; the ground is heard in three orbits of four, and scenes vary by a decade."""
    rng, day = random.Random(seed), Day()
    passes = [
        Pass(opens_utc_s=start, closes_utc_s=start + PASS_S, bits_per_s=bits_per_s)
        for start in (orbit * ORBIT_S + 3_000 for orbit in range(17) if orbit % 4 != 3)
    ]
    plan = ContactPlan(passes)
    control = RateControl(plan, max_bytes=max_bytes, most_octaves=most_octaves)
    sent = dict.fromkeys(passes, 0.0)
    used = octaves = 0.0
    patch_bytes, minute = _PATCH_BYTES, -1
    for tile in range(int(DAY_S / TILE_S)):
        now_s = tile * TILE_S
        if int(now_s / 60) > minute:
            minute = int(now_s / 60)
            ratio = (
                patch_bytes / _PATCH_BYTES
            ) ** 0.95  # land, water, clouds: for some minutes each
            patch_bytes = _PATCH_BYTES * ratio * math.exp(rng.gauss(0, 0.2))
            day.hours.append(now_s / 3600)
            day.used_bytes.append(used)
            day.octaves.append(octaves)
        if not 0.35 < now_s % ORBIT_S / ORBIT_S < 0.75:  # by daylight
            octaves = control.octaves(used_bytes=int(used), utc_s=now_s, now_s=now_s)
            comes = PATCHES * patch_bytes * 2 ** (-_BYTES_PER_OCTAVE * octaves)
            comes *= math.exp(rng.gauss(0, 0.2))
            control.note(int(comes), now_s)
            day.lost_bytes += max(0.0, used + comes - max_bytes)
            used = min(used + comes, max_bytes)
        if (now := plan.at(now_s)) is not None:
            leaves = min(used, bits_per_s / 8 * TILE_S)
            used, sent[now] = used - leaves, sent[now] + leaves
    day.filled = [
        amount / (bits_per_s / 8 * PASS_S) for p, amount in sent.items() if p.closes_utc_s < DAY_S
    ]
    return day
