"""`kill -9` of either process: the other goes on, and what was lost is counted.

And what is not lost: frames that are archived, and packets of those that are not whole yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest

from daemon.link.packet import Channel, Packet
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketListener, PacketSender, TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.ground import frames
from fakes.processes import PATIENCE_S, Desk, Numbers, towards, until

PATCHES = 4
"""Of every tile here."""


@contextmanager
def instrument(desk: Desk) -> Iterator[TileSender]:
    """An instrument in the test's own hands."""
    with TileSender(towards(desk.tiles)) as sender:
        yield sender


def show(sender: TileSender, *sequences: int) -> None:
    """Send tiles with these numbers."""
    for sequence in sequences:
        tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s", sequence=sequence)
        assert sender.send(TileMessage.pack(tile), PATIENCE_S)


def whole(desk: Desk) -> set[int]:
    """Sequences of the tiles that the ground wrote without a hole."""
    return {m["sequence"] for m in desk.manifests() if not m["patches_missing"]}


def test_the_board_goes_on_without_the_ground(desk: Desk, small_bundle: Path) -> None:
    """Killed, the ground costs what was in the air; started again, it counts that and goes on."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(small_bundle, "link.mtu_bytes=256").until_ready()
    with instrument(desk) as sender:
        show(sender, *range(10))
        ground.until_metrics(lambda n: n.total("patches_decoded_total") > 0, "a stream")
        ground.kill()
        show(sender, *range(10, 20))
        alone = flight.until_metrics(
            lambda n: n.total("frames_total", channel="patch") == 20 * PATCHES, "all 20 tiles"
        )
        assert alone.total("spool_packets") > 0

        ground = desk.ground(small_bundle, "output.format=npy").until_ready()
        show(sender, *range(20, 25))
        until(lambda: whole(desk) >= set(range(20, 25)), "the tiles sent after the restart")
    flown = flight.stop()
    sent = flown.total("packets_total")

    def missing(numbers: Numbers) -> float:
        return sum(numbers.total("packets_missing", reason=r) for r in ("gap", "before_start"))

    # The board's counters tell the new ground, to the packet, what it never got.
    landed = ground.until_metrics(
        lambda n: n.total("packets_received_total") + missing(n) == sent, "exact accounts"
    )
    assert landed.total("packets_missing", reason="before_start") > 0
    assert flown.total("dropped_patches_total") == flown.total("spool_dropped_packets_total") == 0
    assert ground.stop().total("packets_duplicate_total") == 0


def test_the_ground_goes_on_without_the_board(desk: Desk, small_bundle: Path) -> None:
    """Killed in the middle of a tile, the board leaves one with holes, and each is counted."""
    link, short = f"{desk.link}-2", ("collect.max_age_s=6", "tile_deadline_s=6")
    ground = desk.ground(small_bundle, f"link.address={link}", *short).until_ready()
    with (
        PacketListener(Endpoint(address=desk.link, bind=True)) as board,
        PacketSender(towards(link)) as air,
        instrument(desk) as sender,
    ):
        flight = desk.flight(small_bundle, "link.mtu_bytes=256").until_ready()
        show(sender, 0)
        side, first, second = first_frames(board, 3)
        # Two packets of the second patch, and between them one that is lost.
        for raw in (*side, *first, second[0], second[2]):
            assert air.send(raw, PATIENCE_S)
        flight.kill()
        numbers = ground.until_metrics(
            lambda n: n.total("tiles_written_total", state="partial") == 1, "a tile with holes"
        )
        assert numbers.total("frames_incomplete_total", channel="patch") == 1
        assert numbers.total("patches_missing_total") == PATCHES - 1
        assert numbers.total("packets_missing", reason="gap") == 1

        dead = Packet.unpack(side[0]).boot_id
        flight = desk.flight(small_bundle, "link.mtu_bytes=256").until_ready()
        show(sender, 1, 4)

        def carried() -> bool:
            for raw in board.recv_many(64, 0.05):
                if Packet.unpack(raw).boot_id != dead:
                    assert air.send(raw, PATIENCE_S)
            return whole(desk) == {1, 4}

        until(carried, "the tiles sent after the restart")
        assert flight.metrics().total("tile_sequence_gaps_total") == 2
        flight.kill()
    assert ground.stop().total("patches_decoded_total") == 1 + 2 * PATCHES


def test_a_killed_ground_goes_on_with_what_it_archived(desk: Desk, small_bundle: Path) -> None:
    """What was written is not decoded again, what was begun is, and no cube differs."""
    segmenter = Segmenter(boot_id=3, apid=1, mtu_bytes=256, repair={})
    sent = [
        segmenter.packets(frame.raw, frame.channel, 0.0)
        for sequence in range(2)
        for frame in frames(fake_tile(bands=6, rows=128, cols=128 * PATCHES, sequence=sequence))
    ]
    folder = desk.cubes.parent
    settings = (
        "archive.sync_ms=10",
        f"archive.directory={folder / 'archive'}",
        "output.format=npy",
    )

    def play(raw: list[bytes]) -> None:
        with PacketSender(towards(desk.link)) as air:
            assert all(air.send(packet, PATIENCE_S) for packet in raw)

    ground = desk.ground(small_bundle, *settings).until_ready()
    *begun, cut = sent[: 2 * PATCHES]
    play([*chain(*begun), *cut[:-1]])
    ground.until_metrics(
        lambda n: (
            n.total("archive_frames") == len(begun)
            and n.total("tiles_written_total", state="complete") == 1
        ),
        "the first tile, and half of the second",
    )
    ground.kill()

    ground = desk.ground(small_bundle, *settings).until_ready()
    play(list(chain(*sent)))
    until(lambda: whole(desk) == {0, 1}, "both tiles")
    numbers = ground.stop()
    assert numbers.total("patches_decoded_total") == PATCHES
    assert numbers.total("archive_recovered_frames") == len(begun)
    assert numbers.total("frames_set_aside_total", reason="repeated") == len(begun)

    undisturbed = folder / "undisturbed"
    other = desk.ground(small_bundle, "output.format=npy", f"output.directory={undisturbed}")
    other.until_ready()
    play(list(chain(*sent)))
    other.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == 2, "both tiles again"
    )
    for cube in desk.cubes.glob("*.npy"):
        assert cube.read_bytes() == (undisturbed / cube.name).read_bytes()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_half_of_each_frame_survives_the_ground(desk: Desk, small_bundle: Path, end: str) -> None:
    """Without an uplink nothing comes twice: half of the packets before, half after, no hole."""
    segmenter = Segmenter(boot_id=3, apid=1, mtu_bytes=96, repair={})
    sent = [
        segmenter.packets(frame.raw, frame.channel, 0.0)
        for frame in frames(fake_tile(bands=6, rows=128, cols=128 * PATCHES))
    ]
    assert min(map(len, sent)) > 1
    settings = (
        *("collect.max_age_s=60", "tile_deadline_s=60", "output.format=npy"),
        f"archive.directory={desk.cubes.parent / 'archive'}",
    )

    def play(frames: list[list[bytes]]) -> None:
        with PacketSender(towards(desk.link)) as air:
            assert all(air.send(packet, PATIENCE_S) for packet in chain(*frames))

    ground = desk.ground(small_bundle, *settings).until_ready()
    play([packets[::2] for packets in sent])
    half = sum(len(packets[::2]) for packets in sent)
    if end == "stop":
        ground.until_metrics(lambda n: n.total("packets_received_total") == half, "half of all")
        assert ground.stop().total("frames_incomplete_total") == 0
    else:
        ground.until_metrics(
            lambda n: n.total("half_received_frames") == len(sent), "half of all on the disk"
        )
        ground.kill()
    assert desk.manifests() == []

    ground = desk.ground(small_bundle, *settings).until_ready()
    assert ground.metrics().total("half_received_recovered_packets") == half
    play([packets[1::2] for packets in sent])
    until(lambda: whole(desk) == {0}, "the tile")
    numbers = ground.stop()
    assert numbers.total("frames_complete_total") == len(sent)
    assert numbers.total("packets_received_total") == sum(map(len, sent)) - half
    assert not list((desk.cubes.parent / "archive" / "half-received").glob("*.log"))


def first_frames(board: PacketListener, count: int) -> list[list[bytes]]:
    """The packets of the first frames a board sends, side information first."""
    frames: dict[int, list[bytes]] = {}

    def enough() -> bool:
        for raw in board.recv_many(64, 0.05):
            frames.setdefault(Packet.unpack(raw).frame_id, []).append(raw)
        return len(frames) > count

    until(enough, "packets of the board")
    assert Packet.unpack(frames[0][0]).channel is Channel.SIDE
    return [frames[frame_id] for frame_id in range(count)]
