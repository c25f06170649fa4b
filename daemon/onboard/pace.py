"""How fast each tile is encoded: as slowly as the settings say, faster while tiles wait.

Quality is given up before a tile is: each tile that is opened while the mailbox behind it is a
quarter full goes one speed faster than the one before it, and when the mailbox has been nearly
empty for some tiles, one slower again. The instrument's bursts do not fill it so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_HURRY: Final = 0.25
_CALM: Final = 1 / 16
"""Share of the mailbox that is full."""
_CALM_TILES: Final = 16
"""Tiles in a row that found it so calm, before one is encoded slower."""


class Pace:
    """Says the speed of each tile; see `codec.speeds`.

    Args:
        slowest: Where there is time.
        fastest: Where there is none.
        fill: How full the mailbox is in which tiles wait [1].
        on_change: Told each new speed, and the first one.
    """

    def __init__(
        self,
        slowest: int,
        fastest: int,
        fill: Callable[[], float],
        on_change: Callable[[int], object],
    ) -> None:
        self._slowest, self._fastest = slowest, fastest
        self._fill, self._on_change = fill, on_change
        self._speed, self._calm_tiles = slowest, 0
        on_change(slowest)

    def next(self) -> int:
        """Speed of the tile that is opened now."""
        fill, speed = self._fill(), self._speed
        self._calm_tiles = self._calm_tiles + 1 if fill <= _CALM else 0
        if fill >= _HURRY:
            speed = min(speed + 1, self._fastest)
        elif self._calm_tiles >= _CALM_TILES:
            speed, self._calm_tiles = max(speed - 1, self._slowest), 0
        if speed != self._speed:
            log.info("encoding speed", extra={"speed": speed, "tiles_waiting": round(fill, 2)})
            self._speed = speed
            self._on_change(speed)
        return speed
