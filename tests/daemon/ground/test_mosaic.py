"""Patches become tiles: whole at once, or with marked holes when time or room is up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import TileError
from codec.frame import SideFrame, parse
from codec.tile import Tile
from daemon.ground.items import PatchRecord, RestoredTile, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.ground.mosaic import MosaicWorker
from daemon.link.reassembly import PacketCount
from daemon.metrics import new_registry
from fakes import cubes
from fakes.clock import FakeClock
from fakes.ground import collected, decoder, frames, parts_of

DEADLINE_S = 30.0
TILE = cubes.tile(bands=2, rows=260, cols=9)
BYTES = TILE.samples.nbytes
DROPPED_EMPTY = 'dropped_tiles_total{stage="mosaic",reason="empty"}'


class Rig:
    """A worker with its surroundings."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.clock, self.metrics = FakeClock(), GroundMetrics(new_registry())
        self.empty = list[tuple[int, int]]()
        self.worker = MosaicWorker(
            deadline_s=DEADLINE_S,
            max_bytes=max_bytes,
            clock=self.clock,
            metrics=self.metrics,
            on_empty=lambda _, sent_as: self.empty.append(sent_as),
        )

    def feed(self, parts: Iterable[TilePart]) -> list[RestoredTile]:
        """Feed all; return the tiles that came out."""
        return [tile for part in parts for tile in self.worker.accept(part)]

    def after(self, seconds: float) -> list[RestoredTile]:
        """Let time pass; return the tiles whose time was up."""
        self.clock.advance(seconds)
        return list(self.worker.tick())

    def total(self, name: str) -> float:
        """A metric's value."""
        return self.metrics.totals()[f"prismlink_{name}"]


def test_a_tile_is_handed_on_with_its_last_patch() -> None:
    """Whole, at once, equal to what the decoder makes of its frames; nothing is missing."""
    rig, items = Rig(), frames(TILE)
    parts = parts_of(TILE)
    assert rig.feed(parts[:-1]) == []
    (restored,) = rig.feed(parts[-1:])

    expected = decoder().decode(frame.raw for frame in items)
    np.testing.assert_array_equal(restored.tile.samples, expected.samples)
    assert restored.tile.info == TILE.info
    assert restored.missing == ()
    assert rig.after(1e6) == []


def test_each_part_that_a_tile_took_is_told() -> None:
    """Those that no tile took, for they were late, are not."""
    told = list[TilePart]()
    worker = MosaicWorker(
        deadline_s=DEADLINE_S,
        max_bytes=1 << 20,
        clock=FakeClock(),
        metrics=GroundMetrics(new_registry()),
        on_part=told.append,
    )
    parts = parts_of(TILE)
    for part in [*parts, *parts]:
        list(worker.accept(part))
    assert told == parts


def test_a_tile_says_what_it_was_made_of() -> None:
    """Every frame by its id, side information included, and their bytes."""
    parts = parts_of(TILE)
    (restored,) = Rig().feed(parts)

    assert restored.frames == tuple((p.frame.boot_id, p.frame.frame_id) for p in parts)
    assert restored.frame_bytes == sum(part.frame.size_bytes for part in parts)


def test_a_tile_says_how_its_patches_came() -> None:
    """Step and packets of each that is there; what came twice counts as it came first."""
    parts = [
        replace(part, frame=replace(part.frame, packets=PacketCount(segments=n, repaired=0)))
        for n, part in enumerate(parts_of(TILE))
    ]
    rig = Rig()
    assert rig.feed([*parts[:-1], replace(parts[1], frame=parts[0].frame)]) == []
    (restored,) = rig.after(DEADLINE_S)

    assert restored.records == {
        (part.patch.patch_row, part.patch.patch_col): PatchRecord(
            step=32.0, packets=PacketCount(segments=n, repaired=0)
        )
        for n, part in enumerate(parts[:-1])
        if part.patch is not None
    }


@given(st.permutations(range(4)), st.data())
def test_order_and_repeats_do_not_matter(order: list[int], data: st.DataObject) -> None:
    """However its parts come, and as often as they do, the tile comes out once."""
    parts = PARTS
    again = data.draw(st.lists(st.sampled_from(order)))
    rig = Rig()
    tiles = rig.feed(parts[i] for i in [*again, *order, *again])

    assert len(tiles) == 1
    np.testing.assert_array_equal(tiles[0].tile.samples, WHOLE.tile.samples)


PARTS = parts_of(TILE)
(WHOLE,) = Rig().feed(PARTS)


