"""The tests every spool must pass: a class to inherit from, with a `make` of one's own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.clock import Clock
from daemon.errors import SpoolFullError
from daemon.link.lanes import LANES, Lane, Level
from daemon.onboard.spool import Spool, SpooledPacket
from fakes.clock import FakeClock

SIDE, PATCH = Lane.SIDE, Lane.PATCH


class Drops:
    """Who is told of packets given up."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, Lane, str]] = []

    def __call__(self, packet: SpooledPacket, reason: str) -> None:
        """Take note."""
        self.told.append((packet.raw, packet.lane, reason))


def send_all(spool: Spool) -> list[bytes]:
    """Take and forget packets until there are none."""
    sent = []
    while (packet := spool.take(0.0)) is not None:
        assert spool.sent(packet)
        sent.append(packet.raw)
    return sent


class SpoolContract:
    """Inherit, name the class `Test…`, and say how to make one."""

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """Return an empty spool that calls `drops`."""
        raise NotImplementedError

    def test_packets_leave_in_the_order_they_came(self) -> None:
        """Within a channel the oldest leaves first, whole appends after one another."""
        spool = self.make(100, FakeClock(), Drops())
        spool.append([b"a", b"b"], PATCH)
        spool.append([b"c"], PATCH)

        assert send_all(spool) == [b"a", b"b", b"c"]

    def test_side_information_overtakes_patches(self) -> None:
        """The channel of the lower number leaves first, whenever it came."""
        spool = self.make(100, FakeClock(), Drops())
        spool.append([b"patch"], PATCH)
        spool.append([b"side"], SIDE)

        assert send_all(spool) == [b"side", b"patch"]

    def test_nobody_starves(self) -> None:
        """However much side information there is, one packet in eight is a patch's."""
        spool = self.make(1000, FakeClock(), Drops())
        spool.append([b"s"] * 40, SIDE)
        spool.append([b"p"] * 5, PATCH)

        assert send_all(spool)[:40] == ([b"s"] * 7 + [b"p"]) * 5

    def test_urgent_scenes_leave_first_and_give_way_last(self) -> None:
        """Side information of all levels before patches of any; then by level, then by age."""
        drops = Drops()
        spool = self.make(14, FakeClock(), drops)
        for lane in reversed(LANES):
            spool.append([b"%d" % lane, b"%d" % lane], lane)
        spool.append([b"new"], Lane.SIDE_LOW)
        assert [lane for _, lane, _ in drops.told] == [Lane.PATCH_LOW]

        assert b"".join(send_all(spool)[:7]) == b"001122new"

    def test_a_packet_stays_until_it_was_sent(self) -> None:
        """Taking is not forgetting: a link that did not take the packet is offered it again."""
        spool = self.make(100, FakeClock(), Drops())
        spool.append([b"abc"], PATCH)
        first, again = spool.take(0.0), spool.take(0.0)

        assert first is not None
        assert first == again
        assert (first.raw, first.lane) == (b"abc", PATCH)
        assert (spool.packets, spool.used_bytes) == (1, 3)
        assert spool.sent(first)
        assert spool.take(0.0) is None
        assert (spool.packets, spool.used_bytes) == (0, 0)

    def test_room_is_made_of_what_came_first(self) -> None:
        """Be it side information or a patch, so that tiles go whole; each is told once."""
        drops = Drops()
        spool = self.make(8, FakeClock(), drops)
        spool.append([b"s1"], SIDE)
        spool.append([b"p1"], PATCH)
        spool.append([b"s2"], SIDE)
        spool.append([b"p2"], PATCH)
        spool.append([b"s3", b"s4"], SIDE)

        assert drops.told == [(b"s1", SIDE, "evicted"), (b"p1", PATCH, "evicted")]
        assert send_all(spool) == [b"s2", b"s3", b"s4", b"p2"]

    def test_a_long_full_spool_keeps_patches_with_their_side_information(self) -> None:
        """However many tiles pass through it, and whatever is sent meanwhile."""
        spool = self.make(36, FakeClock(), Drops())
        for tile in range(100, 500):
            spool.append([b"%d" % tile], SIDE)
            spool.append([b"%d" % tile], PATCH)
            if tile < 200 and (packet := spool.take(0.0)) is not None:
                assert spool.sent(packet)

        assert sorted(send_all(spool)) == [b"%d" % tile for tile in range(494, 500) for _ in "sp"]

    def test_a_scene_displaces_nothing_more_urgent(self) -> None:
        """Neither its side information nor its patches do; what is more urgent displaces it."""
        drops = Drops()
        spool = self.make(8, FakeClock(), drops)
        spool.append([b"S1"], Lane.SIDE_HIGH)
        spool.append([b"P1", b"P2"], Lane.PATCH_HIGH)
        for _ in range(10):
            spool.append([b"s"], Lane.SIDE_LOW)
            spool.append([b"p", b"q"], Lane.PATCH_LOW)
        assert {lane.level for _, lane, _ in drops.told} == {Level.LOW}
        spool.append([b"P3"], Lane.PATCH_HIGH)

        assert send_all(spool) == [b"S1", b"P1", b"P2", b"P3"]
        assert {lane.level for _, lane, _ in drops.told} == {Level.LOW}

    def test_no_more_is_evicted_than_needed(self) -> None:
        """Eviction stops as soon as what is new fits."""
        drops = Drops()
        spool = self.make(6, FakeClock(), drops)
        spool.append([b"aa", b"bb", b"cc"], PATCH)
        spool.append([b"d"], PATCH)

        assert drops.told == [(b"aa", PATCH, "evicted")]
        assert (spool.packets, spool.used_bytes) == (3, 5)

    def test_old_side_information_gives_way_where_no_patch_is_left(self) -> None:
        """Side information whose patches are gone is worth nothing: new patches replace it."""
        drops = Drops()
        spool = self.make(4, FakeClock(), drops)
        spool.append([b"s1", b"s2"], SIDE)
        spool.append([b"p1"], PATCH)

        assert drops.told == [(b"s1", SIDE, "evicted")]
        assert send_all(spool) == [b"s2", b"p1"]

    def test_what_is_larger_than_the_spool_is_refused_whole(self) -> None:
        """A frame that could never fit pushes nothing out, and nothing of it is kept."""
        drops = Drops()
        spool = self.make(5, FakeClock(), drops)
        spool.append([b"abc"], PATCH)

        with pytest.raises(SpoolFullError) as caught:
            spool.append([b"123", b"456"], SIDE)

        assert (caught.value.frame_bytes, caught.value.limit_bytes) == (6, 5)
        assert drops.told == []
        assert send_all(spool) == [b"abc"]

    def test_a_packet_evicted_while_it_is_sent_is_told_once(self) -> None:
        """It counts as evicted; `sent` says so, and forgets no other packet in its place."""
        drops = Drops()
        spool = self.make(4, FakeClock(), drops)
        spool.append([b"aa", b"bb"], PATCH)
        in_hand = spool.take(0.0)
        assert in_hand is not None
        spool.append([b"cc"], PATCH)

        assert not spool.sent(in_hand)
        assert drops.told == [(b"aa", PATCH, "evicted")]
        assert send_all(spool) == [b"bb", b"cc"]

    def test_age_is_that_of_the_oldest_packet(self) -> None:
        """Age counts from when a packet came in, over all channels; none waits, none is old."""
        clock = FakeClock()
        spool = self.make(100, clock, Drops())
        assert spool.oldest_age_s == 0.0
        spool.append([b"p"], PATCH)
        clock.advance(5.0)
        spool.append([b"s"], SIDE)
        clock.advance(2.0)
        assert spool.oldest_age_s == 7.0

        clock.jump_utc(-1e6)
        assert spool.oldest_age_s == 7.0

    def test_take_waits_no_longer_than_asked(self) -> None:
        """An empty spool gives None when the time is over, on the clock that was handed in."""
        clock = FakeClock()
        spool = self.make(100, clock, Drops())
        got: list[SpooledPacket | None] = []
        waiter = threading.Thread(target=lambda: got.append(spool.take(10.0)))
        waiter.start()
        clock.until_waiting()
        clock.advance(10.0)
        waiter.join()

        assert got == [None]

    def test_take_wakes_when_something_comes(self) -> None:
        """A packet leaves as soon as it is there."""
        clock = FakeClock()
        spool = self.make(100, clock, Drops())
        got: list[SpooledPacket | None] = []
        waiter = threading.Thread(target=lambda: got.append(spool.take(10.0)))
        waiter.start()
        clock.until_waiting()
        spool.append([b"p"], PATCH)
        waiter.join()

        assert [packet and packet.raw for packet in got] == [b"p"]

    # Every spool inherits it, and each is one executor.
    @settings(suppress_health_check=[HealthCheck.differing_executors])
    @given(
        st.lists(
            st.one_of(
                st.tuples(
                    st.sampled_from(LANES),
                    st.lists(st.binary(min_size=1, max_size=6), min_size=1),
                ),
                st.none(),
            ),
            max_size=30,
        )
    )
    def test_every_packet_is_sent_or_told(
        self, steps: list[tuple[Lane, list[bytes]] | None]
    ) -> None:
        """Whatever comes and goes: in = sent + told + waiting, and the limit holds."""
        drops = Drops()
        spool = self.make(20, FakeClock(), drops)
        came = sent = 0
        for step in steps:
            if step is None:
                packet = spool.take(0.0)
                sent += packet is not None and spool.sent(packet)
            else:
                lane, packets = step
                try:
                    spool.append(packets, lane)
                    came += len(packets)
                except SpoolFullError:
                    assert sum(map(len, packets)) > 20
            assert spool.used_bytes <= 20
            assert came == sent + len(drops.told) + spool.packets
