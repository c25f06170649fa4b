"""The ground's end by itself: what it asks for, when, and when it asks again."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.link.beacon import Beacon, BootState
from daemon.link.commands import Command, Report
from daemon.link.packet import FrameKey
from daemon.link.reports import Reporter, ReportTimes

BOOT, SESSION = 9, 3
TIMES = ReportTimes(report_s=1.0, reorder_s=0.5, retry_s=5.0, contact_s=5.0)


class Rig:
    """A reporter whose reassembler knows what it is told."""

    def __init__(self, mtu_bytes: int = 256, max_messages: int = 4) -> None:
        self.lacking: dict[FrameKey, Sequence[int]] = {}
        self.lost: list[tuple[int, int, int]] = []
        self.anew: list[FrameKey] = []
        self.target = Reporter(
            session=SESSION, apid=1, mtu_bytes=mtu_bytes, lacks=self.lacking.get,
            give_up=lambda *span: self.lost.append(span),
            begin_anew=lambda *key: self.anew.append(key), times=TIMES, max_messages=max_messages,
        )  # fmt: skip

    def beacon(
        self,
        now_s: float,
        sent_below: int,
        *,
        seen: Sequence[int] = (),
        answered: int = 0,
        kept_from: int = 0,
        session: int = SESSION,
    ) -> None:
        """One came."""
        last = max(seen, default=0)
        self.target.heard(now_s)
        self.target.beacon(
            BOOT,
            Beacon(
                session=session, seen=last, seen_bits=sum(1 << last - n for n in seen),
                answered=answered, sent_packets=0,
                boots=(BootState(boot_id=BOOT, kept_from=kept_from, sent_below=sent_below),),
            ),
            now_s,
        )  # fmt: skip

    def said(self, now_s: float) -> list[Report]:
        """What it says."""
        return [Report.unpack(Command.unpack(raw).body) for raw in self.target.due(now_s)]

    def asks(self, now_s: float) -> list[int]:
        """Frames it asks for."""
        return [wanted.frame_id for report in self.said(now_s) for wanted in report.wanted]


def test_nothing_is_asked_for_within_the_reorder_window() -> None:
    """What was sent before the beacon may come after it."""
    rig = Rig()
    rig.beacon(0.0, 2)
    assert rig.said(0.4) == []
    assert rig.asks(0.5) == [0, 1]


def test_a_frame_is_asked_for_again_when_the_asking_was_answered() -> None:
    """And not before, however long that takes while the board is heard."""
    rig = Rig()
    rig.beacon(0.0, 1)
    assert rig.asks(0.5) == [0]
    for second in range(1, 20):
        rig.beacon(second, 1, seen=range(1, second + 1))
        assert rig.asks(second + 0.5) == []
    rig.beacon(20.0, 1, seen=range(1, 21), answered=1)
    assert rig.asks(20.5) == [0]


def test_a_frame_is_asked_for_again_when_the_report_was_not_heard() -> None:
    """The board has heard a later one, and not that."""
    rig = Rig()
    rig.beacon(0.0, 1)
    assert rig.asks(0.5) == [0]
    rig.beacon(1.0, 1)
    assert rig.asks(1.5) == []
    rig.beacon(2.0, 1, seen=[2])
    assert rig.asks(2.5) == [0]


def test_a_board_that_says_nothing_of_a_report_is_given_time_in_contact() -> None:
    """Silence does not count: after an hour without a signal the report may yet be heard."""
    rig = Rig()
    rig.beacon(0.0, 1)
    assert rig.asks(0.5) == [0]
    rig.beacon(3_600.0, 1, session=0)
    assert rig.asks(3_600.5) == [0]  # the five seconds that may pass in silence were over

    rig = Rig()
    rig.beacon(0.0, 1)
    assert rig.asks(0.5) == [0]
    for now_s in (1.0, 2.0, 3.0, 4.0):
        rig.beacon(now_s, 1, session=0)
        assert rig.asks(now_s + 0.5) == []
    rig.beacon(5.0, 1, session=0)
    assert rig.asks(5.5) == [0]


def test_what_is_said_is_bounded_and_oldest_first() -> None:
    """Each message by the MTU, and their number; the rest is said next time."""
    rig = Rig(mtu_bytes=128, max_messages=2)
    rig.beacon(0.0, 1_000)
    first = rig.asks(0.5)
    assert first == list(range(len(first)))
    assert 10 < len(first) < 40
    rig.beacon(1.0, 1_000, seen=[1, 2])
    assert rig.asks(1.5)[0] == len(first)


def test_segments_are_named_where_some_came() -> None:
    """And the frame begun anew where none did: the board may repeat what was long there."""
    rig = Rig()
    rig.lacking[BOOT, 0] = [1, 2, 3, 7]
    rig.beacon(0.0, 2)
    (said,) = rig.said(0.5)
    assert [(w.frame_id, w.spans) for w in said.wanted] == [(0, ((1, 4), (7, 8))), (1, ())]
    assert rig.anew == [(BOOT, 1)]


def test_what_is_done_is_told_in_spans() -> None:
    """Frames that are whole and not yet durable are neither done nor asked for."""
    rig = Rig()
    rig.beacon(0.0, 10)
    rig.target.durable([(BOOT, i) for i in (0, 1, 4, 5, 6, 8)])
    rig.target.whole((BOOT, 2))
    (said,) = rig.said(0.5)
    assert (said.below, said.done) == (2, ((4, 7), (8, 9)))
    assert [wanted.frame_id for wanted in said.wanted] == [3, 7, 9]


def test_what_an_earlier_ground_left_and_the_board_no_longer_has_is_given_up() -> None:
    """It would wait for ever; nothing of it is lost that another ground may have had."""
    rig = Rig()
    rig.beacon(0.0, 10, kept_from=4)
    rig.said(0.5)

    assert rig.lost == [(BOOT, 0, 4)]
    assert (rig.target.lost, rig.target.lost_before) == (0, 0)


def test_what_can_never_be_had_is_given_up_once() -> None:
    """But for what is whole, which waits to be durable."""
    rig = Rig()
    rig.beacon(0.0, 10)
    rig.said(0.5)
    rig.target.whole((BOOT, 2))
    rig.beacon(1.0, 10, kept_from=5)
    rig.beacon(1.1, 10, kept_from=5)
    rig.said(1.7)
    assert (rig.target.lost, rig.target.lost_before) == (0, 4)
    assert rig.lost == [(BOOT, 0, 2), (BOOT, 3, 5)]
    rig.target.durable([(BOOT, 2)])
    rig.beacon(2.0, 20, kept_from=5)
    (said,) = rig.said(2.7)
    assert said.below == 5
    rig.beacon(3.0, 20, kept_from=15)
    rig.said(3.7)
    assert (rig.target.lost, rig.target.lost_before) == (5, 9)  # of 20, ten came after the first
