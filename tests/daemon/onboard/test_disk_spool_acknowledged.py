"""The disk spool where the ground acknowledges: what was sent outlives process and disk, too."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from contracts.acknowledged import (
    BOOT,
    PACKET_BYTES,
    PATCH,
    SIDE,
    AcknowledgedContract,
    Frames,
    names,
    report,
    send,
)
from contracts.spool import Drops
from daemon.clock import Clock
from daemon.link.commands import Wanted
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.spool import Spool
from fakes.clock import FakeClock
from fakes.disk import FailingDisk


def limits_of(max_bytes: int = 1 << 20, max_memory_bytes: int = 1 << 20) -> DiskSpoolLimits:
    """Small segments, each packet synced as it comes."""
    return DiskSpoolLimits(
        max_bytes=max_bytes,
        max_memory_bytes=max_memory_bytes,
        segment_bytes=3 * PACKET_BYTES,
        sync_packets=1,
        sync_s=1.0,
        retry_s=10.0,
    )


class TestDiskSpoolAcknowledged(AcknowledgedContract):
    """By the contract."""

    @pytest.fixture(autouse=True)
    def folders(self) -> Iterator[None]:
        """Where spools are made; all of it goes in the end."""
        self._root = Path(mkdtemp())
        yield
        shutil.rmtree(self._root)

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """An empty one."""
        return DiskSpool(
            self._root, limits=limits_of(max_bytes), clock=clock, on_drop=drops, acknowledged=True
        )


class Rig:
    """A spool on a disk that can fail."""

    def __init__(self, folder: Path, disk: FailingDisk | None = None, **limits: int) -> None:
        self.clock, self.drops = FakeClock(), Drops()
        self.spool = DiskSpool(
            folder,
            limits=limits_of(**limits),
            clock=self.clock,
            on_drop=self.drops,
            acknowledged=True,
            disk=disk or FailingDisk(),
        )


def files(folder: Path) -> int:
    """Segments on the disk."""
    return len(list(folder.glob("*/*.log")))


def test_what_was_sent_is_found_again(tmp_path: Path) -> None:
    """By the next process, which repeats none of it unasked, and any of it when asked."""
    frames, first = Frames(), Rig(tmp_path).spool
    first.append(frames.packets(SIDE), SIDE)
    for _ in range(3):
        first.append(frames.packets(count=2), PATCH)
    assert names(send(first, 4)) == [(0, 0), (1, 0), (1, 1), (2, 0)]
    second = Rig(tmp_path).spool
    assert (second.packets, second.kept_frames) == (3, 3)
    states = [(b.boot_id, b.kept_from, b.sent_below) for b in second.beacon(0).boots]
    assert states == [(BOOT, 0, 2)]
    report(second, 1, wanted=(Wanted(frame_id=1, spans=((1, 2),)),))
    second.append(Frames(boot_id=8).packets(), PATCH)

    assert names(send(second)) == [(1, 1), (2, 1), (3, 0), (3, 1), (0, 0)]
    assert [(b.boot_id, b.sent_below) for b in second.beacon(0).boots] == [(BOOT, 4), (8, 1)]


def test_files_go_when_all_in_them_is_acknowledged(tmp_path: Path) -> None:
    """Wherever they are among the others; what is left can still be had."""
    rig, frames = Rig(tmp_path), Frames()
    for _ in range(12):
        rig.spool.append(frames.packets(), PATCH)
    send(rig.spool)
    before = files(tmp_path)
    assert before >= 4
    report(rig.spool, 1, 0, done=((4, 12),))
    assert files(tmp_path) < before
    report(rig.spool, 2, wanted=(Wanted(frame_id=2),))
    assert names(send(rig.spool)) == [(2, 0)]
    report(rig.spool, 3, 12)
    assert files(tmp_path) <= 1
    assert rig.spool.used_bytes == 0
    again = Rig(tmp_path).spool
    report(again, 1, 12)
    assert (again.kept_frames, again.used_bytes) == (0, 0)


def test_a_record_that_rots_is_gone_and_said_so(tmp_path: Path) -> None:
    """Asked for, it is given up, counted, and the others of its frame are sent instead.

    Asked for once more, the frame is said to be gone.
    """
    rig, frames = Rig(tmp_path), Frames()
    for _ in range(2):
        rig.spool.append(frames.packets(count=2), PATCH)
    send(rig.spool)
    path = min((tmp_path / "patch").glob("*.log"))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(bytes(data))
    report(rig.spool, 1, wanted=(Wanted(frame_id=0), Wanted(frame_id=1)))

    assert names(send(rig.spool)) == [(0, 1), (1, 0), (1, 1)]
    assert [reason for *_, reason in rig.drops.told] == ["damaged"]
    rotten = (Wanted(frame_id=0, spans=((0, 1),)),)
    report(rig.spool, 2, wanted=rotten)
    assert names(send(rig.spool)) == [(0, 1)]
    assert rig.spool.beacon(0).gone == ()
    report(rig.spool, 3, wanted=rotten)
    assert send(rig.spool) == []
    assert rig.spool.beacon(0).gone == ((BOOT, 0, 1),)
    assert rig.spool.kept_frames == 1


def test_what_cannot_be_read_now_is_repeated_later(tmp_path: Path) -> None:
    """It is asked for still."""
    disk = FailingDisk()
    rig, frames = Rig(tmp_path, disk), Frames()
    for _ in range(8):
        rig.spool.append(frames.packets(), PATCH)
    send(rig.spool)
    report(rig.spool, 1, wanted=(Wanted(frame_id=0),))
    disk.fails, disk.error = {"read"}, errno.EIO
    assert rig.spool.take(0.0) is None
    assert rig.spool.beacon(0).answered == 0
    disk.fails = set()
    rig.clock.advance(10.0)
    assert names(send(rig.spool)) == [(0, 0)]
    assert rig.spool.beacon(0).answered == 1


def test_what_a_failing_disk_left_in_memory_is_kept_there(tmp_path: Path) -> None:
    """Until it is acknowledged, repeated from there, or there is no more room for it."""
    disk = FailingDisk()
    rig, frames = Rig(tmp_path, disk, max_memory_bytes=4 * PACKET_BYTES), Frames()
    rig.spool.append(frames.packets(), PATCH)
    send(rig.spool)
    disk.fails = {"write"}
    for _ in range(4):
        rig.spool.append(frames.packets(), PATCH)
    send(rig.spool)
    report(rig.spool, 1, wanted=(Wanted(frame_id=0), Wanted(frame_id=2)))
    assert names(send(rig.spool)) == [(0, 0), (2, 0)]
    rig.spool.append(frames.packets(count=2), PATCH)
    assert [reason for *_, reason in rig.drops.told] == ["unacknowledged"] * 2
    assert rig.spool.kept_frames == 3
    report(rig.spool, 2, 5)
    send(rig.spool)
    report(rig.spool, 3, 6)
    assert (rig.spool.used_bytes, rig.spool.kept_frames) == (0, 0)
    assert rig.spool.end("shutdown") == (0, 0)


def test_the_end_tells_what_was_sent_from_what_waits(tmp_path: Path) -> None:
    """What memory kept of what was sent is given up, and is none of what the disk keeps."""
    disk = FailingDisk()
    rig, frames = Rig(tmp_path, disk), Frames()
    disk.fails = {"write"}
    for _ in range(3):
        rig.spool.append(frames.packets(), PATCH)
    send(rig.spool)
    disk.fails = set()
    rig.clock.advance(10.0)
    rig.spool.tick()
    for _ in range(2):
        rig.spool.append(frames.packets(), PATCH)

    ended = rig.spool.end("shutdown")
    assert (ended.given_up, ended.kept) == (3, 2)


@pytest.mark.parametrize("fails", [False, True])
def test_tiles_go_whole_after_a_disk_has_healed(tmp_path: Path, fails: bool) -> None:
    """What memory keeps of what was sent is no older than what was written of it meanwhile."""
    disk = FailingDisk()
    rig, frames = Rig(tmp_path, disk, max_bytes=50 * PACKET_BYTES), Frames()

    def tiles(count: int) -> None:
        for _ in range(count):
            rig.spool.append(frames.packets(SIDE), SIDE)
            rig.spool.append(frames.packets(PATCH, 4), PATCH)

    disk.fails = {"write"} if fails else set()
    tiles(10)
    assert len(send(rig.spool, 12)) == 12  # side information runs ahead
    disk.fails = set()
    rig.clock.advance(10.0)
    rig.spool.tick()
    assert rig.spool.degraded is None
    tiles(3)

    assert [lane for _, lane, _ in rig.drops.told] == 3 * [SIDE, *4 * [PATCH]]


def test_a_disk_found_late_holds_older_boots(tmp_path: Path) -> None:
    """Their frames were not all sent, and those of this boot wait behind them."""
    old = Frames(boot_id=3)
    first = Rig(tmp_path / "disk").spool
    first.append(old.packets(), PATCH)
    first.append(old.packets(), PATCH)
    send(first, 1)
    (tmp_path / "spool").touch()  # where the disk is mounted, later
    rig, frames = Rig(tmp_path / "spool"), Frames()
    rig.spool.append(frames.packets(), PATCH)
    (tmp_path / "spool").unlink()
    (tmp_path / "disk").rename(tmp_path / "spool")
    rig.clock.advance(10.0)
    rig.spool.tick()

    states = {b.boot_id: (b.kept_from, b.sent_below) for b in rig.spool.beacon(0).boots}
    assert states == {3: (0, 1), BOOT: (0, 0)}
    assert names(send(rig.spool)) == [(1, 0), (0, 0)]
    states = {b.boot_id: (b.kept_from, b.sent_below) for b in rig.spool.beacon(0).boots}
    assert states == {3: (0, 2), BOOT: (0, 1)}


def test_what_may_yet_be_found_is_not_gone(tmp_path: Path) -> None:
    """Frames of earlier boots, asked for while the disk is away, or one file of it unreadable."""
    old, first = Frames(boot_id=3), Rig(tmp_path / "disk").spool
    for _ in range(4):
        first.append(old.packets(count=2), PATCH)
    send(first)
    (tmp_path / "spool").touch()
    rig = Rig(tmp_path / "spool")
    rig.spool.append(Frames().packets(), PATCH)
    report(rig.spool, 1, wanted=(Wanted(frame_id=1),), boot_id=3)
    assert rig.spool.beacon(0).gone == ()

    disk = FailingDisk()
    disk.fails, disk.error = {"size"}, errno.EIO
    blind = Rig(tmp_path / "disk", disk).spool
    assert blind.kept_frames == 0
    report(blind, 1, wanted=(Wanted(frame_id=1),), boot_id=3)
    assert blind.beacon(0).gone == ()


def test_what_is_acknowledged_takes_no_room_after_a_restart(tmp_path: Path) -> None:
    """In files that hold other frames, too: nothing is evicted for the sake of it."""
    rig, frames = Rig(tmp_path), Frames()
    for _ in range(12):
        rig.spool.append(frames.packets(), PATCH)
    send(rig.spool, 10)
    report(rig.spool, 1, 2, done=((3, 5), (6, 11)))
    rig.clock.advance(1.0)
    rig.spool.tick()
    used = rig.spool.used_bytes
    again = Rig(tmp_path)

    assert (again.spool.kept_frames, again.spool.packets) == (2, 2)
    assert again.spool.used_bytes == used
    assert names(send(again.spool)) == [(11, 0)]  # frame 10 is on the ground
    path = tmp_path / "acknowledged"
    path.write_bytes(path.read_bytes()[:-1])
    assert Rig(tmp_path).spool.kept_frames > 2


def test_files_are_bounded_however_little_is_left_in_them(tmp_path: Path) -> None:
    """One frame in each file is never acknowledged: the oldest of these are given up, counted."""
    rig, frames = Rig(tmp_path, max_bytes=20 * PACKET_BYTES), Frames()
    for number in range(300):
        rig.spool.append(frames.packets(), PATCH)
        send(rig.spool)
        done = tuple((i, i + 1) for i in range(number) if i % 3)
        report(rig.spool, number + 1, done=done)
        rig.clock.advance(1.0)
        rig.spool.tick()
    total = sum(path.stat().st_size for path in tmp_path.glob("*/*.log"))
    limits = limits_of()
    assert total <= 3 * 20 * PACKET_BYTES + 8 * limits.segment_bytes
    assert {reason for *_, reason in rig.drops.told} == {"unacknowledged"}
