"""What is half received is there again for a ground that begins anew, whatever happens to files."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.disk import Disk, LocalDisk
from daemon.ground import half_received
from daemon.ground.collect import CollectWorker
from daemon.ground.half_received import HalfReceived
from daemon.ground.items import CollectedFrame
from daemon.ground.metrics import GroundMetrics
from daemon.link.fec import RepairPolicy
from daemon.link.packet import Channel, FrameKey, Packet
from daemon.link.reassembly import Reassembler
from daemon.link.segment import Segmenter
from daemon.metrics import new_registry
from daemon.records import OVERHEAD_BYTES
from fakes.clock import STUCK_S, FakeClock
from fakes.disk import FailingDisk

BOOT = 9
MAX_AGE_S = 10.0
RETRY_S = 10.0
KEPT_S = 2.0
"""What came so long ago is on the disk."""


def packets(*frames: bytes, repairs: int = 0) -> list[list[Packet]]:
    """The packets of each frame."""
    segmenter = Segmenter(
        boot_id=BOOT, apid=1, mtu_bytes=128,
        repair={Channel.PATCH: RepairPolicy(minimum=repairs)},
    )  # fmt: skip
    return [
        [Packet.unpack(raw) for raw in segmenter.packets(frame, Channel.PATCH, 0.0)]
        for frame in frames
    ]


FRAMES = [random.Random(i).randbytes(200 + 130 * i) for i in range(6)]
SENT = packets(*FRAMES, repairs=2)
HALF = [items[: len(items) // 2 - 1] for items in SENT]
REST = [items[len(items) // 2 - 1 :] for items in SENT]


class Ground:
    """One process as far as this goes; a new one finds what this one left.

    Attributes:
        got: Every frame that was put together.
        archived: Frames that are there for good, handed from process to process.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk | None = None,
        *,
        archived: set[FrameKey] | None = None,
        max_bytes: int = 1 << 20,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.disk, self.clock = disk or FailingDisk(), FakeClock()
        self.metrics = GroundMetrics(new_registry())
        self.archived = set[FrameKey]() if archived is None else archived
        self.got = dict[FrameKey, bytes]()
        self._coming = list[FrameKey]()
        self.reassembler = Reassembler(max_frames=512, max_bytes=max_bytes, max_age_s=max_age_s)
        self.collector = CollectWorker(self.reassembler, self.clock, self.metrics)
        self.half = self.collector.half_received = HalfReceived(
            folder, self.clock, self.disk, retry_s=RETRY_S, metrics=self.metrics,
            is_whole=lambda *key: key in self.archived,
        )  # fmt: skip

    def take(self, *items: Packet) -> None:
        """Packets come from the link."""
        for item in items:
            self._collect(self.collector.accept(item))

    def run(self, seconds: float, *, archives: bool = True) -> None:
        """Time passes; frames become durable, or not."""
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            self._collect(self.collector.tick())
            if archives:
                self._archive()
            self.half.write()

    def stop(self) -> None:
        """As asked to."""
        self._collect(self.collector.finish())
        self._archive()
        self.half.write(last=True)
        self.half.close()

    def kill(self) -> None:
        """As by the kernel: files are closed, and no more."""
        assert isinstance(self.disk, FailingDisk)
        for file in tuple(self.disk.open_files):
            self.disk.close(file)

    def total(self, name: str) -> float:
        """A metric."""
        return self.metrics.totals()[f"prismlink_{name}"]

    def _collect(self, frames: Iterable[CollectedFrame]) -> None:
        for frame in frames:
            assert frame.key not in self.got
            self.got[frame.key] = frame.raw
            self._coming.append(frame.key)

    def _archive(self) -> None:
        self.archived |= set(self._coming)
        self.half.durable(self._coming)
        self._coming = []


def all_of(*lists: list[Packet]) -> list[Packet]:
    """Their packets, one list after another."""
    return [item for items in lists for item in items]


def files(folder: Path) -> list[Path]:
    """The files of records."""
    return sorted(folder.glob("*.log"))


