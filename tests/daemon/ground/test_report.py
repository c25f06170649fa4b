"""What the ground says goes out when it is due, and what it hears is counted."""

from __future__ import annotations

from daemon.ground.metrics import GroundMetrics
from daemon.ground.report import Reports
from daemon.link.beacon import Beacon, BootState
from daemon.link.commands import Command, Report
from daemon.link.packet import Channel, Packet
from daemon.link.quality_note import QualityNote
from daemon.link.reports import Reporter, ReportTimes
from daemon.metrics import new_registry

BOOT = 9


class Rig:
    """Reports with an uplink that takes them while it is up."""

    def __init__(self) -> None:
        self.metrics, self.sent, self.up = GroundMetrics(new_registry()), list[Report](), True
        reporter = Reporter(
            session=1, apid=100, mtu_bytes=256, lacks=lambda _: None,
            give_up=lambda *_: None, begin_anew=lambda *_: None, times=ReportTimes(),
        )  # fmt: skip
        self.reports = Reports(reporter, self.send, self.metrics)

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Take a report, if up; nobody may wait for that."""
        assert timeout_s == 0
        if self.up:
            self.sent.append(Report.unpack(Command.unpack(raw).body))
        return self.up

    def hear(self, body: bytes, now_s: float) -> None:
        """A packet of housekeeping."""
        self.reports.heard(
            Packet(
                apid=101, channel=Channel.HOUSEKEEPING, boot_id=BOOT, counter=0, time_ticks=0,
                frame_id=0, segment_index=0, segment_count=1, frame_bytes=len(body), data=body,
            ),
            now_s,
        )  # fmt: skip


def beacon(kept_from: int, sent_below: int) -> bytes:
    """Of one boot."""
    state = BootState(boot_id=BOOT, kept_from=kept_from, sent_below=sent_below)
    return Beacon(session=0, seen=0, seen_bits=0, answered=0, sent_packets=0, boots=(state,)).pack()


def test_what_lacks_is_asked_for_and_what_is_durable_is_told() -> None:
    """After the reorder window; frames told by another thread are in the next report."""
    rig = Rig()
    rig.hear(beacon(0, 3), 0.0)
    rig.reports.whole((BOOT, 1))
    rig.reports.durable([(BOOT, 0)])
    rig.reports.tick(0.1)
    assert rig.sent == []
    rig.reports.tick(1.0)
    (said,) = rig.sent
    assert (said.boot_id, said.below, [w.frame_id for w in said.wanted]) == (BOOT, 1, [2])
    rig.reports.durable([(BOOT, 1)])
    rig.reports.tick(2.1)
    assert rig.sent[-1].below == 2
    assert rig.metrics.totals()['prismlink_reports_total{state="sent"}'] == 2


def test_a_frame_that_could_not_be_kept_is_asked_for_later() -> None:
    """Not at once: the disk that failed would fail again."""
    rig = Rig()
    rig.hear(beacon(0, 1), 0.0)
    rig.reports.whole((BOOT, 0))
    rig.reports.forgotten((BOOT, 0), 0.0)
    rig.reports.tick(1.0)
    assert rig.sent[-1].wanted == ()
    rig.hear(beacon(0, 1), 10.0)
    rig.reports.tick(10.6)
    assert [wanted.frame_id for wanted in rig.sent[-1].wanted] == [0]


def test_a_disk_that_fails_is_tried_with_one_frame_at_a_time() -> None:
    """All of them over and over would leave no room for what is new; when one is kept, all."""
    rig, keys = Rig(), [(BOOT, i) for i in range(5)]
    for number, key in enumerate(keys):
        rig.hear(beacon(0, 5), 0.1 * number)
        rig.reports.whole(key)
        rig.reports.forgotten(key, 0.1 * number)

    def asked(now_s: float) -> list[int]:
        rig.hear(beacon(0, 5), now_s - 0.6)
        rig.reports.tick(now_s)
        return [wanted.frame_id for wanted in rig.sent[-1].wanted]

    # What was asked for is asked for again: of no report the board says that it was heard.
    assert [asked(now_s) for now_s in (5.0, 10.0, 15.0, 21.0)] == [[], [0], [0], [0, 1]]
    rig.reports.durable([(BOOT, 0)])
    assert asked(32.0) == [1, 2, 3, 4]


def test_an_uplink_that_is_away_is_counted() -> None:
    """The board hears the next one."""
    rig = Rig()
    rig.up = False
    rig.hear(beacon(0, 1), 0.0)
    rig.reports.tick(1.0)
    assert rig.metrics.totals()['prismlink_reports_total{state="not_taken"}'] == 1


def test_frames_that_can_never_be_had_are_counted() -> None:
    """When a beacon says so."""
    rig = Rig()
    rig.hear(beacon(0, 2), 0.0)
    rig.reports.tick(1.0)
    rig.hear(beacon(4, 5), 1.5)
    rig.reports.tick(2.5)
    totals = rig.metrics.totals()
    assert totals["prismlink_frames_lost_total"] == 2
    assert totals["prismlink_frames_lost_before_total"] == 2


def test_a_beacon_that_is_none_is_a_count() -> None:
    """And no more."""
    rig = Rig()
    rig.hear(b"\x90", 0.0)
    rig.reports.tick(1.0)
    assert rig.sent == []
    totals = rig.metrics.totals()
    assert totals['prismlink_packets_refused_total{reason="packet_field"}'] == 1


def test_a_note_is_no_beacon() -> None:
    """It is a packet that came, and nothing to refuse here."""
    rig = Rig()
    note = QualityNote(tile_id=bytes(8), row=0, col=0, psnr_db=40.0, max_abs_error=2.0)
    rig.hear(note.pack(), 1.0)
    assert rig.reports.last_beacon is None
    assert rig.metrics.totals()['prismlink_packets_refused_total{reason="packet_field"}'] == 0


def test_the_last_beacon_is_there_to_be_looked_at() -> None:
    """With its boot and when it came; one that is none does not take its place."""
    rig = Rig()
    assert rig.reports.last_beacon is None
    rig.hear(beacon(0, 3), 1.0)
    rig.hear(beacon(2, 5), 4.0)
    rig.hear(b"no beacon", 6.0)

    last = rig.reports.last_beacon
    assert last is not None
    assert (last.boot_id, last.heard_s) == (BOOT, 4.0)
    assert last.beacon == Beacon.unpack(beacon(2, 5))


def test_what_is_asked_for_is_counted_and_so_is_what_comes_of_it() -> None:
    """A frame each time it is asked for, and once when it is whole; one that was not is not."""
    rig = Rig()
    rig.hear(beacon(0, 3), 0.0)
    rig.reports.tick(1.0)
    rig.reports.whole((BOOT, 1))
    rig.reports.whole((BOOT, 7))
    rig.reports.tick(1.1)

    totals = rig.metrics.totals()
    assert totals["prismlink_frames_asked_total"] == 3
    assert totals["prismlink_frames_mended_total"] == 1
