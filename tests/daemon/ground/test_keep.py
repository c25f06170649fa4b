"""The ground's stages from complete frames to files, killed and started again at any point."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.tile import Tile
from codec.tile_files import read_tile
from daemon.ground.archive import ArchiveLimits, FrameArchive
from daemon.ground.decode import DecodeWorker
from daemon.ground.items import CollectedFrame
from daemon.ground.keep import KeepWorker
from daemon.ground.metrics import GroundMetrics
from daemon.ground.mosaic import MosaicWorker
from daemon.ground.write import MANIFEST, WriteWorker
from daemon.link.packet import Channel
from daemon.metrics import new_registry
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.clock import FakeClock
from fakes.disk import FailingDisk
from fakes.ground import decoder, frames

DEADLINE_S = 30.0
Key = tuple[int, int]


class Ground:
    """One process: its stages in a line, without threads. A new one finds what this one left."""

    def __init__(
        self, folder: Path, disk: FailingDisk | None = None, *, keeps: bool = True
    ) -> None:
        self.clock, self.metrics = FakeClock(), GroundMetrics(new_registry())
        self.durable, self.lost, self.fed = list[Key](), list[Key](), 0
        self.disk, self.out = disk or FailingDisk(), folder / "out"
        limits = ArchiveLimits(
            max_bytes=1 << 30, segment_bytes=4000, sync_frames=3, sync_s=0.2, retry_s=10
        )
        archive = FrameArchive(
            folder / "archive", limits, self.clock, self.disk,
            metrics=self.metrics, on_lost=self.lost.extend,
        )  # fmt: skip
        room = self._room = [1 << 30]
        self.keep = KeepWorker(
            archive if keeps else None, self.durable.extend, self.metrics, lambda: room[0]
        )
        self._decode = DecodeWorker(
            {klt_bundle().model: decoder()}, threads=1, max_parked_bytes=1 << 20,
            max_age_s=DEADLINE_S, clock=self.clock, metrics=self.metrics,
            on_give_up=archive.gave_up,
        )  # fmt: skip
        self._mosaic = MosaicWorker(
            deadline_s=DEADLINE_S, max_bytes=1 << 20, clock=self.clock, metrics=self.metrics,
            on_empty=archive.waits,
        )  # fmt: skip
        self._write = WriteWorker(self.out, "npy", self.metrics, archive.written)

    def has_room(self, frames: int) -> None:
        """So many frames may be passed on at a time."""
        self._room[0] = frames

    def feed(self, *items: CollectedFrame) -> None:
        """Take complete frames in."""
        for item in items:
            self.fed += item.channel is Channel.PATCH
            self._pass_on(self.keep.accept(item))

    def after(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        for part in self._decode.tick():
            self._write_all(self._mosaic.accept(part))
        self._write_all(self._mosaic.tick())
        self._pass_on(self.keep.tick())

    def end(self) -> None:
        """Shut down in order."""
        self.keep.finish()
        for part in self._decode.finish():
            self._write_all(self._mosaic.accept(part))
        self._write_all(self._mosaic.finish())

    def products(self) -> dict[int, NDArray[np.generic]]:
        """Samples of every tile written, by sequence."""
        said = [json.loads(path.read_text()) for path in self.out.glob(f"*{MANIFEST}")]
        return {one["sequence"]: read_tile(self.out / one["file"]).samples for one in said}

    def total(self, name: str) -> float:
        """A metric over all its labels."""
        totals = self.metrics.totals().items()
        return sum(v for k, v in totals if k.partition("{")[0] == f"prismlink_{name}")

    def check_accounts(self) -> None:
        """Every patch frame is accounted for once, as `daemon.metrics` has it."""
        totals = self.metrics.totals()
        back = totals['prismlink_frames_read_back_total{channel="patch"}']
        aside = sum(v for k, v in totals.items() if 'set_aside_total{channel="patch"' in k)
        ended = sum(
            self.total(f"patches_{n}") for n in ("decoded_total", "failed_total", "waiting")
        )
        assert self.fed + back == ended + aside
        decoded, dropped = self.total("patches_decoded_total"), self.total("dropped_patches_total")
        assert decoded == self.total("patches_written_total") + dropped

    def _pass_on(self, items: Iterable[CollectedFrame]) -> None:
        for item in items:
            for part in self._decode.accept(item):
                self._write_all(self._mosaic.accept(part))

    def _write_all(self, tiles: Iterable[object]) -> None:
        for tile in tiles:
            list(self._write.accept(tile))  # type: ignore[arg-type]


@cache
def encoded(sequence: int) -> tuple[CollectedFrame, ...]:
    """Frames of a tile of three patches, side information first."""
    tile = cubes.tile(bands=2, rows=260, cols=8, sequence=sequence, seed=sequence)
    return tuple(frames(tile))


def sent(sequence: int, first: int = 0) -> list[CollectedFrame]:
    """Frames of a tile, numbered from an id on."""
    return [
        replace(item, frame_id=first + at)  # type: ignore[type-var]
        for at, item in enumerate(encoded(sequence))
    ]


@cache
def undisturbed(sequence: int) -> Tile:
    """What the decoder makes of a tile's frames."""
    return decoder().decode(item.raw for item in encoded(sequence))