def held(ground: Ground) -> dict[FrameKey, dict[int, bytes]]:
    """What is there of incomplete frames."""
    return {
        (first.boot_id, first.frame_id): {
            packet.segment_index: packet.data
            for packet in ground.reassembler.packets((first.boot_id, first.frame_id))
        }
        for first, _ in ground.reassembler.incomplete(ground.clock.monotonic_s())
    }


def of(items: Iterable[Packet]) -> dict[FrameKey, dict[int, bytes]]:
    """The same of packets."""
    found: dict[FrameKey, dict[int, bytes]] = {}
    for item in items:
        found.setdefault((item.boot_id, item.frame_id), {})[item.segment_index] = item.data
    return found


def test_the_bytes_of_a_record(tmp_path: Path) -> None:
    """Frozen: another build must find what this one left."""
    ground = Ground(tmp_path)
    first, second = SENT[0][1], SENT[0][0]
    ground.take(first, second)
    ground.stop()
    (path,) = files(tmp_path)
    raw = first.pack() + replace(second, counter=first.counter).pack()

    assert path.name == "00000000000000000000.log"
    assert half_received._MAX_PAYLOAD_BYTES == 1_114_118
    assert path.read_bytes()[:-4] == b"\xb1PLS" + len(raw).to_bytes(4) + bytes(8) + raw


def test_what_came_is_there_again(tmp_path: Path) -> None:
    """All of it after an ordinary end, to the last packet; the rest makes every frame whole."""
    before = Ground(tmp_path)
    before.take(*all_of(*HALF[:3]))
    before.run(5.0)
    before.take(*all_of(*HALF[3:]), REST[0][0])
    before.stop()
    ground = Ground(tmp_path, archived=before.archived)
    ground.run(0.1)

    assert held(ground) == of(all_of(*HALF, REST[0][:1]))
    assert ground.total("half_received_recovered_packets") == len(all_of(*HALF)) + 1
    assert before.total('frames_incomplete_total{channel="patch"}') == 0
    ground.take(*all_of(*REST))
    assert list(ground.got.values()) == FRAMES
    assert ground.total("packets_refused_total" + '{reason="packet_field"}') == 0


def test_a_ground_that_ends_at_once_forgets_nothing(tmp_path: Path) -> None:
    """Neither what it found and had no time for, nor what came."""
    before = Ground(tmp_path)
    before.take(*HALF[0])
    before.stop()
    ground = Ground(tmp_path)
    ground.half.offer(ground.reassembler, last=True)
    ground.half.write(last=True)
    ground.kill()
    ground = Ground(tmp_path)
    ground.take(*HALF[1])
    ground.stop()
    again = Ground(tmp_path)
    again.run(0.1)

    assert held(again) == of(all_of(*HALF[:2]))


def test_after_a_kill_what_came_two_seconds_before_is_there(tmp_path: Path) -> None:
    """What came later is not; and a restart of a restart changes nothing."""
    before = Ground(tmp_path)
    before.take(*all_of(*HALF[:3]))
    before.run(KEPT_S)
    before.take(*HALF[3])
    before.kill()
    for _ in range(3):
        ground = Ground(tmp_path)
        ground.run(KEPT_S)
        assert held(ground) == of(all_of(*HALF[:3]))
        assert len(files(tmp_path)) == 1
        ground.kill()


def test_power_takes_nothing_that_was_kept(tmp_path: Path) -> None:
    """All that is written is synced, once a second at most."""
    disk = FailingDisk()
    before = Ground(tmp_path, disk)
    for items in HALF:
        before.take(*items)
        before.run(0.1)
    before.run(KEPT_S)
    assert disk.synced <= 2
    disk.lose_power()
    ground = Ground(tmp_path)
    ground.run(0.1)

    assert held(ground) == of(all_of(*HALF))


