"""Both ends against links that do everything wrong, in simulated time.

Each fault that real systems stumbled over is a test of its own: CFDP engines of Yamcs (#830, #891,
#956, #1153), nos3 (#743), cfdp-rs (#48), F´ (#5138), CF (#120) and cfdp-py (#54).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.link.beacon import Beacon, BootState
from daemon.link.commands import MIN_COMMAND_BYTES, Command, Kind, Report, Wanted
from daemon.link.fec import RepairPolicy
from daemon.link.packet import MAX_SEGMENTS, OVERHEAD_BYTES, Channel, Packet
from daemon.link.passes import Pass
from daemon.link.reports import ReportTimes
from daemon.link.states import PassEvent
from fakes.link import LinkFaults
from fakes.two_ends import MTU_BYTES, UPLINK_BYTES, TwoEnds

BITS_PER_S = 200_000
CLEAN = LinkFaults()
SEEDS, GROUPS = 1_000, 20


def passes(count: int, *, every_s: float = 400.0, length_s: float = 60.0) -> list[Pass]:
    """So many of them, the first one after ten seconds."""
    return [
        Pass(opens_utc_s=at, closes_utc_s=at + length_s, bits_per_s=BITS_PER_S)
        for at in (10 + every_s * number for number in range(count))
    ]


def two_ends(
    seed: int = 0,
    *,
    down: LinkFaults = CLEAN,
    up: LinkFaults = CLEAN,
    count: int = 30,
    every_s: float = 400.0,
    repair: RepairPolicy = RepairPolicy(),  # noqa: B008
    max_bytes: int = 1 << 30,
    uplink_bytes: int = UPLINK_BYTES,
) -> TwoEnds:
    """With a pass every few minutes."""
    plan = passes(count, every_s=every_s)
    return TwoEnds(
        seed,
        passes=plan,
        down=down,
        up=up,
        repair=repair,
        max_bytes=max_bytes,
        uplink_bytes=uplink_bytes,
    )


def spool_tiles(ends: TwoEnds, tiles: int, patches: int = 6) -> None:
    """Tiles as the codec makes them: side information, and patches of a decade of sizes."""
    for _ in range(tiles):
        ends.spool_frame(Channel.SIDE, 300)
        for _ in range(patches):
            ends.spool_frame(Channel.PATCH, ends.rng.randrange(500, 9_000))


def run_until_done(
    ends: TwoEnds, each: Callable[[], object] = lambda: None, most_s: float = 11_000.0
) -> None:
    """Until the board has nothing left, or for three hours."""
    while not ends.is_done and ends.clock.now_s < most_s:
        ends.run(ends.clock.now_s + 5, each)


def useful_share(ends: TwoEnds) -> float:
    """Of the bytes that got through, those that had to: every frame's packets once."""
    room = MTU_BYTES - OVERHEAD_BYTES
    needed = sum(len(raw) + OVERHEAD_BYTES * -(-len(raw) // room) for raw in ends.made.values())
    through = sum(size for _, size, whole in ends.down.sent if whole)
    return needed / through


def most_in_a_second(ends: TwoEnds) -> int:
    """Most bits put on the link in any second."""
    most = begin = bits = 0
    for at_s, size, _ in ends.down.sent:
        bits += 8 * size
        while ends.down.sent[begin][0] <= at_s - 1:
            bits -= 8 * ends.down.sent[begin][1]
            begin += 1
        most = max(most, bits)
    return most


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_frame_arrives_whatever_the_link_does(group: int) -> None:
    """A thousand seeds: loss, bursts, reordering, repeats, flipped bits, outages, both ends anew.

    Of a tenth to a third of all packets lost; 85 % of what gets through had to.
    """
    for seed in range(group, SEEDS, GROUPS):
        ends = two_ends(
            seed,
            down=LinkFaults(
                loss=0.08, burst=0.003, burst_messages=6, jitter_s=0.2, duplicate=0.01, flip=0.01,
                outages=[(20 + 5 * (seed % 3), 25 + 5 * (seed % 4)), (430, 436), (850, 858)],
            ),
            up=LinkFaults(
                loss=0.1, jitter_s=0.3, duplicate=0.02, flip=0.01, outages=[(430, 440)]
            ),
        )  # fmt: skip
        spool_tiles(ends, 40)
        left = [(30 + seed % 20, "ground"), (45 + seed % 17, "board")]

        def restart(ends: TwoEnds = ends, left: list[tuple[int, str]] = left) -> None:
            while left and ends.clock.now_s > left[0][0]:
                if left.pop(0)[1] == "ground":
                    ends.restart_ground()
                else:
                    ends.restart_board()
                    spool_tiles(ends, 2)

        while left:
            ends.run(ends.clock.now_s + 5, restart)
        run_until_done(ends, restart)

        assert ends.got == ends.made, seed
        assert (ends.reporter.lost, ends.evicted.told) == (0, []), seed
        assert useful_share(ends) >= 0.85, seed
        assert most_in_a_second(ends) <= BITS_PER_S, seed


def test_a_week_of_passes() -> None:
    """Fifteen passes a day, each filled while there is something to send: nothing is lost."""
    ends = two_ends(
        down=LinkFaults(loss=0.1, jitter_s=0.1),
        up=LinkFaults(loss=0.1, jitter_s=0.1),
        count=105,
        every_s=5_760.0,
    )
    for day in range(7):
        spool_tiles(ends, 400)
        ends.run((day + 1) * 86_400.0)
    run_until_done(ends, most_s=8 * 86_400.0)

    assert ends.got == ends.made
    assert useful_share(ends) >= 0.95
    first = [size for at_s, size, whole in ends.down.sent if whole and at_s < 70]
    assert 8 * sum(first) >= 0.85 * 0.9 * 60 * BITS_PER_S


def test_a_link_without_faults_repeats_nothing() -> None:
    """And the board forgets each frame within seconds."""
    ends = two_ends()
    spool_tiles(ends, 5)
    ends.run(70)
    assert ends.is_done
    assert ends.got == ends.made
    assert ends.metrics.totals()["prismlink_packets_repeated_total"] == 0


def test_no_request_is_above_the_uplinks_mtu() -> None:
    """Thousands of frames with gaps: asked for in many messages, each short (Yamcs #830, #891)."""
    ends = two_ends(down=LinkFaults(outages=[(0, 65)]), count=200)
    for _ in range(2_000):
        ends.spool_frame(Channel.PATCH, 500)
    run_until_done(ends, most_s=40_000)  # `run` looks at the length of each

    assert len(ends.got) == 2_000


def test_the_end_may_come_while_suspended() -> None:
    """The last packets are lost, then the link is suspended: resumed, they come (Yamcs #956)."""
    ends = two_ends(down=LinkFaults(outages=[(10.5, 12)]))
    spool_tiles(ends, 1)
    ends.run(12)
    assert not ends.spool.packets
    ends.downlink.orders.switch.command(PassEvent.SUSPEND)
    count = len(ends.down.sent)
    ends.run(300)
    assert len(ends.down.sent) == count
    ends.downlink.orders.switch.command(PassEvent.RESUME)
    run_until_done(ends)

    assert ends.got == ends.made


def test_resuming_asks_where_no_gap_is_known() -> None:
    """The ground has all it ever heard of, and what came after was lost whole (Yamcs #1153)."""
    ends = two_ends(down=LinkFaults(outages=[(30, 75)]))
    spool_tiles(ends, 1)
    ends.run(30)
    assert ends.is_done
    ends.spool_frame(Channel.PATCH, 5_000)
    ends.run(75)
    assert not ends.spool.packets
    run_until_done(ends)

    assert ends.got == ends.made


def test_a_signal_lost_in_mid_frame_is_no_loss() -> None:
    """The rest comes with the next pass, and not what came already (nos3 #743)."""
    ends = two_ends(down=LinkFaults(outages=[(12, 70)]))
    for _ in range(3):
        ends.spool_frame(Channel.PATCH, 60_000)
    run_until_done(ends)

    assert ends.got == ends.made
    assert useful_share(ends) > 0.9


def test_reordering_is_no_storm() -> None:
    """Packets overtake each other for most of the window: none is asked for (cfdp-rs #48)."""
    ends = two_ends(down=LinkFaults(jitter_s=0.9 * ReportTimes().reorder_s))
    spool_tiles(ends, 10)
    ends.run(70)
    assert ends.got == ends.made
    assert ends.metrics.totals()["prismlink_packets_repeated_total"] == 0


def test_ends_that_come_twice_change_nothing() -> None:
    """Each message of either way comes twice: nothing stalls, nothing is repeated (cfdp-py #54)."""
    twice = LinkFaults(duplicate=1.0, jitter_s=0.1)
    ends = two_ends(down=twice, up=twice)
    spool_tiles(ends, 10)
    ends.run(70)
    assert ends.is_done
    assert ends.got == ends.made
    assert ends.metrics.totals()["prismlink_packets_repeated_total"] == 0


def test_times_stand_still_outside_contact() -> None:
    """A report that was on its way at loss of signal is not given up in an hour (CF #120)."""
    ends = two_ends(down=LinkFaults(loss=0.2), every_s=4_000)
    spool_tiles(ends, 300)
    ends.run(70 + ReportTimes().contact_s + 1)
    asked = {key: dict(boot.asked) for key, boot in ends.reporter._boots.items()}
    assert any(asked.values())
    ends.run(4_000)
    ends.reporter.due(ends.clock.now_s)
    assert {key: dict(boot.asked) for key, boot in ends.reporter._boots.items()} == asked
    run_until_done(ends, most_s=100_000)
    assert ends.got == ends.made


def test_numbers_nobody_would_send_cost_nothing() -> None:
    """Beacons and reports that name billions of frames and segments (F´ #5138)."""
    ends = two_ends()
    spool_tiles(ends, 5)
    ends.run(11)
    waiting = ends.spool.packets
    for boot_id in (ends.boot_id, 1):
        wanted = (
            Wanted(frame_id=2**32 - 1),
            Wanted(frame_id=0, spans=((0, MAX_SEGMENTS),)),
            Wanted(frame_id=10, spans=((MAX_SEGMENTS - 1, MAX_SEGMENTS),)),
        )
        report = Report(loss=1.0, boot_id=boot_id, below=0, wanted=wanted)
        ends.spool.hear(7, 2**32 - 1, report)
        report = Report(loss=1.0, boot_id=boot_id, below=0, done=((2**31, 2**32),))
        ends.spool.hear(7, 1, report)
        states = tuple(BootState(boot_id=i, kept_from=0, sent_below=2**32) for i in range(2, 7))
        beacon = Beacon(
            session=1, seen=2**32 - 1, seen_bits=2**64 - 1, answered=2**32 - 1,
            sent_packets=2**64 - 1, boots=states, gone=((9, 5, 2**32), (9, 7, 3)),
        )  # fmt: skip
        ends.reporter.heard(ends.clock.now_s)
        ends.reporter.beacon(boot_id, beacon, ends.clock.now_s)
    assert ends.spool.packets == waiting
    run_until_done(ends, most_s=200)
    assert ends.got.items() >= {k: v for k, v in ends.made.items() if k[1] not in (0, 10)}.items()


def test_counters_may_wrap() -> None:
    """The 14-bit count within seconds, the frame ids into another boot: all frames arrive."""
    ends = two_ends(down=LinkFaults(loss=0.1), count=200)
    ends.segmenter._frame_id = 2**32 - 30
    ends.segmenter._counter = 2**14 - 5
    for number in range(60):
        ends.next_frame_as((ends.boot_id, 2**32 - 30 + number))
        if number >= 30:
            ends.next_frame_as(((ends.boot_id + 1) % 2**32, number - 30))
        ends.spool_frame(Channel.PATCH, 3_000)
    run_until_done(ends)

    assert len(ends.got) == 60
    assert ends.got == ends.made


def test_a_board_that_rebooted_sends_what_it_kept() -> None:
    """Under its old boot id, what was lost too; the new boot's frames beside it."""
    ends = two_ends(down=LinkFaults(loss=0.3))
    spool_tiles(ends, 30)
    ends.run(14)
    for _ in range(3):
        ends.restart_board()
        spool_tiles(ends, 3)
        ends.run(ends.clock.now_s + 2)
    assert len({boot_id for boot_id, _ in ends.made}) == 4
    run_until_done(ends)

    assert ends.got == ends.made


def test_a_ground_that_restarted_with_half_the_frames_asks_for_the_others() -> None:
    """Those it has for good are not sent again, not even asked for."""
    ends = two_ends(down=LinkFaults(loss=0.3))
    spool_tiles(ends, 10)
    ends.run(14)
    had = set(ends.got)
    assert 10 < len(had) < len(ends.made)
    ends.restart_ground()
    before = len(ends.down.sent)
    run_until_done(ends)

    assert ends.got == ends.made
    assert ends.repeated_whole < 0.05 * (len(ends.down.sent) - before)


def test_what_came_of_frames_before_a_restart_is_not_sent_again() -> None:
    """Of frames that a pass left half sent the next ground asks for no packet that it took back."""
    ends = two_ends(down=LinkFaults(loss=0.05))
    spool_tiles(ends, 60)
    ends.run(75)
    ends.restart_ground()
    had = {
        (packet.boot_id, packet.frame_id, packet.segment_index)
        for first, _ in ends.reassembler.incomplete(ends.clock.now_s)
        for packet in ends.reassembler.packets((first.boot_id, first.frame_id))
    }
    assert len(had) > 5
    again, receive = list[Packet](), ends.receive

    def watched(raw: bytes, now_s: float) -> None:
        packet = Packet.unpack(raw)
        if (packet.boot_id, packet.frame_id, packet.segment_index) in had:
            again.append(packet)
        receive(raw, now_s)

    ends.receive = watched  # type: ignore[method-assign]
    run_until_done(ends)

    assert ends.got == ends.made
    assert not again


def test_what_was_evicted_is_given_up_by_the_ground() -> None:
    """It stops asking, counts the frames as lost, and gets all others."""
    ends = two_ends(down=LinkFaults(loss=0.1), max_bytes=150_000)
    spool_tiles(ends, 20)
    ends.run(16)
    spool_tiles(ends, 20)
    assert ends.evicted.told
    run_until_done(ends)

    assert ends.is_done
    missing = ends.made.keys() - ends.got.keys()
    assert missing
    lost = ends.reporter.lost + ends.reporter.lost_before
    assert lost >= len(missing) - 10  # the first ones were never sent, nor heard of
    assert {k: ends.made[k] for k in ends.got} == ends.got


def test_repair_packets_make_asking_rare() -> None:
    """With a fifth of all packets lost and half as many sent on top, hardly one is repeated."""
    ends = two_ends(down=LinkFaults(loss=0.2), repair=RepairPolicy(ratio=0.5, minimum=1))
    spool_tiles(ends, 10)
    run_until_done(ends)
    assert ends.got == ends.made
    repeated = ends.metrics.totals()["prismlink_packets_repeated_total"]
    assert repeated < 0.1 * sum(not whole for *_, whole in ends.down.sent)


def test_the_ground_learns_how_much_is_lost() -> None:
    """Within a third of what it is."""
    ends = two_ends(down=LinkFaults(loss=0.15))
    spool_tiles(ends, 100)
    ends.run(60)
    assert 0.1 < ends.reporter.loss < 0.2


def test_a_disk_that_fails_for_a_while_loses_nothing() -> None:
    """What cannot be read then was not sent, whatever newer leaves from memory meanwhile."""
    ends = two_ends(down=LinkFaults(loss=0.1))
    for _ in range(60):
        ends.spool_frame(Channel.PATCH, 5_000)
    ends.run(14)
    ends.disk.fails = True
    for _ in range(5):
        ends.spool_frame(Channel.PATCH, 3_000)
    ends.run(18)
    ends.disk.fails = False
    run_until_done(ends)

    assert ends.got == ends.made
    assert ends.evicted.told == []


def test_a_frame_that_could_not_be_kept_is_asked_for_again() -> None:
    """A ground whose disk was full for a while gets it when there is room."""
    ends = two_ends(down=LinkFaults(loss=0.1))
    spool_tiles(ends, 5)
    ends.keeps = False
    ends.run(20)
    assert ends.got == {}
    ends.keeps = True
    run_until_done(ends)
    assert ends.got == ends.made


@pytest.mark.parametrize("uplink_bytes", [MIN_COMMAND_BYTES, 200, 400])
def test_a_frame_with_many_gaps_holds_up_no_other(uplink_bytes: int) -> None:
    """It is asked for in parts that fit a message, however short."""
    ends = two_ends(down=LinkFaults(loss=0.3), uplink_bytes=uplink_bytes)
    ends.spool_frame(Channel.PATCH, 300_000)
    spool_tiles(ends, 5)
    run_until_done(ends)
    assert ends.got == ends.made


def test_a_board_that_reboots_over_and_over_keeps_all() -> None:
    """Seventy boots, the uplink dead at first: what is long on the ground is not sent for ever."""
    ends = two_ends(up=LinkFaults(outages=[(0, 60)]), count=200, down=LinkFaults(loss=0.05))
    for number in range(70):
        ends.restart_board()
        for _ in range(2):
            ends.spool_frame(Channel.PATCH, 1_500)
        if number % 3:
            ends.run(ends.clock.now_s + 0.5)
    ends.run(60)
    spool_tiles(ends, 5)
    run_until_done(ends)

    assert ends.got == ends.made
    assert (ends.reporter.lost, ends.evicted.told) == (0, [])
    repeated = ends.metrics.totals()["prismlink_packets_repeated_total"]
    assert repeated < 3 * len(ends.made)


def test_one_bad_sector_holds_up_one_frame() -> None:
    """What was asked for and cannot be read waits; all else goes on."""
    ends = two_ends(down=LinkFaults(outages=[(10, 13)]))
    for _ in range(30):
        ends.spool_frame(Channel.PATCH, 5_000)
    ends.run(12.5)
    ends.disk.bad.add((Path("/spool/patch") / f"{0:020d}.log", 0))
    ends.run(460)
    assert ends.spool.packets == 0
    assert ends.made.keys() - ends.got.keys() == {(ends.boot_id, 0)}
    ends.disk.bad.clear()
    run_until_done(ends)
    assert ends.got == ends.made


def test_a_slow_link_is_there_for_packets() -> None:
    """Beacons take a fifth of it at most."""
    one = Pass(opens_utc_s=0, closes_utc_s=10_000, bits_per_s=8.3e3)
    ends = TwoEnds(0, passes=[one], down=CLEAN, up=CLEAN)
    for _ in range(3):
        ends.spool_frame(Channel.PATCH, 5_000)
    run_until_done(ends)
    assert ends.got == ends.made


def test_what_an_earlier_ground_had_is_not_lost() -> None:
    """A ground that knows some frames of a boot does not count those below, which it forgot."""
    ends = two_ends()
    spool_tiles(ends, 5)
    ends.run(30)
    had, ends.got = ends.got, dict([list(ends.got.items())[-1]])
    ends.restart_ground()
    ends.spool_frame(Channel.PATCH, 3_000)
    ends.run(65)
    assert ends.reporter.lost == 0
    assert len(ends.got) == 2
    assert (had | ends.got) == ends.made


def test_a_report_that_comes_late_asks_for_nothing() -> None:
    """What it wanted may have been sent since; what is done still counts."""
    ends = two_ends(down=LinkFaults(outages=[(10, 20)]))
    for _ in range(3):
        ends.spool_frame(Channel.PATCH, 500)
    ends.run(15)
    wanted = Report(loss=0, boot_id=ends.boot_id, below=0, wanted=(Wanted(frame_id=0),))
    ends.spool.hear(5, 2, Report(loss=0, boot_id=ends.boot_id, below=0))
    ends.spool.hear(5, 1, wanted)
    assert ends.spool.take(0.0) is None
    ends.spool.hear(5, 1, Report(loss=0, boot_id=ends.boot_id, below=1))
    assert ends.spool.kept_frames == 2
    beacon = ends.spool.beacon(0)
    assert (beacon.seen, beacon.has_seen(1)) == (2, False)


def test_messages_are_telecommands_and_telemetry() -> None:
    """What the ground says goes up as one, and the board's beacon comes down as the other."""
    ends = two_ends()
    spool_tiles(ends, 1)
    heard, said = list[Packet](), list[Command]()
    receive, hear = ends.receive, ends.hear

    def note_packet(raw: bytes, now_s: float) -> None:
        heard.append(Packet.unpack(raw))
        receive(raw, now_s)

    def note_command(raw: bytes) -> None:
        said.append(Command.unpack(raw))
        hear(raw)

    ends.receive, ends.hear = note_packet, note_command  # type: ignore[method-assign]
    ends.run(20)
    assert {packet.apid for packet in heard if packet.channel is Channel.HOUSEKEEPING} == {101}
    assert [command.kind for command in said[:2]] == [Kind.REPORT] * 2
    assert [command.number for command in said[:3]] == [1, 2, 3]
