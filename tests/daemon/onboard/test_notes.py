"""Notes wait for the link, oldest first, and give way to newer ones."""

from __future__ import annotations

import math

import pytest

from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.notes import MAX_NOTES, NoteQueue


def queue() -> tuple[NoteQueue, FlightMetrics]:
    """An empty one."""
    metrics = FlightMetrics(new_registry())
    return NoteQueue(metrics), metrics


def put(target: NoteQueue, row: int) -> None:
    """A note that is told from others by its row."""
    target.put(bytes(8), row, 1, 40.0, 2.0)


def test_notes_leave_in_order_and_once() -> None:
    """One that the link did not take is the next again."""
    target, _ = queue()
    put(target, 1)
    put(target, 2)
    first = target.take()
    assert first is not None
    assert (first.tile_id, first.row, first.col, *first.measured) == (bytes(8), 1, 1, 40.0, 2.0)
    target.give_back(first)
    assert [target.take(), getattr(target.take(), "row", None)] == [first, 2]
    assert target.take() is None


def test_the_newest_are_kept_and_the_others_counted() -> None:
    """While no pass is open memory stays within bounds, also when one is given back."""
    target, metrics = queue()
    put(target, 0)
    first = target.take()
    assert first is not None
    for row in range(1, MAX_NOTES + 3):
        put(target, row)
    target.give_back(first)
    rows = [note.row for note in iter(target.take, None)]
    assert rows == list(range(3, MAX_NOTES + 3))
    assert metrics.totals()["prismlink_quality_notes_dropped_total"] == 3


@pytest.mark.parametrize(
    ("psnr_db", "error"), [(math.nan, 1.0), (math.inf, 1.0), (40.0, math.nan), (40.0, 1e39)]
)
def test_what_no_note_can_say_is_not_told(psnr_db: float, error: float) -> None:
    """A 32-bit float holds no more, and the check goes on."""
    target, _ = queue()
    target.put(bytes(8), 0, 0, psnr_db, error)
    assert target.take() is None
