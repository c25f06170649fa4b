"""The board's end by itself: what is kept, asked for, gone, and known to be done."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import PacketFieldError
from daemon.link import repeats
from daemon.link.commands import Report, Wanted
from daemon.link.lanes import Lane
from daemon.link.repeats import Handle, Unacknowledged

BOOT = 7
NOTHING = dict.fromkeys(Lane)


class Rig:
    """Frames of one lane, of which handles are numbers."""

    def __init__(self) -> None:
        self.released: list[Handle] = []
        self.target = Unacknowledged(self.release)

    def release(self, lane: Lane, handles: Iterable[Handle]) -> None:
        """Take note."""
        assert lane in Lane
        self.released += handles

    def send(self, frame_id: int, packets: int, lane: Lane = Lane.PATCH, boot: int = BOOT) -> None:
        """A frame of so many packets was spooled and sent; handles are 100 · frame + segment."""
        self.target.note(lane, (boot, frame_id))
        handles = [100 * frame_id + index for index in range(packets)]
        self.target.add(lane, (boot, frame_id), range(packets), handles, 0)

    def hear(self, number: int, **said: object) -> None:
        """A report came, while nothing waits."""
        fields = {"loss": 0.0, "boot_id": BOOT, "below": 0, **said}
        self.target.hear(1, number, Report(**fields), NOTHING)  # type: ignore[arg-type]

    def repeats(self) -> list[Handle]:
        """Send what was asked for."""
        sent = []
        while (repeat := self.target.next_repeat(Lane.PATCH)) is not None:
            assert self.target.repeated(repeat)
            sent.append(repeat.handle)
        return sent


def test_what_is_done_is_released_once() -> None:
    """However often it is told, and in whatever spans."""
    rig = Rig()
    for frame_id in range(6):
        rig.send(frame_id, 2)
    rig.hear(1, below=1, done=((2, 4),))
    rig.hear(2, below=4)
    assert sorted(map(int, rig.released)) == [f * 100 + i for f in range(4) for i in range(2)]
    assert rig.target.frames == 2
    rig.target.add(Lane.PATCH, (BOOT, 3), [2], [302], 0)  # a repair packet that was on its way
    assert rig.released[-1] == 302


def test_what_is_asked_for_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is asked for again, when what was taken has been answered."""
    monkeypatch.setattr(repeats, "MAX_ASKED", 3)
    rig = Rig()
    for frame_id in range(3):
        rig.send(frame_id, 2)
    wanted = tuple(Wanted(frame_id=i) for i in range(3))
    rig.hear(1, wanted=wanted)
    assert rig.target.beacon(0, NOTHING).answered == 0
    assert rig.repeats() == [0, 1, 100]
    assert rig.target.beacon(0, NOTHING).answered == 1
    rig.hear(2, wanted=wanted[1:])
    assert rig.repeats() == [100, 101, 200]


def test_what_cannot_be_had_now_lets_others_go_first() -> None:
    """It stays asked for."""
    rig = Rig()
    rig.send(0, 3)
    rig.hear(1, wanted=(Wanted(frame_id=0),))
    first = rig.target.next_repeat(Lane.PATCH)
    assert first is not None
    rig.target.postpone(first)
    assert rig.repeats() == [1, 2, 0]


def test_what_was_given_up_while_it_was_sent_counts_once() -> None:
    """As given up; it is asked for in vain, and said to be gone."""
    rig = Rig()
    rig.send(0, 1)
    rig.send(1, 1)
    rig.hear(1, wanted=(Wanted(frame_id=0),))
    repeat = rig.target.next_repeat(Lane.PATCH)
    assert repeat is not None
    assert rig.target.give_up(Lane.PATCH) == [0]
    assert not rig.target.repeated(repeat)
    rig.hear(2, wanted=(Wanted(frame_id=0),))
    assert rig.target.beacon(0, NOTHING).gone == ((BOOT, 0, 1),)


def test_boots_found_late_come_before_those_that_are() -> None:
    """In the order of their lanes; of one that is in several, the lowest frame counts."""
    rig = Rig()
    rig.send(0, 1, boot=50)
    rig.target.find(
        {Lane.SIDE: [(20, 3), (30, 0)], Lane.PATCH: [(10, 8), (20, 1)], Lane.PATCH_LOW: [(40, 2)]}
    )
    unsent = {**NOTHING, Lane.PATCH: (20, 1)}
    states = {b.boot_id: b.sent_below for b in rig.target.beacon(0, unsent).boots}
    # Boot 10 went before the head of its lane; 50 waits behind it; 40 has lanes of its own.
    assert states[50] == 0
    assert states[40] == 3


def test_what_is_done_is_known_to_the_next_process() -> None:
    """Of boots it finds; of others it forgets it once all is found."""
    rig, again = Rig(), Rig()
    for frame_id in range(9):
        rig.send(frame_id, 1)
    rig.hear(1, below=2, done=((4, 6),))
    again.target.begin_with(rig.target.acknowledged())
    again.target.find({Lane.PATCH: [(BOOT, frame_id) for frame_id in range(9)]})
    assert [i for i in range(9) if again.target.is_done((BOOT, i))] == [0, 1, 4, 5]
    other = Rig()
    other.target.begin_with(rig.target.acknowledged())
    other.target.all_found = False
    assert other.target.acknowledged() == rig.target.acknowledged()
    other.target.all_found = True
    assert other.target.acknowledged() == Rig().target.acknowledged()


@given(st.binary(max_size=40))
def test_a_list_of_what_is_done_that_is_none_is_refused(raw: bytes) -> None:
    """Or read, and then it comes back."""
    first, again = Unacknowledged(Rig().release), Unacknowledged(Rig().release)
    first.all_found = again.all_found = False
    try:
        first.begin_with(raw)
    except PacketFieldError:
        return
    again.begin_with(first.acknowledged())
    assert again.acknowledged() == first.acknowledged()
