"""Rules of the log: what was synced is found again, whatever else happens to its files."""

from __future__ import annotations

import errno
import random
from bisect import bisect_right
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.disk import LocalDisk
from daemon.errors import DamagedRecordError
from daemon.onboard.segment_log import SegmentLog
from daemon.records import CURSOR_BYTES, MAGIC, OVERHEAD_BYTES
from fakes.disk import FailingDisk

SEGMENT_BYTES = 200


def opened(
    folder: Path, disk: LocalDisk | None = None, segment_bytes: int = SEGMENT_BYTES
) -> SegmentLog:
    """Open a log."""
    return SegmentLog(folder, disk or FailingDisk(), segment_bytes=segment_bytes, now_s=0.0)


def put(log: SegmentLog, *packets: bytes) -> None:
    """Append, one by one, and sync."""
    for packet in packets:
        log.append([packet], 0.0)
    log.sync_files()
    log.note_synced()


def taken(log: SegmentLog, most: int = 1 << 30) -> list[bytes]:
    """Read and finish."""
    found = []
    while log.readable and len(found) < most:
        found.append(log.oldest())
        log.finish_oldest()
    return found


def segments(folder: Path) -> list[Path]:
    """The files of records."""
    return sorted(folder.glob("*.log"))


def test_the_bytes_of_a_record(tmp_path: Path) -> None:
    """Frozen: another build must find what this one left."""
    put(opened(tmp_path), b"packet", b"")
    (path,) = segments(tmp_path)

    assert path.name == "00000000000000000000.log"
    assert path.read_bytes().hex() == (
        "b1504c53" "00000006" "0000000000000000" "7061636b6574" "bf4e35f4"
        "b1504c53" "00000000" "0000000000000001" "d75cf74f"
    )  # fmt: skip


def test_packets_come_back_in_order_from_several_segments(tmp_path: Path) -> None:
    """A segment is full at its size; what is read and finished leaves no file behind."""
    log, packets = opened(tmp_path), [bytes([i]) * 50 for i in range(12)]
    put(log, *packets)
    assert len(segments(tmp_path)) > 3

    assert taken(log) == packets
    assert (log.packets, log.used_bytes) == (0, 0)
    assert len(segments(tmp_path)) <= 1


def test_what_waits_is_found_again(tmp_path: Path) -> None:
    """And what was finished is not: nothing is sent twice."""
    log, packets = opened(tmp_path), [bytes([i]) * 50 for i in range(12)]
    put(log, *packets)
    assert taken(log, 5) == packets[:5]
    again = opened(tmp_path)

    assert again.recovery.records == again.packets == 7
    assert again.recovery.skipped_bytes == 0
    put(again, b"new")
    assert taken(again) == [*packets[5:], b"new"]


def test_sequences_go_on_where_nothing_is_left(tmp_path: Path) -> None:
    """The cursor alone says how far they were: one that began anew would be taken for done."""
    log = opened(tmp_path)
    put(log, b"a", b"b")
    taken(log)
    again = opened(tmp_path)
    put(again, b"c")

    assert taken(opened(tmp_path)) == [b"c"]


def test_nothing_can_be_read_before_it_is_synced(tmp_path: Path) -> None:
    """What might be lost with power must not have left."""
    log = opened(tmp_path)
    log.append([b"a", b"b"], 0.0)
    assert (log.packets, log.readable, log.unsynced) == (2, 0, 2)
    log.sync_files()
    log.note_synced()
    assert (log.readable, log.unsynced) == (2, 0)


def test_a_log_cut_at_any_byte_gives_every_whole_record(tmp_path: Path) -> None:
    """Nothing more, nothing less, at each of the lengths a crash can leave."""
    packets = [bytes([i]) * i for i in range(5)]
    put(opened(tmp_path / "whole", segment_bytes=1 << 20), *packets)
    (path,) = segments(tmp_path / "whole")
    data = path.read_bytes()
    ends, end = [], 0
    for packet in packets:
        end += OVERHEAD_BYTES + len(packet)
        ends.append(end)
    for length in range(len(data) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / path.name).write_bytes(data[:length])
        log = opened(folder)
        whole = sum(end <= length for end in ends)
        assert log.recovery.skipped_bytes == length - ([0, *ends][whole])
        assert taken(log) == packets[:whole]
        log.close()


