"""Several processes behind one instrument: every tile is taken by one of them, and comes down."""

from __future__ import annotations

from pathlib import Path

from fakes.processes import Desk

TILES = 24


def test_two_share_an_instrument(desk: Desk, small_bundle: Path, aviris: Path) -> None:
    """Both have work, nothing is lost or counted as lost, and the ground has every tile."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flights = [
        desk.flight(small_bundle, f"link.apid={apid}", file="flight-shared.yaml").until_ready()
        for apid in (100, 110)
    ]

    fed = desk.feed(
        aviris, "--bind", "--pattern", "pull", "--rate", 0.1, "--repeat", TILES
    ).report()
    assert (fed["tiles"], fed["refused"]) == (TILES, 0)
    ground.until_metrics(lambda n: n.total("tiles_written_total") == TILES, "all tiles")

    flown = [flight.stop() for flight in flights]
    for numbers in flown:
        assert numbers.total("tiles_received_total") > 0
        assert numbers.total("tile_sequence_gaps_total") == 0
        assert numbers.total("dropped_patches_total") == 0
    landed = ground.stop()
    assert sum(numbers.total("tiles_received_total") for numbers in flown) == TILES
    assert landed.total("tiles_written_total", state="complete") == TILES
    assert [one["sequence"] for one in desk.manifests()] == list(range(TILES))