@pytest.mark.parametrize(
    ("dtype", "nodata", "fill"),
    [("int16", None, -32768), ("uint16", 7.0, 7), ("float32", None, np.nan), ("float32", -9.0, -9)],
)
def test_holes_are_marked_and_filled(dtype: str, nodata: float | None, fill: float) -> None:
    """At the deadline the tile goes on as it is: what is missing is listed, and fill."""
    tile = cubes.tile(bands=2, rows=260, cols=9, dtype=dtype, nodata=nodata)
    announced, first, _, third = parts_of(tile)
    rig = Rig()
    rig.feed([announced, third, first])
    assert rig.after(DEADLINE_S - 0.1) == []
    (restored,) = rig.after(0.1)

    assert restored.missing == ((1, 0),)
    assert first.patch is not None
    np.testing.assert_array_equal(restored.tile.samples[:, :128], first.patch.samples)
    hole = restored.tile.samples[:, 128:256]
    np.testing.assert_array_equal(hole, np.full_like(hole, fill))
    assert restored.tile.samples.dtype == tile.samples.dtype


def test_the_deadline_runs_from_the_last_news_of_the_tile() -> None:
    """A tile that trickles in is waited for; time of day has no part in it."""
    rig = Rig()
    for part in PARTS[:3]:
        rig.feed([part])
        rig.clock.jump_utc(1e6)
        assert rig.after(DEADLINE_S - 1) == []
    (restored,) = rig.after(1.0)

    assert restored.missing == ((2, 0),)


def test_a_tile_without_a_patch_waits_for_one() -> None:
    """Side information comes first: at its deadline a tile is told, once, and goes on as ever."""
    rig = Rig()
    rig.feed(PARTS[:1])
    for _ in range(3):
        assert rig.after(DEADLINE_S) == []
    assert rig.empty == [PARTS[0].sent_as]
    (restored,) = rig.feed(PARTS[1:])
    assert (restored.missing, len(restored.frames)) == ((), 4)
    assert list(rig.worker.finish()) == []


def test_a_tile_without_a_patch_is_counted_at_the_end() -> None:
    """Nobody has use for a product of nothing but holes."""
    rig, again = Rig(), parts_of(TILE)
    rig.feed(PARTS[:1])
    rig.feed(again[:1])  # this ends the one before
    assert rig.total(DROPPED_EMPTY) == 1
    assert list(rig.worker.finish()) == []
    assert rig.total(DROPPED_EMPTY) == 2
    assert rig.empty == [PARTS[0].sent_as, again[0].sent_as]


