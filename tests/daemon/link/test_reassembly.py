"""Rules of `daemon.link.reassembly`: any order, any loss, bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import ReassemblyError
from daemon.link.fec import RepairPolicy
from daemon.link.packet import MAX_FRAME_BYTES, Channel, Packet, symbol_bytes
from daemon.link.reassembly import IncompleteFrame, PacketCount, Reassembler
from daemon.link.segment import Segmenter
from daemon.radio import LossyLink

MAX_AGE_S = 10.0


def reassembler(max_frames: int = 64, max_bytes: int = 1 << 20) -> Reassembler:
    """A reassembler of ordinary size."""
    return Reassembler(max_frames=max_frames, max_bytes=max_bytes, max_age_s=MAX_AGE_S)


def cut(frames: list[bytes], *, minimum: int = 0, mtu_bytes: int = 128) -> list[bytes]:
    """The packets of frames, each with so many repair symbols."""
    segmenter = Segmenter(
        boot_id=7, apid=1, mtu_bytes=mtu_bytes,
        repair={Channel.PATCH: RepairPolicy(minimum=minimum)},
    )  # fmt: skip
    return [raw for frame in frames for raw in segmenter.packets(frame, Channel.PATCH, 0.0)]


def parse(raw: list[bytes]) -> list[Packet]:
    """Read every packet."""
    return [Packet.unpack(packet) for packet in raw]


def feed(target: Reassembler, packets: list[Packet], now_s: float = 0.0) -> list[bytes]:
    """Feed all, return the frames that came out."""
    frames = [target.feed(packet, now_s) for packet in packets]
    return [frame for frame in frames if frame is not None]


def through(link: LossyLink, packets: list[bytes]) -> list[bytes]:
    """All that arrives of packets."""
    return [arrived for packet in packets for arrived in link.carry(packet)] + link.flush()


FRAMES = [random.Random(i).randbytes(1 + 97 * i) for i in range(12)]
ONE = parse(
    cut([bytes(range(250))], minimum=2, mtu_bytes=130)
)  # three segments, two repair symbols


@pytest.mark.parametrize("seed", range(20))
def test_order_and_repeats_do_not_matter(seed: int) -> None:
    """A link that reorders and repeats still yields every frame, once."""
    link = LossyLink(seed=seed, repeat=0.3, reorder=0.5, depth=30)
    target = reassembler()

    frames = feed(target, parse(through(link, cut(FRAMES))))

    assert sorted(frames) == sorted(FRAMES)
    assert (target.frames, target.held_bytes, target.repaired) == (0, 0, 0)
    assert target.expire(float("inf")) == []


@given(st.data())
def test_as_many_lost_as_repairs_beyond_two_are_made_good(data: st.DataObject) -> None:
    """Any two packets fewer than there are repair symbols may be lost."""
    packets = parse(cut([FRAMES[9]], minimum=5))
    lost = data.draw(st.sets(st.integers(0, len(packets) - 1), max_size=3))
    kept = [packet for i, packet in enumerate(packets) if i not in lost]
    target = reassembler()

    assert feed(target, data.draw(st.permutations(kept))) == [FRAMES[9]]
    assert target.frames == 0


@pytest.mark.parametrize(("lost", "repaired"), [((), 0), ((1,), 1), ((0, 2), 2)])
def test_what_a_frame_was_made_of_is_told(lost: tuple[int, ...], repaired: int) -> None:
    """How many packets it was cut in, and how many of these repair symbols stood in for."""
    target = reassembler()
    packets = parse(cut([bytes(range(250))], minimum=4, mtu_bytes=130))
    assert feed(target, [p for p in packets if p.segment_index not in lost])

    assert target.made_of == PacketCount(segments=3, repaired=repaired)


def test_repair_makes_loss_good() -> None:
    """At five percent loss nearly no frame survives without repair symbols, and all with."""
    frames = [random.Random(i).randbytes(5000) for i in range(20)]

    def arrived(minimum: int) -> int:
        link = LossyLink(seed=3, loss=0.05)
        return len(feed(reassembler(), parse(through(link, cut(frames, minimum=minimum)))))

    assert arrived(minimum=0) < 5
    assert arrived(minimum=14) == 20


def test_a_frame_is_given_once() -> None:
    """Stragglers of a complete frame do not begin it anew."""
    target = reassembler()

    assert len(feed(target, ONE + ONE)) == 1
    assert target.frames == 0


def test_equal_frame_ids_of_two_boots_are_two_frames() -> None:
    """A restarted board counts from 0 again."""
    target = reassembler()
    other = [replace(packet, boot_id=8) for packet in ONE]

    frames = feed(target, [packet for pair in zip(ONE, other, strict=True) for packet in pair])

    assert frames == [bytes(range(250))] * 2


def test_a_silent_frame_is_given_up() -> None:
    """Age counts from the last packet; what is given up says what it lacked, and is forgotten."""
    target = reassembler()
    feed(target, ONE[:1], now_s=0.0)
    feed(target, ONE[3:4], now_s=8.0)

    assert target.expire(8.0 + MAX_AGE_S) == []
    assert target.expire(8.1 + MAX_AGE_S) == [
        IncompleteFrame(boot_id=7, frame_id=0, channel=Channel.PATCH, have=2, needed=3)
    ]
    assert (target.frames, target.held_bytes, target.evicted) == (0, 0, 0)
    assert feed(target, ONE[:3], now_s=99.0) == [bytes(range(250))]


def test_too_many_frames_push_out_the_longest_silent() -> None:
    """The number of frames is bounded; the one not heard for longest goes, and is reported."""
    target = reassembler(max_frames=2)
    first, second, third = ([replace(p, frame_id=i) for p in ONE] for i in range(3))
    feed(target, first[:1] + second[:1] + first[1:2] + third[:1])

    assert target.evicted == 1
    assert [frame.frame_id for frame in target.expire(0.0)] == [1]
    assert feed(target, first[2:3] + third[1:3]) == [bytes(range(250))] * 2


def test_memory_is_bounded_whatever_comes() -> None:
    """A flood of unfinished frames keeps within `max_bytes` and loses no report between calls."""
    target = reassembler(max_frames=100, max_bytes=10_000)
    reported = 0
    for frame_id in range(3000):
        target.feed(replace(ONE[0], frame_id=frame_id), 0.0)
        assert target.held_bytes <= 10_000
        reported += len(target.expire(0.0)) if frame_id % 20 == 0 else 0

    assert reported + len(target.expire(0.0)) == target.evicted == 3000 - target.frames


def test_reports_are_bounded_too() -> None:
    """If nobody asks for reports, they do not pile up; the count stays exact."""
    target = reassembler(max_frames=10)
    feed(target, [replace(ONE[0], frame_id=i) for i in range(100)])

    assert target.evicted == 90
    assert len(target.expire(0.0)) == 10


def test_a_hostile_length_takes_no_memory() -> None:
    """A packet that promises the longest frame costs what it holds."""
    size = symbol_bytes(MAX_FRAME_BYTES, 8192)
    packet = replace(ONE[0], frame_bytes=MAX_FRAME_BYTES, segment_count=8192, data=bytes(size))
    target = reassembler(max_bytes=64 << 20)
    tracemalloc.start()
    try:
        target.feed(packet, 0.0)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_could_never_be_kept_is_refused() -> None:
    """A frame above the whole memory does not push out all others first."""
    target = reassembler(max_bytes=600)
    with pytest.raises(ReassemblyError, match="frame needs 634 bytes, limit 600"):
        target.feed(ONE[0], 0.0)
    assert target.frames == 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("channel", {"channel": Channel.SIDE}),
        ("segment_count", {"segment_count": 4, "data": bytes(64)}),
        ("frame_bytes", {"frame_bytes": 249}),
    ],
)
def test_packets_that_contradict_each_other_are_refused(name: str, changes: dict[str, Any]) -> None:
    """What came first holds: the contradiction is named and the frame still completes."""
    target = reassembler()
    feed(target, ONE[:1])

    with pytest.raises(ReassemblyError, match=f"frame 0 of boot 0x00000007: {name}"):
        target.feed(replace(ONE[1], **changes), 0.0)

    assert feed(target, ONE[1:3]) == [bytes(range(250))]


def test_completed_frames_are_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many ids are kept; an older straggler begins its frame anew."""
    monkeypatch.setattr("daemon.link.reassembly.REMEMBERED", 2)
    target = reassembler()
    for frame_id in range(3):
        feed(target, [replace(packet, frame_id=frame_id) for packet in ONE[:3]])

    assert target.feed(replace(ONE[3], frame_id=1), 0.0) is None
    assert target.frames == 0
    assert target.feed(replace(ONE[3], frame_id=0), 0.0) is None
    assert target.frames == 1