def test_frames_that_are_soon_whole_cost_nothing(tmp_path: Path) -> None:
    """Neither a file, nor a sync."""
    disk = FailingDisk()
    ground = Ground(tmp_path, disk)
    for half, rest in zip(HALF, REST, strict=True):
        ground.take(*half)
        ground.run(0.9)
        ground.take(*rest)
    ground.run(3.0)
    ground.stop()

    assert len(ground.got) == len(FRAMES)
    assert (files(tmp_path), disk.synced) == ([], 0)


def test_packets_are_kept_until_their_frame_is(tmp_path: Path) -> None:
    """A ground that is killed between the two has neither less than before, nor a frame twice."""
    ground = Ground(tmp_path)
    ground.take(*HALF[0])
    ground.run(KEPT_S)
    ground.take(*REST[0])
    ground.run(KEPT_S, archives=False)
    ground.kill()
    again = Ground(tmp_path)
    again.run(KEPT_S)
    assert held(again) == of(HALF[0])
    again.take(*REST[0])
    again.run(KEPT_S)
    assert files(tmp_path) == []
    again.kill()
    assert held(Ground(tmp_path, archived=again.archived)) == {}


def test_of_archived_frames_nothing_is_taken_back(tmp_path: Path) -> None:
    """They would wait for packets that nobody sends."""
    before = Ground(tmp_path)
    before.take(*all_of(*HALF[:2]))
    before.run(KEPT_S)
    before.kill()
    ground = Ground(tmp_path, archived={(BOOT, 0)})
    ground.run(0.1)

    assert held(ground) == of(HALF[1])
    assert ground.total("half_received_recovered_packets") == len(HALF[1])


def test_a_frame_that_is_durable_before_its_packets_are_written_needs_none(tmp_path: Path) -> None:
    """They were on their way to the disk when the rest came."""
    ground = Ground(tmp_path)
    ground.take(*HALF[0])
    ground.clock.advance(1.1)
    ground.collector.tick()
    ground.take(*REST[0])
    ground.run(0.1)

    assert files(tmp_path) == []
    assert ground.total("half_received_frames") == 0


def test_a_frame_that_could_not_be_archived_is_begun_anew(tmp_path: Path) -> None:
    """Of its packets nothing is kept then: all of them are sent again."""
    ground = Ground(tmp_path)
    ground.take(*HALF[0])
    ground.run(KEPT_S)
    ground.take(*REST[0])
    ground.collector.forget([(BOOT, 0)])
    ground.run(KEPT_S, archives=False)

    assert files(tmp_path) == []


def test_a_frame_that_was_archived_and_lost_is_kept_as_another(tmp_path: Path) -> None:
    """That it was there for good says nothing of the packets that come now."""
    ground = Ground(tmp_path)
    ground.take(*HALF[0], *REST[0])
    ground.run(KEPT_S)
    ground.got.clear()
    ground.collector.forget([(BOOT, 0)])
    ground.take(*HALF[0])
    ground.run(KEPT_S)
    ground.kill()
    again = Ground(tmp_path)
    again.run(0.1)

    assert held(again) == of(HALF[0])


def test_age_counts_from_the_start(tmp_path: Path) -> None:
    """Nothing could come while there was no ground; given up, a frame is no longer on the disk."""
    before = Ground(tmp_path)
    before.take(*HALF[0])
    before.run(MAX_AGE_S - 1)
    before.stop()
    ground = Ground(tmp_path)
    ground.run(MAX_AGE_S - 1)
    assert held(ground) == of(HALF[0])
    ground.run(KEPT_S)

    assert ground.total('frames_incomplete_total{channel="patch"}') == 1
    assert held(ground) == {}
    assert files(tmp_path) == []
    assert ground.total("half_received_frames") == ground.total("half_received_bytes") == 0


def test_the_board_is_asked_only_for_what_is_lacking(tmp_path: Path) -> None:
    """What survived is not named in a report."""
    before = Ground(tmp_path)
    items = SENT[3][:-2]
    before.take(*items[1:-2], SENT[3][-1])
    before.stop()
    ground = Ground(tmp_path)
    ground.run(0.1)
    assert before.reassembler.lacks((BOOT, 3)) == ground.reassembler.lacks((BOOT, 3))
    assert ground.reassembler.lacks((BOOT, 3)) == [0, len(items) - 2]