def check_whole(ground: Ground, sequences: Iterable[int]) -> None:
    """These tiles were written, bit for bit as without any disturbance, and no others."""
    products = ground.products()
    assert set(products) == set(sequences)
    for sequence, samples in products.items():
        np.testing.assert_array_equal(samples, undisturbed(sequence).samples)


TILE = sent(0)


def test_without_an_archive_frames_pass(tmp_path: Path) -> None:
    """And each is told at once."""
    ground = Ground(tmp_path, keeps=False)
    ground.feed(*TILE)
    ground.end()

    assert ground.durable == [item.key for item in TILE]
    check_whole(ground, [0])
    assert ground.total("archive_frames") == 0


def test_frames_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    """They are decoded at once; that they are durable is told when it is true."""
    ground = Ground(tmp_path)
    ground.feed(*TILE[:2])
    assert ground.total("patches_decoded_total") == 1
    assert ground.durable == []
    ground.after(0.2)
    assert ground.durable == [item.key for item in TILE[:2]]
    ground.feed(*TILE[2:])
    ground.end()

    assert ground.durable == [item.key for item in TILE]
    check_whole(ground, [0])


def test_what_is_no_frame_passes_and_is_not_asked_for_again(tmp_path: Path) -> None:
    """It would be no better the next time; the decoder counts it."""
    ground = Ground(tmp_path)
    bad = replace(TILE[0], raw=b"?")  # type: ignore[type-var]

    assert list(ground.keep.accept(bad)) == [bad]
    assert ground.durable == [bad.key]


@pytest.mark.parametrize("seen", range(4))
def test_a_ground_that_was_killed_goes_on_with_its_tile(tmp_path: Path, seen: int) -> None:
    """What it had is decoded again, the rest has to come, and the cube is the same."""
    Ground(tmp_path).feed(*TILE[:seen])
    again = Ground(tmp_path)
    again.after(0.1)
    again.feed(*TILE[seen:])

    check_whole(again, [0])
    again.check_accounts()


def test_what_was_written_is_not_decoded_again(tmp_path: Path) -> None:
    """Not even if all of it is sent again."""
    Ground(tmp_path).feed(*TILE)
    again = Ground(tmp_path)
    again.feed(*TILE)
    again.after(DEADLINE_S)

    assert again.total("patches_decoded_total") == 0
    assert again.total("tiles_written_total") == 0
    assert set(again.durable) >= {item.key for item in TILE}
    check_whole(again, [0])
    again.check_accounts()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("late", [(1,), (3,), (0,), (2, 1), (3, 0)])
def test_what_comes_late_completes_a_written_tile(
    tmp_path: Path, late: Sequence[int], restarted: bool
) -> None:
    """In place; as long as the ground has not that much, its file is as good as before."""
    ground = Ground(tmp_path)
    ground.feed(*(item for at, item in enumerate(TILE) if at not in late))
    ground.after(DEADLINE_S)
    assert ground.total("tiles_written_total") == (0 not in late)
    if restarted:
        ground = Ground(tmp_path)
        ground.after(DEADLINE_S)
        assert ground.total("patches_decoded_total") == 0
    for at in late:
        ground.feed(TILE[at])
        ground.after(DEADLINE_S)

    check_whole(ground, [0])
    # Samples, what they are, the manifest, the patches' quality and the STAC item.
    assert len(list(ground.out.iterdir())) == 5
    ground.end()
    ground.check_accounts()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_tile_is_not_written_before_its_first_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Many tiles' side information comes first; what comes long after is decoded, and just once."""
    monkeypatch.setattr("daemon.ground.decode._SIDES_KEPT", 1)
    ground, tiles = Ground(tmp_path), {i: sent(i, first=10 * i) for i in range(3)}
    for side, *_ in tiles.values():
        ground.feed(side)
    ground.after(DEADLINE_S)
    if restarted:
        ground.end()
        assert ground.total("dropped_tiles_total") == 3
        ground = Ground(tmp_path)
        ground.after(1.0)
        ground.after(DEADLINE_S)
    assert ground.products() == {}
    for _, *patches in tiles.values():
        ground.feed(*patches)
    ground.end()

    check_whole(ground, tiles)
    assert ground.total("tiles_written_total") == 3
    assert ground.total("patches_decoded_total") == 9
    ground.check_accounts()


def test_a_tile_handed_on_at_the_end_is_completed_by_the_next_process(tmp_path: Path) -> None:
    """An operator may restart the ground in the middle of a pass."""
    ground = Ground(tmp_path)
    ground.feed(*TILE[:2])
    ground.end()
    ground.check_accounts()
    again = Ground(tmp_path)
    again.feed(*TILE[2:])

    check_whole(again, [0])


