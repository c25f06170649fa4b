"""Band centers ↔ what a frame says of them: the number of a list both ends know, or the list.

Centers travel as multiples of 0.01 nm, a thousandth of a band's width. Along a detector they are
smooth but for rounding, so each is predicted from the spacings before it; where a detector ends or
bands were left out the spacing jumps, and the jump is not learned from.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

from codec import golomb
from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.errors import FrameFieldError

_UNIT_NM: Final = 0.01

_KNOWN: Final = (ENMAP_WAVELENGTHS_NM,)
"""Lists that travel as their position here: part of the wire format, so only ever appended to."""

_JUMP_UNITS: Final = 100
"""A center that misses its prediction by more than 1 nm lies behind a jump."""


class _Trend:
    """Predicts the next center from those before it, in integers."""

    def __init__(self, jump: int) -> None:
        self._jump, self._jumped = jump, False
        self._last, self._spacings = 0, [0, 0, 0, 0]  # the latest spacing first

    def predict(self) -> int:
        """Extend the least-squares line through the last four spacings."""
        latest, before, _, first = self._spacings
        return self._last + (2 * latest + before - first) // 2

    def learn(self, center: int) -> None:
        """Take note of a center; of two jumps in a row the second is a new spacing."""
        spacing, jumps = center - self._last, abs(center - self.predict()) > self._jump
        if not jumps:
            self._spacings = [spacing, *self._spacings[:3]]
        elif self._jumped:
            self._spacings = [spacing] * 4
        self._last, self._jumped = center, jumps


def _units(wavelengths_nm: tuple[float, ...]) -> list[int]:
    units: list[int] = np.rint(np.array(wavelengths_nm) / _UNIT_NM).astype(np.int64).tolist()
    return units


@lru_cache(maxsize=8)
def pack(wavelengths_nm: tuple[float, ...]) -> int | bytes | None:
    """Describe band centers [nm]; the tiles of an instrument share one description.

    Returns:
        None for no centers, the position of a known list, or Golomb-coded integers: the unit [0.01
        nm], then what each center, in that unit, differs from its prediction.
    """
    if not wavelengths_nm:
        return None
    units = _units(wavelengths_nm)
    for number, known in enumerate(_KNOWN):
        if units == _units(known):
            return number
    return pack_list(wavelengths_nm)


@lru_cache(maxsize=8)
def pack_list(lengths_nm: tuple[float, ...]) -> bytes:
    """Describe lengths [nm], one or more, band centers or widths, as `pack` does unknown ones."""
    units = _units(lengths_nm)
    unit = math.gcd(*units) or 1
    trend, values = _Trend(_JUMP_UNITS // unit), [unit]
    for center in (value // unit for value in units):
        values.append(center - trend.predict())
        trend.learn(center)
    return golomb.pack(values)


def unpack(packed: int | bytes | None, bands: int) -> tuple[float, ...]:
    """Inverse of `pack`, rounded to 0.01 nm.

    Raises:
        FrameFieldError: If it describes no list of `bands` centers.
    """
    if packed is None:
        return ()
    if isinstance(packed, int):
        if not (0 <= packed < len(_KNOWN) and len(_KNOWN[packed]) == bands):
            raise FrameFieldError(f"list {packed} of wavelengths is not known for {bands} bands")
        return _in_nm(_units(_KNOWN[packed]))
    unit, *residuals = golomb.unpack(packed, 1 + bands)
    if unit <= 0:
        raise FrameFieldError(f"wavelengths in units of {unit}")
    trend, centers = _Trend(_JUMP_UNITS // unit), []
    for residual in residuals:
        centers.append(trend.predict() + residual)
        trend.learn(centers[-1])
    return _in_nm([center * unit for center in centers])


def _in_nm(units: list[int]) -> tuple[float, ...]:
    return tuple(round(unit * _UNIT_NM, 2) for unit in units)