def test_a_frame_begun_anew_between_two_looks_is_kept_whole(tmp_path: Path) -> None:
    """So many packets are on the disk, but they are others than came first this time."""
    ground = Ground(tmp_path)
    ground.take(*HALF[5][:3])
    ground.run(KEPT_S)
    ground.reassembler.give_up(BOOT, 0, 99)
    ground.take(*REST[5][:4])
    ground.run(KEPT_S)
    ground.kill()
    again = Ground(tmp_path)
    again.run(0.1)

    assert held(again) == of(HALF[5][:3] + REST[5][:4])


# ---- bounds -------------------------------------------------------------------------------------


def test_files_take_twice_what_is_needed_and_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many frames wait among others that come and go, and they are kept all the while."""
    monkeypatch.setattr(half_received, "_SEGMENT_BYTES", 2000)
    ground, most = Ground(tmp_path, max_age_s=1e9), 0
    waiting = [replace(HALF[5][0], frame_id=number) for number in range(40)]
    for item in waiting:
        passing = [replace(each, frame_id=1000 + item.frame_id) for each in SENT[5]]
        ground.take(item, *passing[:5])
        ground.run(KEPT_S)
        ground.take(*passing[5:])
        ground.run(KEPT_S)
        used = sum(path.stat().st_size for path in files(tmp_path))
        assert ground.total("half_received_bytes") == used
        most = max(most, used)
    needed = len(waiting) * (OVERHEAD_BYTES + len(waiting[0].pack()))
    assert needed < most <= 2 * needed + 2 * 2000
    ground.kill()
    again = Ground(tmp_path, archived=ground.archived)
    again.run(0.1)

    assert held(again) == of(waiting)


def test_a_long_frame_is_several_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is longer than a reader takes."""
    monkeypatch.setattr(half_received, "_RECORD_BYTES", 300)
    before = Ground(tmp_path)
    before.take(*HALF[5])
    before.stop()
    ground = Ground(tmp_path)
    ground.run(0.1)

    assert before.half._files.recovery.records == 0
    assert ground.half._files.recovery.records == len(HALF[5]) // 3 + bool(len(HALF[5]) % 3)
    assert held(ground) == of(HALF[5])


def test_what_no_longer_fits_is_refused(tmp_path: Path) -> None:
    """Settings have become smaller: what does not fit is counted, the rest is taken."""
    before = Ground(tmp_path)
    before.take(*HALF[5], *HALF[0])
    before.stop()
    ground = Ground(tmp_path, max_bytes=800)
    ground.run(0.1)

    assert held(ground) == of(HALF[0])
    refused = ground.metrics.totals()['prismlink_packets_refused_total{reason="reassembly"}']
    assert refused == len(HALF[5])


# ---- trouble of the disk ------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["create", "write", "sync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_costs_no_frame(tmp_path: Path, call: str, error: int) -> None:
    """It is told; when the disk works again all is kept, and nothing of the trouble is left."""
    disk = FailingDisk()
    ground = Ground(tmp_path, disk, max_age_s=1e9)
    disk.fails, disk.error = {call}, error
    ground.take(*all_of(*HALF[:3]))
    ground.run(KEPT_S)
    assert ground.half.degraded == errno.errorcode[error]
    assert ground.total("half_received_degraded") == 1
    ground.take(*REST[0])
    assert ground.got == {(BOOT, 0): FRAMES[0]}
    disk.fails = set()
    ground.run(RETRY_S + 1)
    assert ground.half.degraded is None
    assert ground.total("half_received_degraded") == 0
    ground.kill()
    again = Ground(tmp_path, archived=ground.archived)
    again.run(0.1)

    assert held(again) == of(all_of(*HALF[1:3]))
    assert again.total("half_received_skipped_bytes") == 0


