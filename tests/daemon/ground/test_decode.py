"""Frames become parts of tiles, whichever comes first; what cannot be decoded is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codec.errors import (
    BitstreamError,
    ChecksumError,
    CodecError,
    FrameFieldError,
    WrongModelError,
)
from codec.frame import PatchFrame, SideFrame, parse
from codec.tile import Tile
from daemon.ground.decode import DecodeWorker
from daemon.ground.items import CollectedFrame, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel
from daemon.metrics import new_registry
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.clock import FakeClock
from fakes.ground import collected, decoder, frames

MAX_AGE_S = 30.0
TILE = cubes.tile(bands=3, rows=130, cols=8)
FAILED = "prismlink_patches_failed_total"


class Rig:
    """A worker with its surroundings."""

    def __init__(self, max_parked_bytes: int = 1 << 20, threads: int = 1) -> None:
        self.clock, self.metrics = FakeClock(), GroundMetrics(new_registry())
        self.worker = DecodeWorker(
            {klt_bundle().model: decoder()},
            threads=threads,
            max_parked_bytes=max_parked_bytes,
            max_age_s=MAX_AGE_S,
            clock=self.clock,
            metrics=self.metrics,
        )

    def feed(self, *items: CollectedFrame) -> list[TilePart]:
        """Feed all; return what came out."""
        return [part for item in items for part in self.worker.accept(item)]

    def failed(self) -> dict[str, float]:
        """Patches that failed after they had to wait, by reason."""
        return {
            key.split('"')[1]: value
            for key, value in self.metrics.totals().items()
            if key.startswith(FAILED) and value
        }

    def waiting(self) -> float:
        """Patches that wait, as the metrics have it."""
        return self.metrics.totals()["prismlink_patches_waiting"]


def of_other_model(tile: Tile) -> list[CollectedFrame]:
    """Frames that no bundle at hand decodes."""
    return frames(tile, klt_bundle(step=31.0))


def test_side_information_first_then_patches() -> None:
    """The tile is announced, then every patch comes decoded, with the frame it came in."""
    rig, items = Rig(), frames(TILE)
    announced, *parts = rig.feed(*items)

    assert announced.patch is None
    assert [(p.patch.patch_row, p.patch.patch_col) for p in parts if p.patch] == [(0, 0), (1, 0)]
    assert [part.frame for part in (announced, *parts)] == items
    assert {id(part.side) for part in parts} == {id(announced.side)}
    assert rig.metrics.totals()["prismlink_patches_decoded_total"] == 2


def test_a_patch_that_is_decoded_again_is_counted_once() -> None:
    """The page tells how many there are; of a tile that is completed all are decoded again."""
    rig = Rig()
    for item in frames(TILE) * 2:
        rig.feed(replace(item, replayed=True))  # type: ignore[type-var]
    totals = rig.metrics.totals()
    assert totals["prismlink_patches_decoded_total"] == 4
    assert totals["prismlink_patches_decoded_once_total"] == 2


def test_patches_wait_for_their_side_information() -> None:
    """Nothing comes out before; then the tile first, and what waited in the order it came."""
    rig, (side, first, second) = Rig(), frames(TILE)
    assert rig.feed(second, first) == []
    assert rig.waiting() == 2
    announced, *parts = rig.feed(side)

    assert announced.patch is None
    assert [part.frame for part in parts] == [second, first]
    assert rig.waiting() == 0
    rig.worker.finish()
    assert rig.failed() == {}


COARSE, FINE = 256.0, 8.0


def patches_of(parts: list[TilePart], side: CollectedFrame) -> list[TilePart]:
    """Parts that are patches; checks that each is what this side information makes of it."""
    patches = [part for part in parts if part.patch is not None]
    for part in patches:
        frame, patch = parse(side.raw), parse(part.frame.raw)
        assert isinstance(frame, SideFrame)
        assert isinstance(patch, PatchFrame)
        expected = decoder().decode_patch(frame, patch)
        assert part.patch is not None
        np.testing.assert_array_equal(part.patch.samples, expected.samples)
        assert part.sent_as == (side.boot_id, side.frame_id)
    return patches


def test_after_a_restart_a_patch_waits_for_side_information_of_its_boot() -> None:
    """The one before the restart has another step: decoded with it, pixels are silently wrong."""
    rig, old, new = Rig(), frames(TILE, step=COARSE, boot_id=1), frames(TILE, step=FINE, boot_id=2)
    rig.feed(*old[:2])

    assert rig.feed(new[1]) == []
    assert rig.waiting() == 1
    assert len(patches_of(rig.feed(old[2]), old[0])) == 1
    assert len(patches_of(rig.feed(new[0], new[2]), new[0])) == 2


def test_a_boot_whose_frames_have_lower_numbers_is_no_older() -> None:
    """Every boot counts its frames from 0: numbers of two are never compared."""
    rig, new, old = Rig(), frames(TILE, step=FINE, boot_id=2), frames(TILE, step=COARSE, boot_id=1)
    rig.feed(*old)

    assert rig.feed(new[2]) == []
    assert len(patches_of(rig.feed(new[0], new[1]), new[0])) == 2


def test_patches_of_before_a_restart_keep_their_side_information() -> None:
    """They may arrive after the new boot's: the old one is still theirs."""
    rig, old, new = Rig(), frames(TILE, step=COARSE, boot_id=1), frames(TILE, step=FINE, boot_id=2)
    rig.feed(old[0], new[0])

    assert len(patches_of(rig.feed(old[1], old[2]), old[0])) == 2
    assert len(patches_of(rig.feed(new[1], new[2]), new[0])) == 2


