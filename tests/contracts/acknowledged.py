"""The tests every spool must pass whose ground acknowledges: inherit, and say how to make one."""

from __future__ import annotations

from contracts.spool import Drops
from daemon.clock import Clock
from daemon.link.commands import Report, Span, Wanted
from daemon.link.lanes import Lane
from daemon.link.packet import FrameKey, Packet
from daemon.link.segment import Segmenter
from daemon.onboard.spool import Spool
from fakes.clock import FakeClock

SIDE, PATCH = Lane.SIDE, Lane.PATCH
PACKET_BYTES = 98
BOOT = 7


class Frames:
    """Makes frames of packets that are `PACKET_BYTES` long."""

    def __init__(self, boot_id: int = BOOT) -> None:
        self.boot_id = boot_id
        self._segmenter = Segmenter(boot_id=boot_id, apid=1, mtu_bytes=PACKET_BYTES, repair={})

    def packets(self, lane: Lane = PATCH, count: int = 1) -> list[bytes]:
        """The packets of the next frame."""
        return self._segmenter.packets(bytes(56 * count), lane.channel, 0.0)


def names(packets: list[bytes]) -> list[tuple[int, int]]:
    """Frame and segment of each."""
    read = [Packet.unpack(raw) for raw in packets]
    return [(packet.frame_id, packet.segment_index) for packet in read]


def send(spool: Spool, most: int = 1_000) -> list[bytes]:
    """Send what the spool offers."""
    sent = list[bytes]()
    while len(sent) < most and (packet := spool.take(0.0)) is not None:
        assert spool.sent(packet)
        sent.append(packet.raw)
    return sent


def report(
    spool: Spool,
    number: int,
    below: int = 0,
    *,
    done: tuple[Span, ...] = (),
    wanted: tuple[Wanted, ...] = (),
    boot_id: int = BOOT,
    session: int = 5,
) -> None:
    """Have the spool hear a report."""
    said = Report(loss=0, boot_id=boot_id, below=below, done=done, wanted=wanted)
    spool.hear(session, number, said)