def test_nothing_is_prepared_for_a_disk_that_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waits, every second, would take the time of what comes."""
    disk, asked = FailingDisk(), list[FrameKey]()
    ground = Ground(tmp_path, disk, max_age_s=1e9)
    packets_of = ground.reassembler.packets

    def counted(key: FrameKey, start: int = 0) -> list[Packet]:
        asked.append(key)
        return packets_of(key, start)

    monkeypatch.setattr(ground.reassembler, "packets", counted)
    disk.fails = {"write"}
    ground.take(*HALF[0])
    ground.run(RETRY_S)
    assert asked == [(BOOT, 0)]
    ground.run(RETRY_S)
    assert asked == [(BOOT, 0)] * 2


def test_what_cannot_be_kept_at_the_end_is_given_up(tmp_path: Path) -> None:
    """Counted as what stays incomplete, and tried once, however lately the disk failed."""
    disk = FailingDisk()
    ground = Ground(tmp_path, disk)
    ground.take(*all_of(*HALF[:2]))
    disk.fails = {"write"}
    ground.run(KEPT_S)
    ground.stop()
    assert ground.total('frames_incomplete_total{channel="patch"}') == 2
    other = Ground(tmp_path, disk)
    other.take(*all_of(*HALF[:2]))
    other.run(KEPT_S)
    disk.fails = set()
    other.stop()

    assert other.total('frames_incomplete_total{channel="patch"}') == 0


def test_a_folder_is_of_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second one says so and goes on without; when the first has ended it has what that left."""
    first, second = Ground(tmp_path, LocalDisk()), Ground(tmp_path, LocalDisk())
    (told,) = [vars(line) for line in caplog.records if line.message.endswith("not kept")]
    assert str(tmp_path) in told["folder"]
    assert "another process uses it; remedy: end that process" in told["error"]
    assert second.half.degraded in {"EAGAIN", "EWOULDBLOCK"}
    first.take(*HALF[0])
    second.take(*HALF[1])
    first.stop()
    second.run(RETRY_S - 1)
    assert held(second) == of(HALF[1])
    second.take(*HALF[1])
    second.run(2.0)
    assert held(second) == of(all_of(*HALF[:2]))
    second.stop()
    third = Ground(tmp_path, LocalDisk())
    third.run(0.1)

    assert held(third) == of(all_of(*HALF[:2]))
    third.stop()


