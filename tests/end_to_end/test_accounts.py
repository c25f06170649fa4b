"""Nothing is lost unseen: what was fed is decoded, or counted where it was dropped."""

from __future__ import annotations

from pathlib import Path

from fakes.accounts import check_flight, check_ground
from fakes.processes import Desk, Numbers, Process

PATIENT = ("mailboxes.tiles.max_items=1000", "batch.max_patches=3", "shutdown_deadline_s=110")
"""A long queue, batches that fill, and time for all on a machine that is busy with other things."""


def land(flight: Numbers, ground: Process) -> Numbers:
    """End the ground's process once it has all that was sent."""
    sent = flight.total("packets_total")
    ground.until_metrics(lambda n: n.total("packets_received_total") == sent, "all packets")
    return ground.stop()


def test_two_hundred_tiles_at_twice_the_rate(desk: Desk, small_bundle: Path, enmap: Path) -> None:
    """At twice EnMAP's rate, fed = received + refused and received = encoded + dropped."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(small_bundle).until_ready()

    fed = desk.feed(enmap, "--rate", 2, "--repeat", 200).report()
    flight.until_metrics(lambda n: n.total("tiles_received_total") == fed["tiles"], "all tiles")
    flown = flight.stop()
    landed = land(flown, ground)

    assert fed["tiles"] + fed["refused"] == 200
    assert flown.total("tile_sequence_gaps_total") <= fed["refused"]
    assert flown.total("patches_received_total") == fed["patches"]
    check_flight(flown)
    check_ground(landed, flown)


def test_what_does_not_fit_is_dropped_and_counted(
    desk: Desk, small_bundle: Path, aviris: Path
) -> None:
    """A full mailbox drops tiles with a reason, and the sums still hold."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(small_bundle, "mailboxes.tiles.max_items=1").until_ready()

    fed = desk.feed(aviris, "--rate", 0, "--repeat", 100).report()
    flight.until_metrics(lambda n: n.total("tiles_received_total") == fed["tiles"], "all tiles")
    flown = flight.stop()
    landed = land(flown, ground)

    dropped = flown.total("dropped_patches_total", stage="patches", reason="full_items")
    assert dropped > 0
    assert dropped == flown.total("dropped_patches_total") == flown.total("dropped_tiles_total")
    check_flight(flown)
    check_ground(landed, flown)


def test_an_instrument_that_pushes_waits(desk: Desk, small_bundle: Path, aviris: Path) -> None:
    """With PULL and a mailbox that blocks, the instrument feels a slow board; nothing drops."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(
        small_bundle,
        "instrument.pattern=pull",
        "mailboxes.tiles.policy=block",
        "mailboxes.tiles.max_items=1",
    ).until_ready()

    fed = desk.feed(aviris, "--pattern", "pull", "--rate", 0, "--repeat", 60).report()
    flight.until_metrics(lambda n: n.total("tiles_received_total") == 60, "all tiles")
    flown = flight.stop()
    landed = land(flown, ground)

    assert (fed["tiles"], fed["refused"]) == (60, 0)
    assert flown.total("dropped_patches_total") == 0
    check_flight(flown)
    check_ground(landed, flown)


def test_sigterm_loses_nothing_that_was_accepted(
    desk: Desk, small_bundle: Path, aviris: Path
) -> None:
    """SIGTERM in the middle of a stream: what was accepted goes down before the process ends."""
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flight = desk.flight(small_bundle, *PATIENT).until_ready()
    feed = desk.feed(aviris, "--rate", 0, "--repeat", 900)  # the queue has room for all of them
    flight.until_metrics(lambda n: n.total("tiles_received_total") >= 50, "a stream")

    flown = flight.stop()
    feed.kill()
    landed = land(flown, ground)

    assert flown.total("dropped_patches_total") == 0
    assert flown.total("spool_packets") == flown.total("spool_dropped_packets_total") == 0
    check_flight(flown)
    check_ground(landed, flown)
    (stopped,) = flight.events("stopped")
    assert stopped["late"] == "none"


def test_sigterm_waits_for_the_link(desk: Desk, small_bundle: Path, aviris: Path) -> None:
    """What is spooled when SIGTERM comes goes down as soon as somebody listens."""
    flight = desk.flight(small_bundle, *PATIENT).until_ready()
    fed = desk.feed(aviris, "--rate", 0, "--repeat", 30).report()
    flight.until_metrics(
        lambda n: n.total("frames_total", channel="patch") == fed["patches"], "a full spool"
    )
    flight.terminate()
    ground = desk.ground(small_bundle, "output.format=npy").until_ready()
    flown = Numbers(flight.report())
    landed = land(flown, ground)

    assert flown.total("spool_packets") == flown.total("spool_dropped_packets_total") == 0
    check_flight(flown)
    check_ground(landed, flown)