class AcknowledgedContract:
    """Inherit, name the class `Test…`, and say how to make one."""

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """Return an empty spool whose ground acknowledges."""
        raise NotImplementedError

    def rig(self, max_packets: int = 100) -> tuple[Spool, Frames, Drops]:
        """A spool with room for so many packets."""
        drops = Drops()
        return self.make(max_packets * PACKET_BYTES, FakeClock(), drops), Frames(), drops

    def test_what_was_sent_is_kept_until_it_is_acknowledged(self) -> None:
        """It takes room, and is not offered again unasked."""
        spool, frames, _ = self.rig()
        for _ in range(3):
            spool.append(frames.packets(count=2), PATCH)
        assert len(send(spool)) == 6
        assert (spool.packets, spool.kept_frames, spool.used_bytes) == (0, 3, 6 * PACKET_BYTES)
        report(spool, 1, 1, done=((2, 3),))
        assert (spool.kept_frames, spool.used_bytes) == (1, 2 * PACKET_BYTES)
        assert spool.take(0.0) is None
        report(spool, 2, 3)
        assert (spool.kept_frames, spool.used_bytes) == (0, 0)

    def test_what_is_asked_for_leaves_before_what_is_new(self) -> None:
        """Once for each asking, in the order it was asked for, segment by segment or whole."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(count=3), PATCH)
        spool.append(frames.packets(count=2), PATCH)
        send(spool)
        spool.append(frames.packets(), PATCH)
        wanted = (Wanted(frame_id=0, spans=((1, 3),)), Wanted(frame_id=1))
        report(spool, 1, wanted=wanted)
        report(spool, 2, wanted=wanted[:1])

        assert names(send(spool)) == [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
        assert spool.beacon(0).answered == 2
        report(spool, 3, wanted=(Wanted(frame_id=0, spans=((0, 1),)),))
        assert spool.beacon(0).answered == 2
        assert names(send(spool)) == [(0, 0)]

    def test_side_information_is_repeated_before_patches_leave(self) -> None:
        """Priorities hold for repeats, too."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(SIDE), SIDE)
        spool.append(frames.packets(PATCH), PATCH)
        send(spool)
        report(spool, 1, wanted=(Wanted(frame_id=1), Wanted(frame_id=0)))
        assert names(send(spool)) == [(0, 0), (1, 0)]

    def test_a_beacon_says_what_was_sent_and_what_is_kept(self) -> None:
        """A frame of which a packet waits was not sent; one that is acknowledged is not kept."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(SIDE), SIDE)
        for _ in range(3):
            spool.append(frames.packets(count=2), PATCH)

        def state() -> tuple[int, int]:
            (boot,) = spool.beacon(0).boots
            assert boot.boot_id == BOOT
            return boot.kept_from, boot.sent_below

        assert state() in {(0, 0), (0, 1)}  # of what was never offered the first is enough
        send(spool, 4)
        assert spool.take(0.0) is not None
        assert state() == (0, 2)
        send(spool)
        assert state() == (0, 4)
        report(spool, 1, 2)
        assert state() == (2, 4)
        report(spool, 2, 4)
        assert state() == (4, 4)

    def test_what_was_evicted_is_said_to_be_gone(self) -> None:
        """Once for each asking, with all that went with it; what is kept or waits is not."""
        spool, frames, drops = self.rig(max_packets=6)
        for _ in range(5):
            spool.append(frames.packets(), PATCH)
        send(spool)
        spool.append(frames.packets(count=4), PATCH)
        assert [reason for *_, reason in drops.told] == ["unacknowledged"] * 3
        report(spool, 1, wanted=tuple(Wanted(frame_id=i) for i in (1, 2, 4, 5)))
        assert spool.beacon(0).gone == ((BOOT, 0, 3),)
        assert spool.beacon(0).gone == ()
        assert names(send(spool)) == [(4, 0), (5, 0), (5, 1), (5, 2), (5, 3)]

    def test_what_was_sent_makes_room_first(self) -> None:
        """It probably arrived; of what waits the lowest priority goes, as ever."""
        spool, frames, drops = self.rig(max_packets=4)
        spool.append(frames.packets(), PATCH)
        send(spool)
        spool.append(frames.packets(SIDE), SIDE)
        spool.append(frames.packets(count=2), PATCH)
        spool.append(frames.packets(count=2), PATCH)
        assert [reason for *_, reason in drops.told] == ["unacknowledged", "evicted"]
        spool.append(frames.packets(SIDE), SIDE)
        assert [reason for *_, reason in drops.told][2:] == ["evicted"]

    def test_side_information_that_was_sent_is_kept_as_long_as_its_patches(self) -> None:
        """It runs ahead of them, and may have been lost: without it they are worth nothing."""
        spool, frames, drops = self.rig(max_packets=8)
        for _ in range(4):
            spool.append(frames.packets(SIDE), SIDE)
            spool.append(frames.packets(PATCH), PATCH)
        assert names(send(spool, 4)) == [(0, 0), (2, 0), (4, 0), (6, 0)]
        for _ in range(2):
            spool.append(frames.packets(SIDE), SIDE)
            spool.append(frames.packets(PATCH), PATCH)

        assert [reason for *_, reason in drops.told] == ["unacknowledged", "evicted"] * 2
        assert [lane for _, lane, _ in drops.told] == [SIDE, PATCH] * 2
        assert names(send(spool)) == [(8, 0), (10, 0), (5, 0), (7, 0), (9, 0), (11, 0)]

    def test_what_the_ground_has_need_not_be_sent(self) -> None:
        """Repair packets of a frame that is whole stay; so do frames known from an earlier time."""
        spool, frames, drops = self.rig()
        spool.append(frames.packets(count=3), PATCH)
        spool.append(frames.packets(), PATCH)
        assert names(send(spool, 1)) == [(0, 0)]
        report(spool, 1, 1)
        assert names(send(spool)) == [(1, 0)]
        assert drops.told == []
        report(spool, 2, 2)
        assert (spool.packets, spool.used_bytes) == (0, 0)

    def test_a_new_ground_begins_anew(self) -> None:
        """What the one before asked for is not sent; its numbers mean nothing."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(), PATCH)
        send(spool)
        report(spool, 40, wanted=(Wanted(frame_id=0),), session=5)
        report(spool, 1, session=6)
        beacon = spool.beacon(9)
        assert (beacon.session, beacon.seen, beacon.seen_bits, beacon.answered) == (6, 1, 1, 1)
        assert beacon.sent_packets == 9
        assert spool.take(0.0) is None

    def test_two_boots_are_told_apart(self) -> None:
        """Each with its own ids, the older one first; one that is done is told no more."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(), PATCH)
        later = Frames(boot_id=8)
        spool.append(later.packets(), PATCH)
        states = {boot.boot_id: boot.sent_below for boot in spool.beacon(0).boots}
        assert states[8] == 0
        send(spool)
        assert [(b.boot_id, b.sent_below) for b in spool.beacon(0).boots] == [(BOOT, 1), (8, 1)]
        report(spool, 1, 1, boot_id=BOOT)
        assert [boot.boot_id for boot in spool.beacon(0).boots] == [8]
        report(spool, 2, 1, boot_id=8)
        assert [boot.boot_id for boot in spool.beacon(0).boots] == [8]
        assert spool.used_bytes == 0

    def test_what_is_urgent_can_be_asked_for_while_others_wait(self) -> None:
        """Each level says for itself how far it is, and repeats before the others send."""
        spool, _, _ = self.rig()
        for frames, lane in (
            (Frames(boot_id=20), Lane.PATCH_LOW),
            (Frames(boot_id=21), Lane.PATCH_HIGH),
        ):
            for _ in range(3):
                spool.append(frames.packets(), lane)
        assert names(send(spool, 3)) == [(0, 0), (1, 0), (2, 0)]
        states = {b.boot_id: (b.kept_from, b.sent_below) for b in spool.beacon(0).boots}
        assert states == {20: (0, 0), 21: (0, 3)}
        report(spool, 1, wanted=(Wanted(frame_id=1),), boot_id=21)
        again = [Packet.unpack(raw) for raw in send(spool)]
        assert [(p.boot_id, p.frame_id) for p in again] == [(21, 1), (20, 0), (20, 1), (20, 2)]

    def test_reports_on_boots_nobody_knows_change_nothing(self) -> None:
        """And are no error: a board that lost its disk says that such frames are gone."""
        spool, frames, _ = self.rig()
        spool.append(frames.packets(), PATCH)
        send(spool)
        key: FrameKey = (99, 3)
        report(spool, 1, 2**32, boot_id=99, wanted=(Wanted(frame_id=3),))
        assert spool.kept_frames == 1
        assert spool.beacon(0).gone == ((*key, 4),)