class HangingDisk(FailingDisk):
    """A disk whose syncs take until somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def sync(self, file: int) -> None:
        """See `Disk`."""
        self.hangs.set()
        assert self.goes_on.wait(STUCK_S)
        super().sync(file)


def test_who_takes_packets_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """Frames are put together while it hangs; what came meanwhile is kept when it goes on."""
    disk = HangingDisk()
    ground = Ground(tmp_path, disk)
    ground.take(*HALF[0])
    ground.clock.advance(1.1)
    ground.collector.tick()
    writer = threading.Thread(target=ground.half.write)
    writer.start()
    assert disk.hangs.wait(STUCK_S)
    ground.take(*HALF[1], *SENT[2])
    for _ in range(5):
        ground.clock.advance(1.0)
        ground.collector.tick()
    assert ground.got == {(BOOT, 2): FRAMES[2]}
    assert len(files(tmp_path)) == 1
    disk.goes_on.set()
    writer.join()
    ground.run(KEPT_S)
    once = sum(len(item.pack()) for item in all_of(*HALF[:2])) + 2 * OVERHEAD_BYTES
    assert ground.total("half_received_bytes") == once
    ground.kill()
    again = Ground(tmp_path)
    again.run(0.1)

    assert held(again) == of(all_of(*HALF[:2]))


def test_a_file_that_cannot_be_read_is_told_and_left(tmp_path: Path) -> None:
    """It may be readable at the next start."""
    before = Ground(tmp_path)
    before.take(*HALF[0])
    before.stop()
    disk = FailingDisk()
    disk.fails, disk.error = {"size"}, errno.EIO
    ground = Ground(tmp_path, disk)
    ground.run(0.1)
    assert held(ground) == {}
    assert ground.total("half_received_unreadable_files") == 1
    ground.stop()
    again = Ground(tmp_path)
    again.run(0.1)

    assert held(again) == of(HALF[0])


def three_records(folder: Path) -> bytes:
    """A file with a record of each of three frames."""
    before = Ground(folder)
    before.take(*all_of(*HALF[:3]))
    before.stop()
    (path,) = files(folder)
    return path.read_bytes()


def check_damaged(folder: Path, data: bytes) -> set[FrameKey]:
    """What is found in a file is as it was sent; return of which frames."""
    (folder / f"{0:020}.log").write_bytes(data)
    ground = Ground(folder)
    assert ground.half.degraded is None
    ground.run(0.1)
    found, truth = held(ground), of(all_of(*HALF[:3]))
    assert all(found[key] == truth[key] for key in found)
    ground.kill()
    return set(found)


def test_a_file_cut_at_any_byte_gives_every_whole_record(tmp_path: Path) -> None:
    """Nothing more, nothing less, at each of the lengths a crash can leave."""
    data, folder = three_records(tmp_path / "whole"), tmp_path / "cut"
    folder.mkdir()
    ends = [
        sum(OVERHEAD_BYTES + sum(len(item.pack()) for item in items) for items in HALF[: n + 1])
        for n in range(3)
    ]
    assert ends[-1] == len(data)
    for length in range(len(data) + 1):
        expected = {(BOOT, n) for n, end in enumerate(ends) if end <= length}
        assert check_damaged(folder, data[:length]) == expected


def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    """What of a frame came within a second: it is told, and everything else is found."""
    rng, folder = random.Random(0), tmp_path / "hit"
    data = three_records(tmp_path / "whole")
    folder.mkdir()
    for _ in range(1000):
        bit = rng.randrange(8 * len(data))
        hit = bytearray(data)
        hit[bit // 8] ^= 1 << bit % 8
        assert len(check_damaged(folder, bytes(hit))) == 2


def test_sound_records_that_are_no_packets_are_skipped(tmp_path: Path) -> None:
    """As of an archive, or of a later build."""
    disk = FailingDisk()
    before = Ground(tmp_path, disk)
    before.half._files.append(b"\x00" * 50)
    before.half._files.append(SENT[0][0].pack()[:-1])
    before.take(*HALF[1])
    before.stop()
    ground = Ground(tmp_path)
    ground.run(0.1)

    assert held(ground) == of(HALF[1])
    assert ground.total("half_received_skipped_bytes") == 50 + len(SENT[0][0].pack()) - 1


@given(data=st.data())
def test_restarts_at_any_moment_change_no_frame(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Packets in any order, the ground ended or killed between any two: every frame is whole.

    An ordinary end forgets nothing; a kill no more than came within two seconds.
    """
    folder = tmp_path_factory.mktemp("half")
    order = data.draw(st.permutations([item for items in SENT for item in items[:-2]]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order) - 1), max_size=4)))
    archived, got, came = set[FrameKey](), dict[FrameKey, bytes](), list[Packet]()
    for start, stop in zip([0, *cuts], [*cuts, len(order)], strict=True):
        ground = Ground(folder, archived=archived, max_age_s=1e9)
        for item in order[start:stop]:
            ground.take(item)
            ground.run(data.draw(st.sampled_from([0.0, 0.1, 1.0])))
        came += order[start:stop]
        if data.draw(st.booleans()):
            ground.run(0.1)
            ground.stop()
        else:
            ground.run(KEPT_S)
            ground.kill()
        got |= ground.got
        waiting = {key: symbols for key, symbols in of(came).items() if key not in archived}
        after = Ground(folder, archived=archived, max_age_s=1e9)
        after.run(0.1)
        assert held(after) == waiting
        after.kill()

    assert got == dict.fromkeys(got, b"") | {(BOOT, n): raw for n, raw in enumerate(FRAMES)}
