"""The accounts that hold at both ends, whatever happens."""

from __future__ import annotations

from typing import Final

from fakes.processes import Numbers

AFTER_ENCODING: Final = ("packets", "spool")
"""Stages behind the encoder; a patch dropped there was counted as encoded."""


def check_flight(numbers: Numbers) -> None:
    """Received = encoded + dropped, and encoded = spooled + dropped later; both exactly."""
    late = sum(numbers.total("dropped_patches_total", stage=stage) for stage in AFTER_ENCODING)
    early = numbers.total("dropped_patches_total") - late
    encoded = numbers.total("patches_encoded_total")
    assert numbers.total("patches_received_total") == encoded + early
    assert encoded == numbers.total("frames_total", channel="patch") + late


def check_ground(ground: Numbers, flight: Numbers) -> None:
    """All that the board sent has arrived; every patch of it is decoded and written, once."""
    patches = flight.total("frames_total", channel="patch")
    decoded = ground.total("patches_decoded_total")
    assert ground.total("frames_complete_total", channel="patch") == (
        decoded + ground.total("patches_failed_total") + ground.total("patches_waiting")
    )
    assert decoded == (
        ground.total("patches_written_total") + ground.total("dropped_patches_total")
    )
    assert ground.total("patches_written_total") == patches
    assert ground.total("packets_received_total") == flight.total("packets_total")
    assert ground.total("patches_decoded_total") == patches
    assert ground.total("packets_missing") == ground.total("patches_missing_total") == 0
    assert ground.total("tiles_written_total", state="complete") == flight.total(
        "frames_total", channel="side"
    )
