"""Packets become frames; those that never complete are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.errors import ReassemblyError
from daemon.ground.collect import CollectWorker
from daemon.ground.items import CollectedFrame
from daemon.ground.metrics import GroundMetrics
from daemon.link.fec import RepairPolicy
from daemon.link.packet import Channel, Packet
from daemon.link.quality_note import QualityNote
from daemon.link.reassembly import PacketCount, Reassembler
from daemon.link.segment import Segmenter
from daemon.metrics import new_registry
from daemon.radio import LossyLink
from fakes.clock import FakeClock

MAX_AGE_S = 10.0


def packets(*frames: bytes, channel: Channel = Channel.PATCH, repairs: int = 0) -> list[Packet]:
    """All packets of frames."""
    segmenter = Segmenter(
        boot_id=9, apid=1, mtu_bytes=128, repair={channel: RepairPolicy(minimum=repairs)}
    )
    return [Packet.unpack(p) for raw in frames for p in segmenter.packets(raw, channel, 0.0)]


def worker(clock: FakeClock) -> tuple[CollectWorker, GroundMetrics]:
    """A worker of ordinary size."""
    metrics = GroundMetrics(new_registry())
    reassembler = Reassembler(max_frames=16, max_bytes=1 << 20, max_age_s=MAX_AGE_S)
    return CollectWorker(reassembler, clock, metrics), metrics


def feed(target: CollectWorker, items: list[Packet]) -> list[CollectedFrame]:
    """Feed all; return the frames that came out."""
    return [frame for item in items for frame in target.accept(item)]


def test_a_frame_comes_out_once_with_its_name() -> None:
    """Repeats and surplus repair packets bring nothing more; boot and frame ids go along."""
    target, metrics = worker(FakeClock())
    items = packets(bytes(200), bytes(300), repairs=2)
    frames = feed(target, items + items)

    assert [(f.raw, f.channel, f.boot_id, f.frame_id) for f in frames] == [
        (bytes(200), Channel.PATCH, 9, 0), (bytes(300), Channel.PATCH, 9, 1),
    ]  # fmt: skip
    assert metrics.totals()['prismlink_frames_complete_total{channel="patch"}'] == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_link_costs_no_frame_that_repair_can_save(seed: int) -> None:
    """Loss within what repair packets make good, repeats and reordering leave every frame whole."""
    link = LossyLink(seed=seed, loss=0.05, repeat=0.1, reorder=0.2)
    sent = [bytes([i]) * 700 for i in range(10)]
    raw = [got for p in packets(*sent, repairs=8) for got in link.carry(p.pack())] + link.flush()
    target, _ = worker(FakeClock())

    assert sorted(f.raw for f in feed(target, [Packet.unpack(p) for p in raw])) == sorted(sent)
    assert link.lost > 0


def test_a_frame_that_stays_incomplete_is_counted() -> None:
    """By its channel, when it has waited too long, and not before."""
    clock = FakeClock()
    target, metrics = worker(clock)
    feed(target, packets(bytes(200), channel=Channel.SIDE)[:-1])
    clock.advance(MAX_AGE_S)
    assert target.tick() == []
    assert metrics.totals()['prismlink_frames_incomplete_total{channel="side"}'] == 0
    clock.advance(0.1)
    target.tick()
    assert metrics.totals()['prismlink_frames_incomplete_total{channel="side"}'] == 1


def test_frames_that_repair_saved_are_counted() -> None:
    """Those of which a packet was lost, and no others."""
    target, metrics = worker(FakeClock())
    whole, hurt = (packets(raw, repairs=2) for raw in (bytes(300), bytes(400)))
    feed(target, whole + [replace(packet, frame_id=1) for packet in hurt[1:]])

    totals = metrics.totals()
    assert totals['prismlink_frames_complete_total{channel="patch"}'] == 2
    assert totals["prismlink_frames_repaired_total"] == 1


def test_a_frame_says_what_it_was_made_of() -> None:
    """How many packets, and how many of these were repaired: products tell of each patch."""
    target, _ = worker(FakeClock())
    sent = packets(bytes(400), repairs=2)
    (frame,) = (frame for packet in sent[1:] for frame in target.accept(packet))

    assert frame.packets == PacketCount(segments=len(sent) - 2, repaired=1)


def test_frames_given_up_to_make_room_are_counted() -> None:
    """Beside all that stayed incomplete: the operator sees that memory, not the link, is short."""
    target, metrics = worker(FakeClock())
    (first, *_) = packets(bytes(200))
    feed(target, [replace(first, frame_id=i) for i in range(20)])
    target.finish()

    totals = metrics.totals()
    assert totals["prismlink_frames_evicted_total"] == 4
    assert totals['prismlink_frames_incomplete_total{channel="patch"}'] == 20


def test_the_end_gives_up_what_is_incomplete() -> None:
    """Nothing is left uncounted at the end, however young."""
    target, metrics = worker(FakeClock())
    feed(target, packets(bytes(200))[:1])

    assert target.finish() == []
    assert metrics.totals()['prismlink_frames_incomplete_total{channel="patch"}'] == 1


def test_a_packet_that_contradicts_its_frame_is_an_error() -> None:
    """The stage counts it; the frame still completes."""
    target, _ = worker(FakeClock())
    first, *rest = packets(bytes(200))
    feed(target, [first])
    with pytest.raises(ReassemblyError):
        feed(target, [replace(rest[0], channel=Channel.SIDE)])

    assert len(feed(target, rest)) == 1


def test_a_frame_that_could_not_be_kept_comes_out_again() -> None:
    """When it is sent again; others, of which packets come again, do not."""
    target, _ = worker(FakeClock())
    items = packets(bytes(200), bytes(300))
    feed(target, items)
    target.forget([(9, 1), (9, 7)])

    assert [frame.frame_id for frame in feed(target, items)] == [1]


def test_notes_are_handed_on_and_what_is_none_is_a_count() -> None:
    """With an uplink of our own or without: the board may have one."""
    told, metrics = list[QualityNote](), GroundMetrics(new_registry())
    reassembler = Reassembler(max_frames=16, max_bytes=1 << 20, max_age_s=MAX_AGE_S)
    target = CollectWorker(reassembler, FakeClock(), metrics, on_note=told.append)
    note = QualityNote(tile_id=bytes(8), row=1, col=2, psnr_db=40.0, max_abs_error=2.0)
    for raw in (note.pack(), note.pack()[:-1], b"a beacon, perhaps"):
        assert not feed(target, packets(raw, channel=Channel.HOUSEKEEPING))

    assert told == [note]
    assert metrics.totals()['prismlink_packets_refused_total{reason="packet_field"}'] == 1
