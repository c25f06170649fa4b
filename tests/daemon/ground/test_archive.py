"""Rules of the archive: a frame reported durable is found again, whatever happens to its files."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from codec.errors import CodecError
from codec.frame import PatchFrame, SideFrame, parse
from codec.tile import Tile
from daemon.disk import Disk, LocalDisk
from daemon.ground.archive import (
    DAMAGED,
    LATE,
    NO_MODEL,
    REPEATED,
    UNWRITTEN,
    WAITS,
    WRITTEN,
    ArchiveLimits,
    FrameArchive,
)
from daemon.ground.items import CollectedFrame, RestoredTile
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel
from daemon.metrics import new_registry
from daemon.records import OVERHEAD_BYTES
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.clock import FakeClock
from fakes.disk import FailingDisk
from fakes.ground import decoder, frames
from fakes.models import model as answered_model

BOOT = 3
HEAD_BYTES = 18
Key = tuple[int, int]


@cache
def encoded(sequence: int, patches: int) -> tuple[bytes, ...]:
    """Frames of a tile, side information first."""
    tile = cubes.tile(bands=2, rows=128 * patches, cols=8, sequence=sequence, seed=sequence)
    return tuple(frame.raw for frame in frames(tile))


def sent(
    sequence: int = 0, *, patches: int = 3, first: int = 0, boot_id: int = BOOT
) -> list[CollectedFrame]:
    """Frames of a tile, numbered from an id on."""
    return [
        CollectedFrame(
            raw=raw,
            channel=Channel.PATCH if at else Channel.SIDE,
            boot_id=boot_id,
            frame_id=first + at,
        )
        for at, raw in enumerate(encoded(sequence, patches))
    ]


def as_written(
    items: Sequence[CollectedFrame], missing: tuple[tuple[int, int], ...] = ()
) -> RestoredTile:
    """What the writer tells of a tile made of these frames, the first being its side frame."""
    side = parse(items[0].raw)
    assert isinstance(side, SideFrame)
    return RestoredTile(
        tile=Tile(samples=cubes.tile(bands=2, rows=8, cols=8).samples, info=side.info),
        side=side,
        sent_as=items[0].key,
        missing=missing,
        frames=tuple(item.key for item in items),
        frame_bytes=0,
    )


RIGS: list[Rig] = []


@pytest.fixture(autouse=True)
def archives_are_closed() -> Iterator[None]:
    """However a test ends its archives: thousands of open files would be left."""
    yield
    while RIGS:
        RIGS.pop().archive.close()


class Rig:
    """An archive with its surroundings, closed when the test ends."""

    def __init__(
        self,
        folder: Path,
        disk: Disk | None = None,
        *,
        max_bytes: int = 1 << 30,
        segment_bytes: int = 1 << 20,
        missing: set[bytes] | None = None,
    ) -> None:
        self.disk, self.clock = disk or FailingDisk(), FakeClock()
        self.metrics, self.lost = GroundMetrics(new_registry()), list[Key]()
        self.missing = set[bytes]() if missing is None else missing
        limits = ArchiveLimits(
            max_bytes=max_bytes, segment_bytes=segment_bytes, sync_frames=4, sync_s=0.2, retry_s=10
        )
        self.archive = FrameArchive(
            folder, limits, self.clock, self.disk, metrics=self.metrics, on_lost=self.lost.extend,
            has_model=lambda model: model not in self.missing,
        )  # fmt: skip
        RIGS.append(self)

    def put(self, *items: CollectedFrame) -> list[str | None]:
        """Append all, sync, and say what was said of each."""
        said = [self.archive.append(item) for item in items]
        self.archive.sync()
        return said

    def unfinished(self) -> list[Key]:
        """What is to be decoded again."""
        return [frame.key for frame in self.archive.unfinished()]

    def total(self, name: str, reason: str = "") -> float:
        """A metric of the archive."""
        label = f'{{reason="{reason}"}}' if reason else ""
        return self.metrics.totals().get(f"prismlink_archive_{name}{label}", 0)


def keys_of(items: Iterable[CollectedFrame]) -> list[Key]:
    """Their keys."""
    return [item.key for item in items]


def segments(folder: Path) -> list[Path]:
    """The files of records."""
    return sorted(folder.glob("*.log"))


TILE = sent()


def test_the_bytes_of_a_frame_and_of_a_mark(tmp_path: Path) -> None:
    """Frozen: another build must find what this one left."""
    frame = PatchFrame(
        model=b"modelabc", tile_id=b"tile-id8", patch_row=1, patch_col=2, step_offset=0, mask=b"",
        payload=b"payload",
    )  # fmt: skip
    rig = Rig(tmp_path)
    item = CollectedFrame(raw=frame.pack(), channel=Channel.PATCH, boot_id=3, frame_id=5)
    rig.put(item)
    mark = replace(  # type: ignore[type-var]
        as_written(TILE, ((0, 0),)), sent_as=(3, 4), frames=((3, 4), (3, 5))
    )
    rig.archive.written(mark)
    (path,) = segments(tmp_path)

    assert path.name == "00000000000000000000.log"
    assert path.read_bytes().hex() == (
        "b1504c53" "0000003b" "0000000000000000"
        "00" "01" "00000003" "00000005" "74696c652d696438" + item.raw.hex() + "93df0082"
        "b1504c53" "0000001a" "0000000000000001"
        "01" "00" "00000003" "00000004" + mark.side.tile_id.hex() + "00000002" "00000005" "13f2e116"
    )  # fmt: skip


def test_what_is_durable_is_found_again(tmp_path: Path) -> None:
    """In the order it came, byte for byte, and only once it was synced."""
    rig = Rig(tmp_path)
    assert [rig.archive.append(item) for item in TILE] == [None] * 4
    assert rig.archive.keys() == []
    assert rig.archive.sync() == keys_of(TILE)
    assert rig.archive.keys() == keys_of(TILE)
    again = Rig(tmp_path)

    assert again.archive.keys() == keys_of(TILE)
    assert again.archive.recovery.records == again.total("recovered_frames") == 4
    assert all(again.archive.holds(*key) for key in keys_of(TILE))
    assert not again.archive.holds(BOOT, 99)
    back = list(again.archive.unfinished())
    assert [(f.raw, f.channel, f.key) for f in back] == [(f.raw, f.channel, f.key) for f in TILE]
    assert all(frame.replayed for frame in back)


def test_frames_are_synced_together(tmp_path: Path) -> None:
    """When there are enough of them, or the oldest has waited long enough."""
    rig = Rig(tmp_path)
    rig.archive.append(TILE[0])
    assert not rig.archive.sync_is_due
    rig.clock.advance(0.2)
    assert rig.archive.sync_is_due
    rig.archive.sync()
    rig.clock.advance(1.0)
    assert not rig.archive.sync_is_due
    for item in sent(1, first=10):
        assert not rig.archive.sync_is_due
        rig.archive.append(item)
    assert rig.archive.sync_is_due


def test_a_frame_that_comes_again_is_told_again(tmp_path: Path) -> None:
    """Its board did not hear that it is durable; but nothing is told before that is true."""
    rig = Rig(tmp_path)
    rig.archive.append(TILE[0])
    assert rig.archive.append(TILE[0]) == REPEATED
    assert rig.archive.sync() == [TILE[0].key]
    assert rig.archive.append(TILE[0]) == REPEATED
    rig.clock.advance(0.2)
    assert rig.archive.sync_is_due
    assert rig.archive.sync() == [TILE[0].key]
    assert rig.total("frames") == 1


def test_what_is_no_frame_is_not_kept(tmp_path: Path) -> None:
    """The error is the caller's."""
    rig = Rig(tmp_path)
    with pytest.raises(CodecError):
        rig.archive.append(replace(TILE[0], raw=b"?"))  # type: ignore[type-var]

    assert segments(tmp_path) == []


