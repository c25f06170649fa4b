"""What the board measured is kept by tile and patch: the newest, and so many."""

from __future__ import annotations

from daemon.ground.notes import MAX_NOTES, QualityNotes
from daemon.link.quality_note import Measured, QualityNote


def note(tile: int, row: int, psnr_db: float = 40.0) -> QualityNote:
    """Of a patch in the first column."""
    tile_id = tile.to_bytes(8, "big")
    return QualityNote(tile_id=tile_id, row=row, col=0, psnr_db=psnr_db, max_abs_error=2.0)


def test_notes_are_found_by_tile_and_news_are_told_once() -> None:
    """A newer note of a patch takes the place of the one before."""
    notes = QualityNotes()
    for one in (note(1, 0), note(2, 0), note(1, 1), note(1, 0, 41.0)):
        notes.put(one)
    assert notes.of(note(1, 0).tile_id) == {
        (0, 0): Measured(41.0, 2.0),
        (1, 0): Measured(40.0, 2.0),
    }
    assert notes.of(bytes(8)) == {}
    assert notes.news() == {note(1, 0).tile_id, note(2, 0).tile_id}
    assert notes.news() == set()


def test_the_newest_are_kept() -> None:
    """Whoever sends notes for ever fills no memory."""
    notes = QualityNotes()
    for tile in range(MAX_NOTES + 2):
        notes.put(note(tile, 0))
    assert [len(notes.of(note(tile, 0).tile_id)) for tile in range(4)] == [0, 0, 1, 1]
    assert len(notes.news()) == MAX_NOTES


def test_news_outlive_a_tiles_oldest_note() -> None:
    """What came since is told, although a note of the same tile had to go."""
    notes = QualityNotes()
    notes.put(note(0, 0))
    notes.put(note(0, 1))
    for tile in range(1, MAX_NOTES):
        notes.put(note(tile, 0))
    assert note(0, 0).tile_id in notes.news()
    assert set(notes.of(note(0, 0).tile_id)) == {(1, 0)}