def test_what_waits_for_one_boot_is_not_freed_by_another() -> None:
    """Of a board whose side information is lost nothing is decoded, and it is counted."""
    rig, old, new = Rig(), frames(TILE, step=COARSE, boot_id=1), frames(TILE, step=FINE, boot_id=2)

    assert patches_of(rig.feed(*old[1:], new[0]), new[0]) == []
    rig.worker.finish()
    assert (rig.failed(), rig.waiting()) == ({"no_side": 2}, 0)


def test_a_tile_sent_anew_leaves_late_patches_to_the_one_before() -> None:
    """Within a boot a patch belongs to the last side frame with a lower number, in any order."""
    rig, once, again = Rig(), frames(TILE, step=COARSE), frames(TILE, step=FINE)
    rig.feed(once[0], again[0])
    assert len(patches_of(rig.feed(*once[1:]), once[0])) == 2
    assert len(patches_of(rig.feed(*again[1:]), again[0])) == 2

    rig = Rig()
    assert patches_of(rig.feed(again[0], *once[1:]), again[0]) == []
    assert len(patches_of(rig.feed(once[0]), once[0])) == 2


def test_side_information_of_another_tile_frees_nobody() -> None:
    """Patches wait for their own."""
    rig, (_, patch, _) = Rig(), frames(TILE)
    (other, *_) = frames(cubes.tile(bands=3, rows=8, cols=8, sequence=1))

    assert len(rig.feed(patch, other)) == 1


def test_patches_whose_side_information_is_lost_are_counted() -> None:
    """After the deadline, each under no_side, and not before."""
    rig, (_, first, second) = Rig(), frames(TILE)
    rig.feed(first)
    rig.clock.advance(MAX_AGE_S - 1)
    rig.feed(second)
    rig.worker.tick()
    assert rig.failed() == {}
    rig.clock.advance(1)
    rig.worker.tick()
    assert rig.failed() == {"no_side": 1}
    rig.worker.finish()
    assert rig.failed() == {"no_side": 2}


def test_waiting_patches_take_bounded_memory() -> None:
    """Beyond the bound the oldest is given up, counted."""
    side, first, second = frames(TILE)
    rig = Rig(max_parked_bytes=first.size_bytes + second.size_bytes - 1)
    rig.feed(first, second)

    assert (rig.failed(), rig.waiting()) == ({"no_side": 1}, 1)
    assert rig.feed(side)[1].frame == second


def test_patches_that_found_their_side_information_take_no_more_room() -> None:
    """What has been decoded does not count against those that still wait."""
    side, first, second = frames(TILE)
    rig = Rig(max_parked_bytes=first.size_bytes + second.size_bytes)
    for _ in range(3):
        assert len(rig.feed(first, second, side)) == 3
        rig.worker._sides.clear()

    assert rig.failed() == {}


@pytest.mark.parametrize("kind", [0, 1])
def test_frames_of_an_unknown_model_are_refused_at_once(kind: int) -> None:
    """Side information and patches alike; the error names the model, and nothing waits."""
    rig, frame = Rig(), of_other_model(TILE)[kind]
    with pytest.raises(WrongModelError, match=klt_bundle(step=31.0).name):
        rig.feed(frame)

    rig.worker.finish()
    assert rig.failed() == {}