def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    """Every other one is found, and the damage is told."""
    rng = random.Random(0)
    packets = [rng.randbytes(40) for _ in range(6)]
    put(opened(tmp_path / "whole", segment_bytes=1 << 20), *packets)
    (path,) = segments(tmp_path / "whole")
    data = path.read_bytes()
    folder = tmp_path / "hit"
    folder.mkdir()
    for bit in range(0, 8 * len(data), 3):
        hit = bytearray(data)
        hit[bit // 8] ^= 1 << bit % 8
        (folder / path.name).write_bytes(bytes(hit))
        (folder / "cursor").unlink(missing_ok=True)
        log = opened(folder)
        lost = bit // 8 // (OVERHEAD_BYTES + 40)
        assert log.recovery.skipped_places == 1
        assert log.recovery.skipped_bytes == OVERHEAD_BYTES + 40
        assert taken(log) == packets[:lost] + packets[lost + 1 :]
        log.close()


def test_ten_thousand_flipped_bits(tmp_path: Path) -> None:
    """Four at a time: every untouched record is found, and none that was touched."""
    rng = random.Random(1)
    packets = [rng.randbytes(rng.randrange(80)) for _ in range(20)]
    put(opened(tmp_path / "whole", segment_bytes=1 << 20), *packets)
    (path,) = segments(tmp_path / "whole")
    data, ends = path.read_bytes(), [0]
    for packet in packets:
        ends.append(ends[-1] + OVERHEAD_BYTES + len(packet))
    folder = tmp_path / "hit"
    folder.mkdir()
    for _ in range(2_500):
        hit, touched = bytearray(data), set[int]()
        for bit in rng.sample(range(8 * len(data)), 4):
            hit[bit // 8] ^= 1 << bit % 8
            touched.add(bisect_right(ends, bit // 8) - 1)
        (folder / path.name).write_bytes(bytes(hit))
        log = opened(folder)
        left = [packet for i, packet in enumerate(packets) if i not in touched]
        assert log.recovery.skipped_bytes == sum(ends[i + 1] - ends[i] for i in touched)
        assert log.recovery.records == len(left)
        found = [log.oldest()]
        assert found == left[:1]
        log.close()


@given(st.binary(max_size=300), st.lists(st.binary(max_size=30), max_size=4))
def test_garbage_between_records_is_skipped(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, packets: list[bytes]
) -> None:
    """Any bytes before, behind and between records: what is sound is found."""
    folder = tmp_path_factory.mktemp("log")
    put(opened(folder / "whole", segment_bytes=1 << 20), *packets)
    records = b"".join(path.read_bytes() for path in segments(folder / "whole"))
    folder = folder / "hit"
    folder.mkdir()
    (folder / "00000000000000000000.log").write_bytes(garbage + records + MAGIC + garbage)

    assert taken(opened(folder)) == packets


def test_a_record_within_a_packet_is_not_taken_for_one(tmp_path: Path) -> None:
    """A packet may hold anything, a whole record with it."""
    put(opened(tmp_path / "inner"), b"inner")
    (inner,) = segments(tmp_path / "inner")
    packet = b"<" + inner.read_bytes() + b">"
    put(opened(tmp_path / "outer"), packet, packet)

    assert taken(opened(tmp_path / "outer")) == [packet, packet]


def test_a_record_that_rots_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Not sent as what it is not."""
    log = opened(tmp_path)
    put(log, b"rotten", b"sound")
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[OVERHEAD_BYTES] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(DamagedRecordError, match="byte 0 is damaged"):
        log.oldest()
    log.finish_oldest()
    assert taken(log) == [b"sound"]


@pytest.mark.parametrize("more", [set[str](), {"cut"}])
def test_a_write_that_fails_keeps_nothing_and_spoils_nothing(
    tmp_path: Path, more: set[str]
) -> None:
    """Half a record may stay on the disk; what comes next goes into another file."""
    disk = FailingDisk()
    log = opened(tmp_path, disk)
    put(log, b"before")
    disk.fails = {"write"} | more
    with pytest.raises(OSError, match="No space"):
        log.append([b"x" * 30], 0.0)
    disk.fails = set()
    put(log, b"after")

    again = opened(tmp_path)
    assert again.recovery.skipped_places == len(more)
    assert taken(again) == [b"before", b"after"]


def test_what_a_failed_sync_leaves_open_is_given_back(tmp_path: Path) -> None:
    """It is no longer the log's: nobody knows what of it is on the disk."""
    disk = FailingDisk()
    disk.error = errno.EIO
    log = opened(tmp_path, disk, segment_bytes=60)
    put(log, b"durable" * 5)
    log.append([b"1" * 30, b"2"], 0.0)
    log.append([b"3"], 0.0)
    disk.fails = {"sync"}
    with pytest.raises(OSError, match="Input/output"):
        log.sync_files()

    assert log.abandon() == [(b"1" * 30, 0.0, 1), (b"2", 0.0, 2), (b"3", 0.0, 3)]
    assert (log.packets, log.unsynced) == (1, 0)
    disk.fails = set()
    assert opened(tmp_path).recovery.records == 1
    put(log, b"later")
    assert taken(log) == [b"durable" * 5, b"later"]


def test_a_cursor_half_written_is_not_believed(tmp_path: Path) -> None:
    """It stands in two places; the other one is then a packet behind."""
    log = opened(tmp_path)
    put(log, b"a", b"b", b"c")
    taken(log, 2)
    data = bytearray((tmp_path / "cursor").read_bytes())
    data[0] ^= 0x80
    (tmp_path / "cursor").write_bytes(bytes(data))

    assert taken(opened(tmp_path)) == [b"b", b"c"]


@pytest.mark.parametrize("place", [0, CURSOR_BYTES])
def test_a_cursor_has_a_second_place_whatever_its_numbers(tmp_path: Path, place: int) -> None:
    """Also where all of them are odd, as where packets of other lanes come in between."""
    log = opened(tmp_path)
    for number in range(4):
        log.append([b"%d" % number], 0.0, least=2 * number)
    log.sync_files()
    log.note_synced()
    taken(log, 3)
    data = bytearray((tmp_path / "cursor").read_bytes())
    data[place] ^= 0x80
    (tmp_path / "cursor").write_bytes(bytes(data))

    assert taken(opened(tmp_path)) in ([b"3"], [b"2", b"3"])


def test_a_segment_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The log opens without it; without its cursor it does not open, or all would go twice."""
    put(opened(tmp_path), b"a")
    disk = FailingDisk()
    disk.fails, disk.error = {"size"}, errno.EIO
    log = opened(tmp_path, disk)
    assert (log.recovery.unreadable, log.packets) == (1, 0)
    log.close()

    disk.fails = {"read"}
    with pytest.raises(OSError, match="Input/output"):
        opened(tmp_path, disk)
    assert disk.open_files == {}


def test_what_could_not_be_read_once_is_not_taken_for_done(tmp_path: Path) -> None:
    """New packets go on beyond its numbers, and the cursor stays below: it comes, if late."""
    put(opened(tmp_path, segment_bytes=1), b"a", b"b", b"c")
    disk = FailingDisk()
    disk.fails = {"size"}
    log = opened(tmp_path, disk)
    put(log, b"new")
    assert taken(log) == [b"new"]
    log.close()

    assert taken(opened(tmp_path))[:3] == [b"a", b"b", b"c"]


def test_files_are_open_only_where_they_are_used(tmp_path: Path) -> None:
    """A store of many gigabytes has more of them than a process may open."""
    disk = FailingDisk()
    log = opened(tmp_path, disk, segment_bytes=1)
    packets = [bytes([i]) for i in range(50)]
    put(log, *packets)
    assert len(segments(tmp_path)) == 50
    assert len(disk.open_files) <= 3
    again = opened(tmp_path, other := FailingDisk(), segment_bytes=1)
    assert len(other.open_files) <= 1
    assert taken(again) == packets
    assert len(other.open_files) <= 2


@pytest.mark.parametrize("call", ["write", "sync"])
def test_failures_leave_no_files_behind(tmp_path: Path, call: str) -> None:
    """However often a disk is tried that fails."""
    disk = FailingDisk()
    log = opened(tmp_path, disk)
    put(log, b"before")
    disk.fails = {call}
    for _ in range(50):
        with pytest.raises(OSError, match="No space"):
            put(log, b"x")
        log.abandon()
    assert len(segments(tmp_path)) == 1
    assert len(disk.open_files) <= 2


def test_a_folder_is_one_process_s(tmp_path: Path) -> None:
    """Two would give the same numbers to different packets."""
    log = SegmentLog(tmp_path, LocalDisk(), segment_bytes=100, now_s=0.0)
    with pytest.raises(BlockingIOError):
        SegmentLog(tmp_path, LocalDisk(), segment_bytes=100, now_s=0.0)
    log.close()
    SegmentLog(tmp_path, LocalDisk(), segment_bytes=100, now_s=0.0).close()


def test_power_may_go_at_any_time(tmp_path: Path) -> None:
    """What was synced is found, in order; of the rest what is sound, and nothing else."""
    rng = random.Random(2)
    for number in range(50):
        disk, folder = FailingDisk(), tmp_path / str(number)
        log = opened(folder, disk)
        synced = list[bytes]()
        for _ in range(rng.randrange(1, 12)):
            packets = [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 5))]
            put(log, *packets)
            synced += packets
        late = [rng.randbytes(60) for _ in range(3)]
        log.append(late, 0.0)
        disk.lose_power()
        found = taken(opened(folder))
        assert found[: len(synced)] == synced
        assert found[len(synced) :] == late[: len(found) - len(synced)]


def test_links_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """A link that has a segment's name would have something else cut and written over."""
    folder, victim = tmp_path / "log", tmp_path / "victim"
    victim.write_bytes(b"mine" * 99)
    folder.mkdir()
    for number in (0, 7):
        (folder / f"{number:020}.log").symlink_to(victim)
    (folder / "notes.txt").write_bytes(b"theirs")
    (folder / ("9" * 20 + ".log")).mkdir()
    log = opened(folder, LocalDisk())
    put(log, b"a" * 150, b"b" * 150)

    assert log.recovery.unreadable == 2
    assert taken(log) == [b"a" * 150, b"b" * 150]
    assert victim.read_bytes() == b"mine" * 99
    assert (folder / "notes.txt").read_bytes() == b"theirs"
    assert (folder / f"{7:020}.log").is_symlink()
