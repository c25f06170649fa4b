"""Scenes are urgent by their names, and each level's packets have an APID of their own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from daemon.config_downlink import FlightLinkSettings, FlightUplinkSettings, ScenesSettings
from daemon.link.lanes import Level


def test_patterns_say_how_urgent_a_scene_is() -> None:
    """The first list wins; a scene on none is normal, and so is a case that differs."""
    scenes = ScenesSettings(high=("fire-*", "flood?"), low=("*-ocean", "fire-test"))
    assert [scenes.level_of(name) for name in ("fire-test", "floods", "pacific-ocean")] == [
        Level.HIGH, Level.HIGH, Level.LOW,
    ]  # fmt: skip
    assert [scenes.level_of(name) for name in ("Fire-1", "", "flood")] == [Level.NORMAL] * 3


def test_no_two_counts_share_an_apid() -> None:
    """Strangers would see gaps and repeats."""
    assert FlightLinkSettings().apids == {Level.HIGH: 102, Level.NORMAL: 100, Level.LOW: 103}
    with pytest.raises(ValidationError, match="each apid must be another"):
        FlightLinkSettings(apid=103)
    with pytest.raises(ValidationError, match="each apid must be another"):
        FlightLinkSettings(uplink=FlightUplinkSettings(housekeeping_apid=102))
