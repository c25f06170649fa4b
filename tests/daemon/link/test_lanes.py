"""Lanes are named by channel and level, and ordered by them."""

from __future__ import annotations

from daemon.link.lanes import LANES, Lane, Level, lane_of
from daemon.link.packet import Channel


def test_a_lane_is_a_channel_and_a_level() -> None:
    """Each pair has one, and all of side information comes first."""
    spooled = (Channel.SIDE, Channel.PATCH)
    assert [lane_of(channel, level) for channel in spooled for level in Level] == list(LANES)
    assert {(lane.channel, lane.level) for lane in LANES} == {
        (channel, level) for channel in spooled for level in Level
    }


def test_folders_are_frozen() -> None:
    """What an earlier build left must be found."""
    assert [lane.folder for lane in LANES] == [
        "side-high", "side", "side-low", "patch-high", "patch", "patch-low",
    ]  # fmt: skip
    assert Lane.PATCH == 4
