"""The disk spool keeps the contract of spools, and what it kept when its process or disk fails."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from contracts.spool import Drops, SpoolContract, send_all
from daemon.clock import Clock, SystemClock
from daemon.disk import LocalDisk
from daemon.errors import SpoolFullError
from daemon.link.lanes import Lane
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.spool import Spool
from fakes.clock import FakeClock
from fakes.disk import FailingDisk

SIDE, PATCH = Lane.SIDE, Lane.PATCH


def limits_of(**given: float) -> DiskSpoolLimits:
    """Small ones, but for those given."""
    small = {
        "max_bytes": 10_000, "max_memory_bytes": 1_000, "segment_bytes": 60, "sync_packets": 1,
        "sync_s": 1.0, "retry_s": 10.0,
    }  # fmt: skip
    return DiskSpoolLimits(**{**small, **given})  # type: ignore[arg-type]


class TestDiskSpool(SpoolContract):
    """`DiskSpool`, by the contract, each packet synced as it comes."""

    @pytest.fixture(autouse=True)
    def folders(self) -> Iterator[None]:
        """Where spools are made; all of it goes in the end."""
        self._root = Path(mkdtemp())
        self._made = 0
        yield
        shutil.rmtree(self._root)

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """An empty one."""
        self._made += 1
        folder, limits = self._root / str(self._made), limits_of(max_bytes=max_bytes)
        return DiskSpool(folder, limits=limits, clock=clock, on_drop=drops)


class Rig:
    """A spool with its surroundings."""

    def __init__(self, folder: Path, disk: LocalDisk | None = None, **limits: float) -> None:
        self.clock, self.drops = FakeClock(), Drops()
        self.spool = DiskSpool(
            folder,
            limits=limits_of(**limits),
            clock=self.clock,
            on_drop=self.drops,
            disk=disk or FailingDisk(),
        )


def test_the_next_process_sends_what_the_last_one_left(tmp_path: Path) -> None:
    """In order, by priority, nothing twice, nothing lost: also where the process was killed."""
    first = Rig(tmp_path).spool
    first.append([b"p1", b"p2"], PATCH)
    first.append([b"s1"], SIDE)
    for wanted in (b"s1", b"p1"):
        packet = first.take(0.0)
        assert packet is not None
        assert packet.raw == wanted
        assert first.sent(packet)
    second = Rig(tmp_path)
    assert second.spool.recovery.records == 1
    second.spool.append([b"s2"], SIDE)
    second.spool.append([b"p3"], PATCH)

    assert send_all(second.spool) == [b"s2", b"p2", b"p3"]
    assert second.drops.told == []


def test_packets_are_synced_by_number(tmp_path: Path) -> None:
    """Not one by one; before that none of them leaves."""
    disk = FailingDisk()
    spool = Rig(tmp_path, disk, sync_packets=3).spool
    spool.append([b"a", b"b"], PATCH)
    assert (spool.take(0.0), disk.synced, spool.packets) == (None, 0, 2)
    spool.append([b"c"], PATCH)
    assert disk.synced == 1
    assert send_all(spool) == [b"a", b"b", b"c"]


def test_packets_are_synced_by_age(tmp_path: Path) -> None:
    """The last ones of a pass do not wait for others."""
    rig = Rig(tmp_path, sync_packets=1000, sync_s=0.0625)
    rig.spool.append([b"a"], PATCH)
    rig.clock.advance(0.03125)
    rig.spool.tick()
    assert rig.spool.take(0.0) is None
    rig.clock.advance(0.03125)
    rig.spool.tick()
    assert send_all(rig.spool) == [b"a"]


def test_the_end_leaves_all_on_the_disk(tmp_path: Path) -> None:
    """A last sync; nothing is given up."""
    rig = Rig(tmp_path, sync_packets=1000)
    rig.spool.append([b"a", b"b"], PATCH)
    assert rig.spool.end("shutdown") == (0, 2)
    assert rig.drops.told == []
    assert send_all(Rig(tmp_path).spool) == [b"a", b"b"]


@pytest.mark.parametrize("call", ["create", "write", "sync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_stops_nothing(tmp_path: Path, call: str, error: int) -> None:
    """Memory takes over, said once by the error's name; then the disk is used again."""
    disk = FailingDisk()
    disk.error = error
    rig = Rig(tmp_path, disk, segment_bytes=30, retry_s=5.0)
    rig.spool.append([b"before" * 5], PATCH)
    disk.fails = {call}
    rig.spool.append([b"during", b"it"], PATCH)
    rig.spool.append([b"side"], SIDE)
    assert rig.spool.degraded == errno.errorcode[error]
    first = rig.spool.take(0.0)
    assert first is not None
    assert first.raw == b"side"
    assert rig.spool.sent(first)

    rig.clock.advance(5.0)
    rig.spool.tick()
    assert rig.spool.degraded == errno.errorcode[error]
    disk.fails = set()
    rig.clock.advance(5.0)
    rig.spool.tick()
    assert rig.spool.degraded is None
    rig.spool.append([b"after"], PATCH)
    again = Rig(tmp_path)

    assert send_all(again.spool) == [b"before" * 5, b"during", b"it", b"after"]
    assert rig.drops.told == []


