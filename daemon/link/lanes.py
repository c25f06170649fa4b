"""Lanes: what waits for the link, by what it is and how urgent its scene is.

Each level has boot ids, counters and an APID of its own: the frames of one leave in the order of
their ids within a channel, whatever waits on the others.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from daemon.link.packet import Channel


class Level(IntEnum):
    """How urgent a scene is."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_LEVELS: Final = len(Level)


class Lane(IntEnum):
    """A queue for the link, highest priority first: side information, then by level."""

    SIDE_HIGH = 0
    SIDE = 1
    SIDE_LOW = 2
    PATCH_HIGH = 3
    PATCH = 4
    PATCH_LOW = 5

    @property
    def channel(self) -> Channel:
        """What its packets are."""
        return Channel(self // _LEVELS)

    @property
    def level(self) -> Level:
        """How urgent they are."""
        return Level(self % _LEVELS)

    @property
    def folder(self) -> str:
        """Of its files in a spool on a disk."""
        return self.name.lower().replace("_", "-")


LANES: Final = tuple(Lane)
LANES_OF: Final = {level: tuple(lane for lane in LANES if lane.level is level) for level in Level}


def lane_of(channel: Channel, level: Level) -> Lane:
    """The lane of a channel and a level."""
    return Lane(_LEVELS * channel + level)
