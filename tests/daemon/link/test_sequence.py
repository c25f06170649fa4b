"""Rules of `daemon.link.sequence`."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.link.sequence import (
    MAX_SENSORS,
    MAX_TILE_GAP,
    Arrival,
    SequenceCounts,
    SequenceTracker,
    TileSequences,
)


def note_all(tracker: SequenceTracker, counters: list[int], boot_id: int = 1) -> list[Arrival]:
    """Tell the tracker of counters in this order."""
    return [tracker.note(boot_id, counter) for counter in counters]


def test_nothing_is_missing_of_a_whole_sequence() -> None:
    """A link without faults is counted as one."""
    tracker = SequenceTracker()

    assert set(note_all(tracker, list(range(100)))) == {Arrival.NEW}
    assert tracker.counts == SequenceCounts(received=100)


def test_late_and_repeated_packets_are_told_apart() -> None:
    """A late packet is missing no more; a repeat changes nothing but its own count."""
    tracker = SequenceTracker()

    arrivals = note_all(tracker, [0, 3, 1, 1, 3])

    assert arrivals == [Arrival.NEW, Arrival.NEW, Arrival.LATE, Arrival.DUPLICATE,
                        Arrival.DUPLICATE]  # fmt: skip
    assert tracker.counts == SequenceCounts(received=3, duplicate=2, late=1, missing=1)


def test_what_came_before_the_first_is_missing_before_start() -> None:
    """A ground that starts later than the board says how much it did not hear."""
    tracker = SequenceTracker()
    note_all(tracker, [10, 12, 9])

    assert tracker.counts == SequenceCounts(
        received=3, late=1, missing=1, missing_before_start=9
    )  # fmt: skip


def test_boots_are_counted_apart() -> None:
    """A restarted board begins at 0 again, and that is no repeat."""
    tracker = SequenceTracker()
    note_all(tracker, [0, 1, 2], boot_id=1)

    assert note_all(tracker, [0, 2], boot_id=2) == [Arrival.NEW, Arrival.NEW]
    assert tracker.counts == SequenceCounts(received=5, missing=1)


def test_a_packet_older_than_the_window_stays_unknown() -> None:
    """What cannot be told late from repeated is neither, and what is missing stays missing."""
    tracker = SequenceTracker(window=8)
    note_all(tracker, [0, 8])

    assert tracker.note(1, 0) is Arrival.STALE
    assert tracker.note(1, 1) is Arrival.LATE
    assert tracker.counts == SequenceCounts(received=3, late=1, stale=1, missing=6)


def test_a_forgotten_boot_stays_in_the_totals() -> None:
    """Boots are followed in bounded number; what they counted is not lost."""
    tracker = SequenceTracker(max_boots=2)
    for boot_id in range(5):
        note_all(tracker, [0, 2], boot_id=boot_id)

    assert tracker.counts == SequenceCounts(received=10, missing=5)


@pytest.mark.parametrize("counter", [2**40, 2**64 - 1])
def test_a_jump_of_any_size_takes_no_memory(counter: int) -> None:
    """A hostile counter costs no more than the window."""
    tracker = SequenceTracker()
    tracker.note(1, 0)
    tracemalloc.start()
    try:
        tracker.note(1, counter)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert tracker.counts.missing == counter - 1


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80))
def test_the_counts_are_those_of_sets(counters: list[int]) -> None:
    """Within the window the counts are exactly those of the set of what came."""
    tracker = SequenceTracker(window=64)
    note_all(tracker, counters)
    first, highest, came = counters[0], max(counters), set(counters)
    counts = tracker.counts

    assert counts.received == len(came)
    assert counts.duplicate == len(counters) - len(came)
    assert counts.missing == len(set(range(first, highest + 1)) - came)
    assert counts.missing_before_start == len(set(range(first)) - came)


def missing_tiles(sequences: list[int], *, reorder: int) -> int:
    """Tiles of one instrument that its numbers show to be missing."""
    target = TileSequences(reorder=reorder)
    for sequence in sequences:
        target.note("", sequence)
    return target.missing


@pytest.mark.parametrize("reorder", [0, 64])
@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ([0, 1, 2], 0),
        ([5, 6], 0),
        ([0, 1, 5, 6], 3),
        ([3, 3], 0),
        ([0, 1, 4, 0, 1, 2], 2),
        ([900, 902, 7, 9], 2),
        ([0, 2**63, 1, 3], 1),
        ([0, MAX_TILE_GAP + 1], MAX_TILE_GAP),
        ([0, MAX_TILE_GAP + 2, MAX_TILE_GAP + 4], 1),
    ],
)
def test_a_count_of_tiles_that_leaps_or_falls_begins_anew(
    sequences: list[int], missing: int, reorder: int
) -> None:
    """Holes stay counted; a flipped bit and an instrument that restarts are none."""
    assert missing_tiles(sequences, reorder=reorder) == missing


@pytest.mark.parametrize(
    ("sequences", "missing"), [([1, 0, 2], 0), ([3, 6, 4], 1), ([0, 70, 6, 71], 68)]
)
def test_a_tile_the_link_delayed_is_missing_no_more(sequences: list[int], missing: int) -> None:
    """Within what a link reorders a lower number is a late tile, not another count."""
    assert missing_tiles(sequences, reorder=64) == missing


def test_instruments_number_their_tiles_apart() -> None:
    """Two of them, interleaved, have no gaps but their own; each is told when it shows."""
    target = TileSequences(reorder=0)
    gaps = [target.note(*tile) for n in range(100) for tile in (("a", n), ("b", 5000 + 2 * n))]

    assert gaps == [0, 0] + [0, 1] * 99
    assert target.missing == 99


def test_instruments_are_followed_in_bounded_number() -> None:
    """Of one that is forgotten the holes stay counted; heard again, it begins anew."""
    target = TileSequences(reorder=0)
    for n in range(3 * MAX_SENSORS):
        target.note(f"{n}", 0)
        target.note(f"{n}", 2)
    target.note("0", 9)

    assert len(target._runs) == MAX_SENSORS
    assert target.missing == 3 * MAX_SENSORS