def test_a_frame_that_is_forgotten_is_given_again() -> None:
    """Of those that were completed, and no others."""
    target, packets = reassembler(), parse(cut([bytes(300)]))
    target.forget(7, 0)
    assert feed(target, packets + packets) == [bytes(300)]
    target.forget(7, 0)
    assert feed(target, packets + packets) == [bytes(300)]


def test_what_is_incomplete_can_be_given_to_another() -> None:
    """Packets in the order they came, all or those after so many; they do there what they did."""
    before, after = reassembler(), reassembler()
    feed(before, [ONE[3], ONE[1]], now_s=5.0)
    feed(before, [replace(ONE[2], frame_id=1)], now_s=6.0)

    assert list(before.incomplete(4.9)) == []
    assert list(before.incomplete(5.0)) == [(ONE[3], 2)]
    assert [first.frame_id for first, _ in before.incomplete(6.0)] == [0, 1]
    packets = before.packets((7, 0))
    assert [packet.segment_index for packet in packets] == [3, 1]
    assert [packet.counter for packet in packets] == [ONE[3].counter] * 2
    assert before.packets((7, 0), 1) == packets[1:]
    assert feed(after, [*parse([packet.pack() for packet in packets]), ONE[2]]) == [
        bytes(range(250))
    ]


def test_completed_frames_are_remembered_until_they_are_forgotten() -> None:
    """As are incomplete ones, until they are given up."""
    target = reassembler()
    feed(target, [*ONE, replace(ONE[0], frame_id=1)])
    assert [target.remembers((7, frame_id)) for frame_id in range(3)] == [True, True, False]
    target.forget(7, 0)
    target.give_up(7, 1, 2)

    assert not target.remembers((7, 0))
    assert not target.remembers((7, 1))
