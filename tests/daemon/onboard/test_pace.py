"""Rules of `daemon.onboard.pace`: quality goes before a tile does, and comes back by itself."""

from __future__ import annotations

from daemon.onboard.pace import Pace


class Box:
    """A mailbox that is as full as it is told."""

    def __init__(self) -> None:
        self.fill = 0.0
        self.told: list[int] = []

    def pace(self, slowest: int = 0, fastest: int = 3) -> Pace:
        """Return one that watches this."""
        return Pace(slowest, fastest, lambda: self.fill, self.told.append)


def test_where_nothing_waits_tiles_are_encoded_as_the_settings_say() -> None:
    """And who watches is told so, once."""
    box = Box()
    pace = box.pace(slowest=1)
    assert [pace.next() for _ in range(50)] == [1] * 50
    assert box.told == [1]


def test_overload_speeds_up_and_calm_slows_down_again() -> None:
    """A speed a tile up to the fastest, and a speed every sixteen calm tiles down again."""
    box = Box()
    pace = box.pace()
    box.fill = 0.25
    assert [pace.next() for _ in range(5)] == [1, 2, 3, 3, 3]
    box.fill = 0.0
    assert [pace.next() for _ in range(49)] == [3] * 15 + [2] * 16 + [1] * 16 + [0] * 2
    assert box.told == [0, 1, 2, 3, 2, 1, 0]


def test_between_the_two_nothing_changes() -> None:
    """What is neither full nor empty is what was wanted; calm is counted anew after it."""
    box = Box()
    pace = box.pace(fastest=1)
    box.fill = 0.5
    pace.next()
    for _ in range(40):
        box.fill = 0.0 if box.fill else 0.1
        assert pace.next() == 1
    box.fill = 0.0
    assert [pace.next() for _ in range(17)][-1] == 0


def test_no_faster_than_it_may() -> None:
    """Where overload may cost no quality, tiles are dropped instead."""
    box = Box()
    pace = box.pace(slowest=0, fastest=0)
    box.fill = 1.0
    assert [pace.next() for _ in range(3)] == [0, 0, 0]