def test_what_is_read_back_comes_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no more than that is in memory, and new frames do not wait for all of it."""
    monkeypatch.setattr("daemon.ground.keep._READ_AT_ONCE_BYTES", 1)
    tiles = [sent(i, first=10 * i) for i in range(3)]
    for tile in tiles:
        Ground(tmp_path).feed(*tile[:-1])
    again = Ground(tmp_path)
    assert [item.key for item in again.keep.tick()] == [tiles[0][0].key]
    assert [i.key for i in again.keep.accept(tiles[2][3])] == [tiles[0][1].key]
    assert [i.key for i in again.keep.accept(tiles[0][3])] == [tiles[0][3].key, tiles[0][2].key]


def test_trouble_of_the_disk_costs_no_tile(tmp_path: Path) -> None:
    """Frames are decoded and not told; sent again, they are told."""
    ground = Ground(tmp_path)
    ground.disk.fails, ground.disk.error = {"write", "sync"}, errno.ENOSPC
    ground.feed(*TILE)
    assert ground.durable == []
    assert ground.lost == [item.key for item in TILE]
    check_whole(ground, [0])
    ground.disk.fails = set()
    ground.after(10.0)
    ground.feed(*TILE)
    ground.after(0.2)

    assert set(ground.durable) == {item.key for item in TILE}
    ground.check_accounts()
    again = Ground(tmp_path)
    again.after(DEADLINE_S)
    check_whole(again, [0])


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_no_frame_is_lost_that_was_told(tmp_path: Path, seed: int) -> None:
    """Frames in any order, kills, losses of power, a failing disk, no room, deadlines that pass.

    The board sends again what it was not told of, and nothing else; in the end every cube is the
    one of an undisturbed ground.
    """
    rng = random.Random(seed)
    board = {item.key: item for i in range(4) for item in sent(i, first=10 * i)}
    told = set[Key]()
    ground = Ground(tmp_path)
    while len(told) < len(board):
        untold = [item for key, item in board.items() if key not in told]
        ground.has_room(rng.choice([0, 1, 1 << 30]))
        match rng.randrange(12):
            case 0:
                ground = Ground(tmp_path)
            case 1:
                ground.disk.lose_power()
                ground = Ground(tmp_path)
            case 2:
                ground.disk.fails = {rng.choice(["write", "sync", "create"])}
                ground.disk.error = rng.choice([errno.ENOSPC, errno.EIO])
            case 3:
                ground.disk.fails = set()
                ground.after(10.0)
            case 4:
                ground.after(rng.choice([0.2, DEADLINE_S]))
            case _:
                ground.feed(rng.choice(untold))
        told |= set(ground.durable)
    if rng.randrange(2):
        ground = Ground(tmp_path)
    ground.has_room(1 << 30)
    for _ in range(3):
        ground.after(DEADLINE_S)

    check_whole(ground, range(4))


# ---------------------------------------------------------------- more than can be decoded


def test_what_there_is_no_room_for_is_decoded_later(tmp_path: Path) -> None:
    """It is durable as ever, nothing waits for the decoder, and in the end the cube is the same."""
    ground = Ground(tmp_path)
    ground.has_room(0)
    ground.feed(*TILE)
    ground.after(0.2)
    assert ground.durable == [item.key for item in TILE]
    assert ground.total("patches_decoded_total") == 0
    assert ground.metrics.totals()["prismlink_frames_deferred"] == len(TILE)

    ground.has_room(1 << 30)
    ground.after(0.1)
    ground.end()
    check_whole(ground, [0])
    ground.check_accounts()
    assert ground.metrics.totals()["prismlink_frames_deferred"] == 0


def test_frames_stay_in_the_order_they_came(tmp_path: Path) -> None:
    """One that comes when there is room again does not overtake: its side frame may still wait."""
    ground = Ground(tmp_path)
    passed = list[Key]()
    for at, (room, item) in enumerate(zip((0, 1, 1, 9), TILE, strict=True)):
        ground.has_room(room)
        passed += [frame.key for frame in ground.keep.accept(item)]
        assert len(passed) == (0, 1, 2, 4)[at]
    assert passed == [item.key for item in TILE]


def test_no_more_is_read_back_than_there_is_room_for(tmp_path: Path) -> None:
    """What an earlier process left, too: the thread that keeps frames is never held up."""
    Ground(tmp_path).feed(TILE[0])
    again = Ground(tmp_path)
    again.has_room(0)
    again.feed(*TILE[1:])
    assert list(again.keep.tick()) == []
    for expected in TILE:
        again.has_room(1)
        assert [frame.key for frame in again.keep.tick()] == [expected.key]
    assert list(again.keep.tick()) == []


def test_a_ground_that_is_killed_loses_nothing_that_was_put_off(tmp_path: Path) -> None:
    """The next one finds it in the archive."""
    ground = Ground(tmp_path)
    ground.has_room(0)
    ground.feed(*TILE)
    again = Ground(tmp_path)
    again.after(0.1)
    check_whole(again, [0])


def test_where_the_disk_fails_frames_wait_as_without_one(tmp_path: Path) -> None:
    """What is on no disk cannot be read back: it goes on."""
    ground = Ground(tmp_path)
    ground.feed(TILE[0])
    ground.disk.fails = {"write"}
    ground.has_room(0)
    ground.feed(*TILE[1:])
    ground.end()
    check_whole(ground, [0])