def test_tiles_without_a_patch_wait_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take no room of tiles that have patches; one too many costs the oldest."""
    monkeypatch.setattr("daemon.ground.mosaic._EMPTY_KEPT", 2)
    rig = Rig(max_bytes=BYTES)
    rig.feed(PARTS[:2])
    for sequence in (4, 5, 6):
        other = Tile(samples=TILE.samples, info=replace(TILE.info, sequence=sequence))
        assert rig.feed(parts_of(other)[:1]) == []
    assert rig.total(DROPPED_EMPTY) == 1
    assert len(rig.feed(PARTS[2:])) == 1


def test_the_end_hands_on_what_is_open() -> None:
    """With what is there."""
    rig = Rig()
    rig.feed(PARTS[:2])

    assert [tile.missing for tile in rig.worker.finish()] == [((1, 0), (2, 0))]
    assert list(rig.worker.finish()) == []


def test_a_patch_that_comes_too_late_is_dropped_and_counted() -> None:
    """It does not begin its tile anew: the file on the disk is not replaced by a worse one."""
    rig = Rig()
    rig.feed(PARTS[:2])
    rig.after(DEADLINE_S)

    assert rig.feed([*PARTS[2:], PARTS[0]]) == []
    assert rig.after(DEADLINE_S) == []
    assert rig.total('dropped_patches_total{stage="mosaic",reason="late"}') == 2


def test_a_tile_sent_anew_is_a_tile_anew() -> None:
    """The instrument may show a scene again under the same name: it comes out again."""
    rig = Rig()

    assert len(rig.feed(PARTS)) == 1
    assert len(rig.feed(parts_of(TILE))) == 1


def test_a_tile_sent_anew_ends_the_one_before() -> None:
    """Whatever shape it has now, the parts of the two are not mixed, and none is lost."""
    other = cubes.tile(bands=3, rows=8, cols=8)
    assert other.info.tile_id == TILE.info.tile_id
    rig = Rig()
    rig.feed(PARTS[:2])
    before, after = rig.feed(parts_of(other))

    assert (before.tile.samples.shape, before.missing) == (TILE.samples.shape, ((1, 0), (2, 0)))
    assert (after.tile.samples.shape, after.missing) == ((3, 8, 8), ())


def test_what_is_left_of_a_tile_that_was_sent_anew_does_not_end_the_new_one() -> None:
    """Its patches, and its side information, come too late: they are counted, the new is whole."""
    rig, again = Rig(), parts_of(TILE)
    rig.feed(PARTS[:2])
    (before,) = rig.feed(again[:2])
    (after,) = rig.feed([PARTS[2], again[2], PARTS[0], PARTS[3], again[3]])

    assert (before.missing, after.missing) == (((1, 0), (2, 0)), ())
    assert after.side is again[0].side
    assert rig.total('dropped_patches_total{stage="mosaic",reason="late"}') == 2


def test_side_information_that_was_overtaken_does_not_end_the_tile_sent_anew() -> None:
    """The same boot numbers its frames: the lower number is the older tile."""
    rig, again = Rig(), parts_of(TILE)
    (restored,) = rig.feed([*again[:2], *PARTS, *again[2:]])

    assert (restored.side, restored.missing) == (again[0].side, ())
    assert rig.total('dropped_patches_total{stage="mosaic",reason="late"}') == 3


def test_a_patch_that_a_tile_has_already_is_dropped_and_counted() -> None:
    """Each decoded patch is in a tile or counted as dropped."""
    rig = Rig()
    rig.feed([*PARTS[:2], PARTS[1]])
    again = replace(PARTS[1], patch=replace(PARTS[1].patch))  # type: ignore[type-var]
    (restored,) = rig.feed([again, *PARTS[2:]])

    assert restored.patches == 3
    assert rig.total('dropped_patches_total{stage="mosaic",reason="repeated"}') == 2


def huge() -> TilePart:
    """Side information of a few bytes that claims a tile of 34 TB."""
    side = parse(frames(cubes.tile(bands=2, rows=8, cols=8))[0].raw)
    assert isinstance(side, SideFrame)
    bands = 4096
    claim = replace(side, shape=(bands, 65_536, 65_536), valid_bands=np.ones(bands, dtype=np.bool_))
    frame = collected(claim.pack())
    return TilePart(side=claim, side_frame_id=frame.frame_id, patch=None, frame=frame)


def test_a_hostile_shape_is_refused_before_anything_is_allocated() -> None:
    """Side information is believed only so far: the error says how large, and nothing is kept."""
    rig = Rig()
    with pytest.raises(TileError, match="a tile of 35184372088832 bytes; 1048576 are allowed"):
        rig.feed([huge()])

    assert list(rig.worker.finish()) == []


def test_open_tiles_take_bounded_memory() -> None:
    """Beyond the bound the tile that got nothing for longest goes on with holes."""
    rig = Rig(max_bytes=2 * BYTES)
    tiles = [
        parts_of(Tile(samples=TILE.samples, info=replace(TILE.info, sequence=i))) for i in range(3)
    ]
    rig.feed([*tiles[0][:2], *tiles[1][:2], tiles[0][2]])
    (pushed_out,) = rig.feed(tiles[2][:2])

    assert pushed_out.tile.info.sequence == 1
    assert pushed_out.missing == ((1, 0), (2, 0))
    assert len(rig.feed(tiles[0][3:])) == 1
    assert rig.feed(tiles[1][:1]) == []


def test_finished_tiles_are_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many; a patch of one that is forgotten begins it anew."""
    monkeypatch.setattr("daemon.ground.mosaic._DONE_KEPT", 1)
    rig = Rig()
    rig.feed(PARTS)
    rig.feed(parts_of(cubes.tile(bands=2, rows=8, cols=8, sequence=9)))
    rig.feed(PARTS[1:2])

    assert len(rig.after(DEADLINE_S)) == 1


def test_a_tile_sent_anew_is_remembered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its last end on, not from its first."""
    monkeypatch.setattr("daemon.ground.mosaic._DONE_KEPT", 2)
    rig, again = Rig(), parts_of(TILE)
    rig.feed(PARTS)
    rig.feed(parts_of(cubes.tile(bands=2, rows=8, cols=8, sequence=9)))
    rig.feed(again)
    rig.feed(parts_of(cubes.tile(bands=2, rows=8, cols=8, sequence=8)))
    rig.feed(again[1:2])

    assert rig.after(DEADLINE_S) == []


def test_a_finished_tile_is_begun_anew_from_the_archive() -> None:
    """By its side information alone: then all of its patches follow."""
    rig = Rig()
    rig.feed(PARTS[:2])
    rig.after(DEADLINE_S)
    again = [replace(part, frame=replace(part.frame, replayed=True)) for part in PARTS]  # type: ignore[type-var]
    assert rig.feed(again[1:]) == []
    (restored,) = rig.feed(again)

    assert (restored.missing, restored.sent_as) == ((), PARTS[0].sent_as)
    assert rig.feed(again[1:]) == []
