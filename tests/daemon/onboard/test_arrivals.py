"""What came first is known by its sequence, however often sequences were used up."""

from __future__ import annotations

from daemon.onboard.arrivals import Arrivals


def test_what_was_found_came_before_all_else() -> None:
    """In the order of its sequences; the first that comes is written above it."""
    arrivals = Arrivals()
    arrivals.begin(100, newest=99)

    assert [*arrivals.come(2), *arrivals.come(1)] == [0, 1, 2]
    assert arrivals.sequence_of(0) == 100
    assert [arrivals.order_of(sequence) for sequence in (98, 99, 100, 102)] == [-2, -1, 0, 2]


def test_places_stay_when_sequences_are_used_up() -> None:
    """What was written before keeps its place, and so does what is written later than it came."""
    arrivals = Arrivals()
    arrivals.begin(0, newest=-1)
    arrivals.come(3)
    written = arrivals.sequence_of(0)
    arrivals.begin(3, newest=written)  # a failure has used two more

    assert arrivals.sequence_of(1) > 2
    assert [arrivals.order_of(n) for n in (written, *map(arrivals.sequence_of, (1, 2)))] == [
        *(0, 1, 2)
    ]


def test_a_disk_that_fails_for_years_fills_no_memory() -> None:
    """Bases of which there is no record are forgotten, but for that of what was found."""
    arrivals = Arrivals()
    arrivals.begin(10, newest=9)
    for failure in range(1, 1000):
        arrivals.come(1)
        arrivals.begin(10 + failure, newest=9)

    assert arrivals.order_of(9) == -1
    assert len(arrivals._bases) == 2