@pytest.mark.parametrize("kind", [0, 1])
def test_a_frame_on_the_wrong_channel_is_refused(kind: int) -> None:
    """It was counted as complete on that channel, and the accounts of patches are by channel."""
    frame = frames(TILE)[kind]
    wrong = replace(frame, channel=Channel(1 - frame.channel))
    with pytest.raises(FrameFieldError, match=f"on channel {wrong.channel.name}"):
        Rig().feed(wrong)


def broken(frame: CollectedFrame) -> CollectedFrame:
    """A patch frame that parses, and whose payload does not decode."""
    patch = parse(frame.raw)
    assert isinstance(patch, PatchFrame)
    return replace(frame, raw=replace(patch, payload=b"\xff" * 3).pack())


def test_a_patch_that_does_not_decode_is_an_error() -> None:
    """Its neighbors decode; the error is the stage's to log and, once, to count."""
    rig, (side, first, second) = Rig(), frames(TILE)
    rig.feed(side)
    with pytest.raises(CodecError):
        rig.feed(broken(first))

    assert rig.failed() == {}
    assert len(rig.feed(second)) == 1


def test_a_waiting_patch_that_does_not_decode_costs_no_other() -> None:
    """The tile is announced and the sound patches come out; the broken one is counted."""
    rig, (side, first, second) = Rig(), frames(TILE)
    rig.feed(broken(first), second)
    parts = rig.feed(side)

    assert [part.frame for part in parts] == [side, second]
    assert rig.failed() == {"payload": 1}


def test_bytes_that_are_no_frame_are_an_error() -> None:
    """A frame that repair put together wrongly is told by its own checksum."""
    rig, (side, *_) = Rig(), frames(TILE)
    with pytest.raises(ChecksumError):
        rig.feed(collected(side.raw[:-1] + bytes([side.raw[-1] ^ 1])))
    with pytest.raises(BitstreamError):
        rig.feed(collected(b"?"))


def test_side_information_that_does_not_decode_is_refused_at_once() -> None:
    """Not patch by patch: nothing is kept of it, and its tile is not announced."""
    rig, (side, *_) = Rig(), frames(TILE)
    frame = parse(side.raw)
    assert isinstance(frame, SideFrame)
    with pytest.raises(CodecError):
        rig.feed(collected(replace(frame, payload=b"\xff\xff").pack()))

    assert rig.feed(*frames(TILE)[1:]) == []


def test_side_information_that_comes_again_changes_nothing() -> None:
    """Under the id it came with before, it is the same: the tile goes on."""
    rig, (side, first, second) = Rig(), frames(TILE)
    parts = rig.feed(side, first, side, second)

    assert len({id(part.side) for part in parts}) == 1


def test_a_tile_sent_anew_has_side_information_of_its_own() -> None:
    """Under another id the same tile is sent anew, perhaps with another step."""
    rig = Rig()
    once, again = rig.feed(*frames(TILE)), rig.feed(*frames(TILE))

    assert once[0].side is not again[0].side
    assert {id(part.side) for part in again} == {id(again[0].side)}