def boundaries(items: Sequence[CollectedFrame]) -> list[int]:
    """Where the records of frames end."""
    ends, end = [], 0
    for item in items:
        end += OVERHEAD_BYTES + HEAD_BYTES + len(item.raw)
        ends.append(end)
    return ends


def test_an_archive_cut_at_any_byte_gives_every_whole_frame(tmp_path: Path) -> None:
    """Nothing more, nothing less, at each of the lengths a crash can leave."""
    Rig(tmp_path / "whole").put(*TILE)
    (path,) = segments(tmp_path / "whole")
    data, folder = path.read_bytes(), tmp_path / "cut"
    folder.mkdir()
    for length in range(len(data) + 1):
        (folder / path.name).write_bytes(data[:length])
        found = Rig(folder).archive
        whole = sum(end <= length for end in boundaries(TILE))
        assert found.keys() == keys_of(TILE[:whole])
        assert found.recovery.skipped_bytes == length - [0, *boundaries(TILE)][whole]
        found.close()


def test_a_flipped_bit_costs_one_frame(tmp_path: Path) -> None:
    """Every other one is found and read as it was; the damage is told."""
    rng = random.Random(0)
    Rig(tmp_path / "whole").put(*TILE)
    (path,) = segments(tmp_path / "whole")
    data, ends, folder = path.read_bytes(), boundaries(TILE), tmp_path / "hit"
    folder.mkdir()
    for _ in range(4000):
        bit = rng.randrange(8 * len(data))
        hit = bytearray(data)
        hit[bit // 8] ^= 1 << bit % 8
        (folder / path.name).write_bytes(bytes(hit))
        lost = sum(end <= bit // 8 for end in ends)
        kept = TILE[:lost] + TILE[lost + 1 :]
        found = Rig(folder).archive
        assert found.keys() == keys_of(kept)
        assert found.recovery.skipped_places == 1
        side_is_there = lost > 0
        assert [frame.raw for frame in found.unfinished()] == [
            frame.raw for frame in kept if side_is_there
        ]
        found.close()


def test_damage_that_comes_while_the_process_runs_is_told(tmp_path: Path) -> None:
    """The frame is no longer at hand, its tile goes on without it, and it may be sent again."""
    Rig(tmp_path).put(*TILE)
    (path,) = segments(tmp_path)
    rig = Rig(tmp_path)
    data = bytearray(path.read_bytes())
    data[boundaries(TILE)[1] - 5] ^= 1
    path.write_bytes(bytes(data))

    assert rig.unfinished() == [TILE[0].key, TILE[2].key, TILE[3].key]
    assert rig.lost == [TILE[1].key]
    assert rig.total("dropped_frames_total", DAMAGED) == 1
    assert rig.put(TILE[1]) == [None]


def test_a_file_that_cannot_be_read_is_told_and_left(tmp_path: Path) -> None:
    """It may be readable at the next start; what comes does not take its numbers."""
    Rig(tmp_path).put(*TILE)
    disk = FailingDisk()
    disk.fails, disk.error = {"size"}, errno.EIO
    rig = Rig(tmp_path, disk)
    assert rig.total("unreadable_files") == 1
    disk.fails = set()
    other = sent(1, first=10)
    rig.put(*other)

    assert Rig(tmp_path).archive.keys() == keys_of([*TILE, *other])


def test_what_a_killed_process_left_is_synced_before_it_is_told(tmp_path: Path) -> None:
    """It may have been in memory alone: found in its file, it could still go with power."""
    for item in TILE:
        Rig(tmp_path).archive.append(item)
    rig = Rig(tmp_path)
    assert rig.archive.keys() == keys_of(TILE)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    assert disk.synced == len(segments(tmp_path)) == 4


# ---- trouble of the disk ------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["create", "write"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_costs_durability_and_nothing_else(
    tmp_path: Path, call: str, error: int
) -> None:
    """Frames go on and are told to be lost; sent again, a disk that works again takes them."""
    rig = Rig(tmp_path)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    disk.fails, disk.error = {call}, error
    assert rig.put(*TILE) == [None] * 4
    assert rig.archive.degraded == errno.errorcode[error]
    assert (rig.lost, rig.archive.keys()) == (keys_of(TILE), [])
    assert rig.total("degraded") == 1
    disk.fails = set()
    assert rig.put(TILE[0]) == [None]
    assert rig.archive.keys() == []
    rig.clock.advance(10.0)
    assert rig.put(*TILE) == [None] * 4

    assert rig.archive.degraded is None
    assert rig.total("degraded") == 0
    assert Rig(tmp_path).archive.keys() == keys_of(TILE)
    assert Rig(tmp_path).archive.recovery.skipped_bytes == 0


def test_a_sync_of_what_came_before_is_no_recovery(tmp_path: Path) -> None:
    """What a full disk took before it was full is synced, and it is full all the same."""
    rig = Rig(tmp_path)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    rig.archive.append(TILE[0])
    disk.fails = {"write"}
    rig.archive.append(TILE[1])
    assert rig.archive.sync() == keys_of(TILE[:1])
    assert rig.archive.degraded == "ENOSPC"
    assert rig.total("degraded") == 1
    disk.fails = set()
    rig.clock.advance(10.0)
    rig.put(TILE[1])

    assert rig.archive.degraded is None
    assert rig.total("degraded") == 0


def test_after_a_sync_that_failed_the_file_gets_nothing_more(tmp_path: Path) -> None:
    """Nobody knows what of it is on the disk: its frames are lost, the next go into another."""
    rig = Rig(tmp_path)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    rig.put(TILE[0])
    (first,) = segments(tmp_path)
    size = first.stat().st_size
    disk.fails, disk.error = {"sync"}, errno.EIO
    rig.archive.append(TILE[1])
    assert rig.archive.sync() == []
    assert rig.lost == [TILE[1].key]
    assert not rig.archive.holds(*TILE[1].key)
    assert first not in disk.open_files.values()
    disk.fails = set()
    rig.clock.advance(10.0)
    assert rig.put(TILE[1], TILE[2]) == [None, None]

    assert rig.archive.keys() == keys_of(TILE[:3])
    assert len(segments(tmp_path)) == 2
    disk.lose_power()
    assert first.stat().st_size >= size
    assert set(Rig(tmp_path).archive.keys()) == set(keys_of(TILE[:3]))


def test_what_was_written_while_the_disk_failed_is_marked_later(tmp_path: Path) -> None:
    """At the next start the tile is not decoded again."""
    rig = Rig(tmp_path)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    rig.put(*TILE)
    disk.fails = {"write"}
    rig.archive.written(as_written(TILE))
    disk.fails = set()
    rig.clock.advance(10.0)
    rig.put(*sent(1, first=10))

    assert Rig(tmp_path).unfinished() == keys_of(sent(1, first=10))


def test_a_folder_is_of_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second one says so and goes on without; when the first ended it finds what that left."""
    first, second = Rig(tmp_path, LocalDisk()), Rig(tmp_path, LocalDisk())
    (told,) = [vars(line) for line in caplog.records if line.message == "archive degraded"]
    assert told["folder"] == str(tmp_path)
    assert "another process uses it; remedy: end that process" in told["error"]
    first.put(*TILE)
    assert second.archive.degraded in {"EAGAIN", "EWOULDBLOCK"}
    other = sent(1, first=10)
    assert second.put(*other) == [None] * 4
    first.archive.close()
    second.clock.advance(10.0)
    second.put(*other)

    assert second.archive.keys() == keys_of([*TILE, *other])
    assert second.unfinished() == keys_of(TILE)
    second.archive.close()
    assert second.put(TILE[0], *sent(2, first=20)) == [REPEATED, None, None, None, None]


# ---- what is decoded again ----------------------------------------------------------------------


def test_a_tile_written_whole_is_not_decoded_again(tmp_path: Path) -> None:
    """Neither at the next start, nor when a frame of it comes again."""
    rig = Rig(tmp_path)
    rig.put(*TILE)
    rig.archive.written(as_written(TILE))
    assert rig.put(*TILE) == [REPEATED] * 4
    rig.archive.sync()
    again = Rig(tmp_path)

    assert again.unfinished() == []
    assert again.put(*TILE) == [REPEATED] * 4


def test_tiles_come_one_by_one_in_the_order_they_came(tmp_path: Path) -> None:
    """However their frames are mixed; each with its side information first."""
    a, b = sent(0), sent(1, first=10)
    Rig(tmp_path).put(a[1], b[0], a[0], b[2], a[3], b[1])

    assert Rig(tmp_path).unfinished() == keys_of([b[0], b[2], b[1], a[0], a[1], a[3]])


def test_a_tile_with_holes_is_decoded_again_when_there_is_more_of_it(tmp_path: Path) -> None:
    """A frame that comes later brings all the others; at the next start, too, and not before."""
    rig = Rig(tmp_path)
    rig.put(*TILE[:3])
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))
    rig.archive.sync()
    again = Rig(tmp_path)
    assert again.unfinished() == []
    assert again.put(TILE[3]) == [WAITS]
    assert again.unfinished() == keys_of(TILE)
    assert again.unfinished() == []

    assert Rig(tmp_path).unfinished() == keys_of(TILE)


def test_a_frame_that_came_while_its_tile_was_written_is_not_left_out(tmp_path: Path) -> None:
    """The mark says of how many frames; one that does not decode is tried once, not for ever."""
    rig = Rig(tmp_path)
    rig.put(*TILE)
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))
    assert rig.unfinished() == keys_of(TILE)
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))

    assert rig.unfinished() == []


def test_a_product_is_not_replaced_by_a_worse_one(tmp_path: Path) -> None:
    """Of a tile written with more than is at hand nothing is decoded until there is yet more."""
    rig = Rig(tmp_path)
    rig.put(*TILE[:2])
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))
    assert rig.put(TILE[3]) == [LATE]
    assert rig.unfinished() == []
    assert rig.put(TILE[2]) == [WAITS]

    assert rig.unfinished() == keys_of([*TILE[:2], TILE[3], TILE[2]])


def test_patches_wait_for_their_side_information(tmp_path: Path) -> None:
    """Given up by the decoder, or of an earlier process, they come with it when it comes."""
    rig = Rig(tmp_path)
    assert rig.put(TILE[1]) == [None]
    rig.archive.gave_up(TILE[1])
    assert rig.put(TILE[2]) == [WAITS]
    assert rig.unfinished() == []
    again = Rig(tmp_path)
    assert again.unfinished() == []
    for one in (rig, again):
        one.archive.append(TILE[0])
        assert one.unfinished() == keys_of(TILE[:3])
        assert one.archive.append(TILE[3]) is None


def test_a_tile_sent_anew_is_a_tile_anew(tmp_path: Path) -> None:
    """Even if a patch of it comes first; what is left of the one before is not decoded again."""
    rig, anew = Rig(tmp_path), sent(first=10)
    rig.put(*TILE[:3])
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))
    assert rig.put(anew[2], anew[0]) == [WAITS, WAITS]
    assert rig.unfinished() == keys_of([anew[0], anew[2]])
    assert rig.put(anew[1], TILE[3], anew[3]) == [None, LATE, None]
    rig.archive.written(as_written(TILE, ((2, 0),)))
    rig.archive.written(as_written(anew))
    rig.archive.sync()

    assert rig.unfinished() == Rig(tmp_path).unfinished() == []


def test_a_patch_of_a_tile_sent_anew_is_not_taken_for_a_repeat(tmp_path: Path) -> None:
    """Not even if another, decoded before its side information came, made the old tile whole."""
    rig, anew = Rig(tmp_path), sent(first=10)
    mixed = [*TILE[:3], anew[3]]
    rig.put(*mixed)
    rig.archive.written(as_written(mixed))
    assert rig.put(anew[1], anew[2], anew[0]) == [LATE, LATE, WAITS]

    assert set(rig.unfinished()) == set(keys_of(anew))


def test_a_mark_of_what_was_sent_anew_since_is_not_recorded(tmp_path: Path) -> None:
    """Were it lost with its file, or not yet written: there is nothing to say of the new one."""
    rig = Rig(tmp_path, max_bytes=3 * RECORDS_BYTES, segment_bytes=RECORDS_BYTES)
    disk = rig.disk
    assert isinstance(disk, FailingDisk)
    old, unmarked = sent(0, patches=1), sent(1, patches=1, first=10)
    rig.put(*old, *unmarked)
    rig.archive.written(as_written(old))
    disk.fails = {"write"}
    rig.archive.written(as_written(unmarked))
    disk.fails = set()
    rig.clock.advance(10.0)
    anew = [*sent(0, patches=1, first=20), *sent(1, patches=1, first=30)]
    rig.put(*anew, *sent(2, patches=1, first=40))

    assert set(rig.unfinished()) <= set(keys_of(anew))
    assert set(Rig(tmp_path).unfinished()) <= set(rig.archive.keys())


def test_after_a_whole_tile_one_sent_anew_is_known_by_its_numbers(tmp_path: Path) -> None:
    """They are higher than those of the frames that were written."""
    rig, anew = Rig(tmp_path), sent(first=10)
    rig.put(*TILE)
    rig.archive.written(as_written(TILE))
    rig.put(anew[2], anew[1])
    assert rig.unfinished() == []
    rig.put(anew[0])

    assert rig.unfinished() == keys_of([anew[0], anew[2], anew[1]])


def test_a_tile_sent_by_another_boot_replaces_the_one_before(tmp_path: Path) -> None:
    """They are one file: what comes late of the older must not be written over the newer."""
    rig, newer = Rig(tmp_path), sent(boot_id=9)
    rig.put(*TILE[:3])
    rig.archive.written(as_written(TILE[:3], ((2, 0),)))
    rig.put(*newer)
    rig.archive.written(as_written(newer))
    assert rig.put(TILE[3]) == [LATE]

    assert rig.unfinished() == Rig(tmp_path).unfinished() == []


def test_reading_goes_on_where_it_was_left(tmp_path: Path) -> None:
    """Frames come in portions; one that comes between them is not lost, or given twice."""
    Rig(tmp_path).put(*TILE[:3], *sent(1, first=10))
    rig = Rig(tmp_path)
    first = next(rig.archive.unfinished())
    assert rig.put(TILE[3]) == [None]

    assert [first.key, *rig.unfinished()] == keys_of([*TILE[:3], *sent(1, first=10)])


def test_a_tiles_frames_can_be_read(tmp_path: Path) -> None:
    """Its side frame first; none of a tile that is not known."""
    rig = Rig(tmp_path)
    rig.put(TILE[2], *TILE[:2], TILE[3], *sent(1, first=10))
    side = parse(TILE[0].raw)

    found = rig.archive.frames_of(BOOT, side.tile_id)
    assert keys_of(found) == keys_of([TILE[0], TILE[2], TILE[1], TILE[3]])
    assert list(rig.archive.frames_of(BOOT + 1, side.tile_id)) == []
    parts = [frame.raw for frame in rig.archive.frames_of(BOOT, side.tile_id)]
    assert decoder().decode(parts).samples.shape == (2, 384, 8)


# ---- quota --------------------------------------------------------------------------------------

RECORDS_BYTES = boundaries(sent(patches=1))[-1]


def test_an_archive_takes_bounded_room(tmp_path: Path) -> None:
    """What was written whole goes first, then the oldest, each counted for what it was."""
    tiles = [sent(i, patches=1, first=10 * i) for i in range(6)]
    room = 4 * RECORDS_BYTES
    rig = Rig(tmp_path, max_bytes=room, segment_bytes=RECORDS_BYTES - 50)
    for tile in tiles[:3]:
        rig.put(*tile)
    rig.archive.written(as_written(tiles[1]))
    rig.archive.sync()
    for tile in tiles[3:]:
        rig.put(*tile)
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= room

    assert rig.total("dropped_frames_total", WRITTEN) == 2
    assert rig.total("dropped_frames_total", UNWRITTEN) > 0
    assert set(keys_of(tiles[5])) <= set(rig.archive.keys())
    assert rig.total("bytes") == sum(path.stat().st_size for path in segments(tmp_path))
    again = Rig(tmp_path)
    assert again.archive.keys() == rig.archive.keys()


def test_that_a_tile_was_written_is_known_as_long_as_it_has_frames(tmp_path: Path) -> None:
    """Its mark may go with a file that is not needed; it is then recorded again."""
    first, second = sent(0, patches=1), sent(1, patches=1, first=10)
    rig = Rig(tmp_path, max_bytes=5 * RECORDS_BYTES, segment_bytes=RECORDS_BYTES)
    waiting = sent(2, patches=1, first=20)[1]
    rig.put(*first[:1], waiting, first[1])
    rig.put(*second)
    rig.archive.written(as_written(first))
    rig.archive.written(as_written(second))
    rig.archive.sync()
    for i in range(3, 8):
        tile = sent(i, patches=1, first=10 * i)
        rig.put(*tile)
        rig.archive.written(as_written(tile))
    assert rig.archive.holds(*first[0].key)

    assert rig.put(*first) == [REPEATED] * 2
    assert Rig(tmp_path).put(*first) == [REPEATED] * 2
    assert Rig(tmp_path).unfinished() == []


def test_memory_is_of_what_is_in_the_archive(tmp_path: Path) -> None:
    """Of tiles whose frames and marks have gone nothing is kept."""
    rig = Rig(tmp_path, max_bytes=4 * RECORDS_BYTES, segment_bytes=RECORDS_BYTES)
    for i in range(40):
        tile = sent(i % 3, patches=1, first=10 * i, boot_id=i)
        rig.put(*tile)
        rig.archive.written(as_written(tile))
    tiles = rig.archive._tiles

    assert rig.total("frames") <= 10
    assert len(tiles._tiles) <= 10
    assert len(tiles._newest) <= 3
    assert not tiles.unmarked


# ---------------------------------------------------------------- models that are not there


MODEL = klt_bundle().model


def test_frames_of_an_unknown_model_wait_for_it(tmp_path: Path) -> None:
    """They are kept and told as durable; once it is there, each tile is decoded whole."""
    rig = Rig(tmp_path, missing={MODEL})
    first, second = sent(0), sent(1, first=10)
    assert rig.put(*first, *second) == [NO_MODEL] * 8
    assert len(rig.archive.keys()) == 8
    assert rig.unfinished() == []
    assert rig.metrics.totals()["prismlink_tiles_without_model"] == 2

    rig.missing.clear()
    rig.archive.model_came(b"another.")
    assert rig.unfinished() == []
    rig.archive.model_came(MODEL)
    assert rig.unfinished() == [item.key for item in (*first, *second)]
    assert rig.metrics.totals()["prismlink_tiles_without_model"] == 0
    rig.archive.written(as_written(first))
    rig.archive.written(as_written(second))
    rig.archive.model_came(MODEL)
    assert rig.unfinished() == []


def test_what_comes_after_its_model_goes_on_with_the_rest(tmp_path: Path) -> None:
    """The tile is under way again: no frame is left out, and none is given twice."""
    rig = Rig(tmp_path, missing={MODEL})
    items = sent(0)
    assert rig.put(*items[:2]) == [NO_MODEL] * 2
    rig.missing.clear()
    rig.archive.model_came(MODEL)
    assert rig.unfinished() == [item.key for item in items[:2]]
    assert rig.put(*items[2:]) == [None, None]
    assert rig.unfinished() == []


def test_patches_before_their_side_information_wait_likewise(tmp_path: Path) -> None:
    """Of whatever model they are: the side frame decides."""
    rig = Rig(tmp_path, missing={MODEL})
    side, *patches = sent(0)
    assert rig.put(*patches, side) == [NO_MODEL] * 4
    rig.missing.clear()
    rig.archive.model_came(MODEL)
    assert rig.unfinished() == [item.key for item in (side, *patches)]


@pytest.mark.parametrize("comes", [False, True])
def test_a_restart_finds_what_waits_for_its_model(tmp_path: Path, *, comes: bool) -> None:
    """Whether the model has come meanwhile, or comes later."""
    items = sent(0)
    before = Rig(tmp_path, LocalDisk(), missing={MODEL})
    before.put(*items)
    before.archive.close()
    rig = Rig(tmp_path, LocalDisk(), missing=set() if comes else {MODEL})
    if not comes:
        assert rig.unfinished() == []
        assert rig.metrics.totals()["prismlink_tiles_without_model"] == 1
        rig.missing.clear()
        rig.archive.model_came(MODEL)
    assert rig.unfinished() == [item.key for item in items]
    assert rig.metrics.totals()["prismlink_tiles_without_model"] == 0


def test_a_tile_sent_anew_by_a_known_model_does_not_wait(tmp_path: Path) -> None:
    """The board went back to the model before: what is newer counts."""
    other = answered_model(1)
    rig = Rig(tmp_path, missing={MODEL})
    rig.put(*sent(0))
    tile = cubes.tile(bands=2, rows=3 * 128, cols=8, sequence=0, seed=0)
    again = [
        replace(frame, boot_id=BOOT, frame_id=20 + at)
        for at, frame in enumerate(frames(tile, other))
    ]
    assert rig.put(*again) == [WAITS] * len(again)
    assert rig.unfinished() == [item.key for item in again]
    assert rig.metrics.totals()["prismlink_tiles_without_model"] == 0


def test_links_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """A link that has a segment's name would have something else cut and written over."""
    folder, victim = tmp_path / "archive", tmp_path / "victim"
    victim.write_bytes(b"mine" * 99)
    folder.mkdir()
    for number in (0, 7):
        (folder / f"{number:020}.log").symlink_to(victim)
    (folder / "notes.txt").write_bytes(b"theirs")
    rig = Rig(folder, LocalDisk())
    rig.put(*sent())

    assert rig.total("unreadable_files") == 2
    rig.archive.close()
    assert Rig(folder, LocalDisk()).unfinished() == [item.key for item in sent()]
    assert victim.read_bytes() == b"mine" * 99
    assert (folder / "notes.txt").read_bytes() == b"theirs"
    assert (folder / f"{7:020}.log").is_symlink()
