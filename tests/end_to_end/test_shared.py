"""Several processes behind one instrument: every tile is taken by one of them, and comes down."""

from __future__ import annotations

from pathlib import Path

from fakes.processes import DEPLOY, Desk, Process

TILES = 24


def shared(desk: Desk, bundle: Path, apid: int) -> Process:
    """Start a board's process as deploy/flight-shared.yaml says."""
    settings = (
        f"model.bundle={bundle}",
        f"instrument.address={desk.tiles}",
        f"link.address={desk.link}",
        f"link.apid={apid}",
        "metrics.port=0",
        "log.json=true",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    return desk.start(
        f"flight-{apid}", "flight", "run", DEPLOY / "flight-shared.yaml", *words
    ).until_ready()


def test_two_share_an_instrument(desk: Desk, small_bundle: Path, aviris: Path) -> None:
    """Both have work, nothing is lost or counted as lost, and the ground has every tile."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flights = [shared(desk, small_bundle, apid) for apid in (100, 101)]

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