def test_side_information_is_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tile not heard of for longest it is forgotten: its patches then wait in vain."""
    monkeypatch.setattr("daemon.ground.decode._SIDES_KEPT", 2)
    rig = Rig()
    tiles = [frames(cubes.tile(bands=3, rows=8, cols=8, sequence=i)) for i in range(3)]
    rig.feed(*(items[0] for items in tiles))

    assert [len(rig.feed(items[1])) for items in tiles] == [0, 1, 1]
    rig.feed(tiles[1][0], tiles[0][0])
    assert [len(rig.feed(items[1])) for items in tiles] == [1, 1, 0]


def test_tiles_of_which_nothing_came_are_counted() -> None:
    """The instrument numbers its tiles: a hole in the numbers is a tile, until it comes late."""
    rig = Rig()
    for sequence in (3, 6):
        rig.feed(*frames(cubes.tile(bands=3, rows=8, cols=8, sequence=sequence)))
    assert rig.metrics.totals()["prismlink_tiles_missing"] == 2
    rig.feed(*frames(cubes.tile(bands=3, rows=8, cols=8, sequence=4)))
    assert rig.metrics.totals()["prismlink_tiles_missing"] == 1


@pytest.mark.parametrize("sequence", [2**63, 0, 1])
def test_a_leap_or_a_restart_of_the_instrument_is_no_loss(sequence: int) -> None:
    """One number out of line does not spoil the count, and after it holes count as ever."""
    rig = Rig()
    for number in (100, 101, sequence, sequence + 2):
        rig.feed(*frames(cubes.tile(bands=3, rows=8, cols=8, sequence=number)))

    assert rig.metrics.totals()["prismlink_tiles_missing"] == 1


def test_side_information_that_comes_again_is_no_restart_of_the_instrument() -> None:
    """The same frame of tile 0, given twice, is one tile."""
    rig = Rig()
    tiles = [frames(cubes.tile(bands=3, rows=8, cols=8, sequence=n)) for n in (0, 1, 2)]
    rig.feed(tiles[0][0], tiles[1][0], tiles[0][0], tiles[2][0])

    assert rig.metrics.totals()["prismlink_tiles_missing"] == 0


def positions(parts: list[TilePart]) -> list[tuple[int, int]]:
    """Where in the tile's grid patches are, in their order."""
    return [(part.patch.patch_row, part.patch.patch_col) for part in parts if part.patch]


def test_on_threads_patches_keep_their_order() -> None:
    """All but one thread may still be at work when a call returns; the rest comes at the end."""
    rig, items = Rig(threads=3), frames(cubes.tile(bands=3, rows=130, cols=300))
    parts = rig.feed(*items)
    assert len(parts) == len(items) - 2
    parts += rig.worker.finish()

    assert [part.frame for part in parts] == items
    assert positions(parts) == [(row, col) for row in range(2) for col in range(3)]
    assert rig.metrics.totals()["prismlink_patches_decoded_total"] == 6


def test_on_threads_a_decoded_patch_waits_no_longer_than_a_tick() -> None:
    """The last one of a pass is not kept until the next begins."""
    rig, items = Rig(threads=2), frames(TILE)
    parts = rig.feed(*items)
    last = rig.worker._begun[-1].part
    last.result()

    assert positions(rig.worker.tick()) == [(1, 0)]
    assert len(parts) == 2


def test_on_threads_a_patch_that_does_not_decode_costs_no_other() -> None:
    """It is counted where it is found, which may be when another is in hand."""
    rig, (side, first, second) = Rig(threads=2), frames(TILE)
    parts = [*rig.feed(side, broken(first), second), *rig.worker.finish()]

    assert [part.frame for part in parts] == [side, second]
    assert rig.failed() == {"payload": 1}


def test_on_threads_a_bug_is_counted_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a decoder raises, no patch is lost without a counter, and it is told as a bug."""
    rig, items = Rig(threads=2), frames(TILE)

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("codec.decoder.Decoder.decode_patch", fail)
    parts = [*rig.feed(*items), *rig.worker.finish()]

    assert [part.frame for part in parts] == items[:1]
    assert rig.failed() == {"internal_error": 2}
    bugs = 'prismlink_stage_errors_total{stage="decode",reason="internal_error"}'
    assert rig.metrics.totals()[bugs] == 2
    assert "MemoryError: no room" in caplog.text
    caplog.clear()  # the records hold on to frames, and these to threads


def test_patches_given_up_are_told() -> None:
    """Whoever keeps them knows that they are not under way any more."""
    given_up = list[CollectedFrame]()
    worker = DecodeWorker(
        {klt_bundle().model: decoder()}, threads=1, max_parked_bytes=1 << 20, max_age_s=MAX_AGE_S,
        clock=FakeClock(), metrics=GroundMetrics(new_registry()), on_give_up=given_up.append,
    )  # fmt: skip
    _, *patches = frames(TILE)
    for patch in patches:
        list(worker.accept(patch))
    worker.finish()

    assert given_up == patches


def test_what_is_read_from_the_archive_shows_no_tile_to_be_missing() -> None:
    """Tiles between the ones that are decoded again were written long ago."""
    rig = Rig()
    for sequence in (3, 90):
        side, *_ = frames(cubes.tile(bands=2, rows=8, cols=8, sequence=sequence))
        rig.feed(replace(side, replayed=True))  # type: ignore[type-var]

    assert rig.metrics.totals()["prismlink_tiles_missing"] == 0