def test_without_a_folder_a_spool_is_in_memory(tmp_path: Path) -> None:
    """A board whose disk is gone still sends; what memory holds at the end is counted."""
    (tmp_path / "file").touch()
    rig = Rig(tmp_path / "file" / "spool")
    assert rig.spool.degraded == "ENOTDIR"
    rig.spool.append([b"a", b"b"], PATCH)
    assert not rig.spool.outlives
    packet = rig.spool.take(0.0)
    assert packet is not None
    assert rig.spool.sent(packet)
    assert rig.spool.end("shutdown") == (1, 0)
    rig.spool.append([b"late"], PATCH)
    assert rig.drops.told == [(b"b", PATCH, "shutdown"), (b"late", PATCH, "ended")]


def test_a_disk_found_late_is_sent_from_first(tmp_path: Path) -> None:
    """What the link has in hand meanwhile is sent once, and nothing of the disk in its place."""
    Rig(tmp_path / "disk").spool.append([b"old1", b"old2"], PATCH)
    (tmp_path / "spool").touch()  # where the disk is mounted, later
    rig = Rig(tmp_path / "spool", retry_s=5.0)
    rig.spool.append([b"new1", b"new2"], PATCH)
    in_hand = rig.spool.take(0.0)
    assert in_hand is not None
    (tmp_path / "spool").unlink()
    (tmp_path / "disk").rename(tmp_path / "spool")
    rig.clock.advance(5.0)
    rig.spool.tick()

    assert rig.spool.degraded is None
    assert rig.spool.outlives is False
    assert rig.spool.sent(in_hand)
    assert rig.spool.outlives
    assert send_all(rig.spool) == [b"old1", b"old2", b"new2"]
    assert rig.drops.told == []


def test_a_disk_that_cannot_be_read_loses_nothing(tmp_path: Path) -> None:
    """Packets wait until it can be; what is in memory goes on."""
    disk = FailingDisk()
    rig = Rig(tmp_path, disk, retry_s=5.0)
    rig.spool.append([b"disk1", b"disk2"], PATCH)
    disk.fails, disk.error = {"read", "write"}, errno.EIO
    rig.spool.append([b"memory"], PATCH)
    packet = rig.spool.take(0.0)
    assert packet is not None
    assert packet.raw == b"memory"
    assert rig.spool.sent(packet)
    assert rig.spool.take(0.0) is None
    disk.fails = set()
    rig.clock.advance(5.0)

    assert send_all(rig.spool) == [b"disk1", b"disk2"]
    assert rig.drops.told == []


def test_an_age_is_not_forgotten_while_the_disk_is_tried(tmp_path: Path) -> None:
    """It says how long the link has been away."""
    disk = FailingDisk()
    disk.fails = {"write"}
    rig = Rig(tmp_path, disk, retry_s=5.0)
    rig.spool.append([b"a"], PATCH)
    for _ in range(10):
        rig.clock.advance(5.0)
        rig.spool.tick()
    assert rig.spool.oldest_age_s == 50.0


def test_what_is_evicted_before_it_is_synced_spoils_nothing(tmp_path: Path) -> None:
    """Its file is gone when the sync comes."""
    rig = Rig(tmp_path, max_bytes=400, segment_bytes=100, sync_packets=1_000)
    for size in (150, 150, 350):
        rig.spool.append([bytes(size)], PATCH)
    rig.clock.advance(1.0)
    rig.spool.tick()
    assert rig.spool.degraded is None
    assert send_all(rig.spool) == [bytes(350)]
    assert len(rig.drops.told) == 2


def test_one_thread_appends_while_another_takes(tmp_path: Path) -> None:
    """As the stages do: all comes out, once and in order."""
    spool = DiskSpool(
        tmp_path,
        limits=limits_of(max_bytes=1 << 20, segment_bytes=500, sync_packets=7, sync_s=0.001),
        clock=SystemClock(),
        on_drop=Drops(),
    )
    packets, got = [b"%d" % i for i in range(3_000)], list[bytes]()

    def take() -> None:
        while len(got) < len(packets):
            if (packet := spool.take(0.1)) is not None:
                got.append(packet.raw)
                assert spool.sent(packet)

    taker = threading.Thread(target=take)
    taker.start()
    for start in range(0, len(packets), 3):
        spool.append(packets[start : start + 3], PATCH)
        spool.tick()
    while taker.is_alive():
        spool.tick()
        taker.join(0.01)
    spool.end("shutdown")

    assert got == packets


def test_memory_is_bounded_while_the_disk_fails(tmp_path: Path) -> None:
    """What came first goes first, of the least urgent; what is on the disk is left alone."""
    disk = FailingDisk()
    rig = Rig(tmp_path, disk, max_memory_bytes=6)
    rig.spool.append([b"disk"], PATCH)
    disk.fails = {"write"}
    rig.spool.append([b"s1"], SIDE)
    rig.spool.append([b"p1", b"p2"], PATCH)
    rig.spool.append([b"s2"], SIDE)
    rig.spool.append([b"l1"], Lane.SIDE_LOW)

    assert rig.drops.told == [(b"s1", SIDE, "evicted"), (b"l1", Lane.SIDE_LOW, "evicted")]
    assert send_all(rig.spool) == [b"s2", b"disk", b"p1", b"p2"]


def test_a_record_that_rots_is_counted_and_skipped(tmp_path: Path) -> None:
    """The link gets the next one."""
    rig = Rig(tmp_path)
    rig.spool.append([b"rotten", b"sound"], PATCH)
    (path,) = (tmp_path / "patch").glob("*.log")
    data = bytearray(path.read_bytes())
    data[18] ^= 1
    path.write_bytes(bytes(data))

    assert send_all(rig.spool) == [b"sound"]
    assert rig.drops.told == [(b"", PATCH, "damaged")]


def test_room_of_an_earlier_process_counts(tmp_path: Path) -> None:
    """What it left is evicted like anything else."""
    Rig(tmp_path, max_bytes=6).spool.append([b"old1", b"o2"], PATCH)
    rig = Rig(tmp_path, max_bytes=6)
    rig.spool.append([b"new"], PATCH)

    assert rig.drops.told == [(b"old1", PATCH, "evicted")]
    with pytest.raises(SpoolFullError):
        rig.spool.append([b"too", b"large"], PATCH)


def test_what_came_first_goes_first_across_processes_and_failures(tmp_path: Path) -> None:
    """Tiles go whole, in the order they came, whichever process and on whatever they were kept."""
    disk, tiles, told = FailingDisk(), iter(range(10, 100)), list[bytes]()
    rig = Rig(tmp_path, disk, max_bytes=36, retry_s=5.0)

    def come(number: int) -> None:
        for _ in range(number):
            tile = next(tiles)
            rig.spool.append([b"%d" % tile], SIDE)
            rig.spool.append([b"%d" % tile, b"%d" % tile], PATCH)

    for _ in range(3):
        come(10)
        told += [raw for raw, *_ in rig.drops.told]
        rig = Rig(tmp_path, disk, max_bytes=36, retry_s=5.0)
        come(2)
        disk.fails = {"write"}
        come(2)
        rig.clock.advance(5.0)
        rig.spool.tick()
        disk.fails = set()
        come(1)
        rig.clock.advance(5.0)
        rig.spool.tick()
        assert rig.spool.degraded is None
    come(3)
    told += [raw for raw, *_ in rig.drops.told]

    assert told == [b"%d" % tile for tile in range(10, 52) for _ in "spp"]
    assert sorted(send_all(rig.spool)) == [b"%d" % tile for tile in range(52, 58) for _ in "spp"]


def test_a_thousand_crashes_lose_nothing_durable(tmp_path: Path) -> None:
    """Every packet is sent, in the order it came, and hardly one twice.

    Processes append, send, and are killed at random, on a disk that fails at random.
    """
    rng, disk = random.Random(1), FailingDisk()
    came, sent, told, number = list[bytes](), list[bytes](), 0, 0
    rig = Rig(tmp_path, disk, segment_bytes=300, retry_s=1.0)
    for _ in range(1000):
        event = rng.random()
        if event < 0.5:
            packets = [b"%d " % (number + i) for i in range(rng.randint(1, 4))]
            number += len(packets)
            came += packets
            rig.spool.append(packets, PATCH)
        elif event < 0.8 and (packet := rig.spool.take(0.0)) is not None:
            sent.append(packet.raw)
            rig.spool.sent(packet)
        elif event < 0.9:
            disk.fails = {rng.choice(["create", "write", "sync"])} if not disk.fails else set()
        elif event < 0.95 and rig.spool.degraded is None:
            told += len(rig.drops.told)
            rig = Rig(tmp_path, disk, segment_bytes=300, retry_s=1.0)
        rig.clock.advance(0.5)
        rig.spool.tick()
    disk.fails = set()
    rig.clock.advance(2.0)
    rig.spool.tick()
    sent += send_all(rig.spool)

    assert told + len(rig.drops.told) == 0
    assert list(dict.fromkeys(sent)) == came
    assert len(sent) < 1.05 * len(came)
