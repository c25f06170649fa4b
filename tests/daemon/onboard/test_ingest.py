"""Ingest: every message is a tile handed on, or refused and counted by reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.tile import Tile
from daemon.errors import TileMessageError
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.ingest import Ingest
from daemon.onboard.items import ReceivedTile
from daemon.tile_message import Part, TileLimits, TileMessage
from fakes import cubes
from fakes.clock import FakeClock

LIMITS = TileLimits(max_bands=8, max_rows=200, max_cols=200)


def tile(sequence: int = 0, rows: int = 4, sensor: str = "") -> Tile:
    """A small one."""
    return cubes.tile(bands=2, rows=rows, cols=3, sequence=sequence, sensor=sensor)


class Rig:
    """An ingest that is handed messages."""

    def __init__(self, *, shared: bool = False) -> None:
        self.clock, self.metrics = FakeClock(), FlightMetrics(new_registry())
        self.messages: list[Sequence[Part]] = []
        self.tiles: list[ReceivedTile] = []
        self.ingest = Ingest(
            *(self, LIMITS, self.tiles.append),
            shared=shared,
            clock=self.clock,
            metrics=self.metrics,
        )

    def recv(self, timeout_s: float) -> Sequence[Part] | None:
        """Return the next message."""
        assert timeout_s > 0
        return self.messages.pop(0) if self.messages else None

    def take(self, *messages: Sequence[Part]) -> dict[str, float]:
        """Have these messages taken; return the metrics."""
        self.messages += messages
        while self.messages:
            self.ingest.poll()
        return self.metrics.totals()


def test_a_tile_is_handed_on_with_its_arrival() -> None:
    """Samples and facts as they came, stamped by the monotonic clock, tile and patches counted."""
    rig = Rig()
    sent = tile(rows=130)
    totals = rig.take(TileMessage.pack(sent, "bip"))

    (received,) = rig.tiles
    assert (received.tile.samples == sent.samples).all()
    assert received.tile.info == sent.info
    assert received.received_s == rig.clock.monotonic_s()
    assert totals["prismlink_tiles_received_total"] == 1
    assert totals["prismlink_patches_received_total"] == 2
    assert totals["prismlink_bytes_in_total"] > sent.samples.nbytes


def test_silence_is_nothing() -> None:
    """No message, no count."""
    rig = Rig()
    rig.ingest.poll()

    assert rig.metrics.totals()["prismlink_bytes_in_total"] == 0
    assert rig.tiles == []


GOOD = TileMessage.pack(tile())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([b"tile"], "message_truncated"),
        ([*GOOD[:2], GOOD[2][:-1]], "message_truncated"),
        ([GOOD[0], b"\xc1", GOOD[2]], "message_field"),
        ([GOOD[0], b"\x81\xa7version\x63", GOOD[2]], "message_version"),
        ([*GOOD, b""], "message_size"),
        (TileMessage.pack(tile(rows=201)), "message_size"),
    ],
)
def test_a_bad_message_is_a_line_and_a_count(
    message: Sequence[Part], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused under its reason, and the next message is taken as ever."""
    rig = Rig()
    totals = rig.take(message, GOOD)

    assert totals[f'prismlink_tile_messages_refused_total{{reason="{reason}"}}'] == 1
    assert totals["prismlink_tiles_received_total"] == len(rig.tiles) == 1
    assert [record.__dict__["reason"] for record in caplog.records] == [reason]


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_bytes_stop_it(message: list[bytes]) -> None:
    """Whatever comes is counted under a reason of the closed set."""
    rig = Rig()
    totals = rig.take(message)

    refused = {k: v for k, v in totals.items() if "tile_messages_refused_total" in k}
    assert sum(refused.values()) == 1
    reasons = {error.reason for error in TileMessageError.__subclasses__()}
    assert {k.split('"')[1] for k in refused} <= reasons | {TileMessageError.reason}


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ([0, 1, 2], 0),
        ([5, 6], 0),
        ([0, 1, 5, 6], 3),
        ([7, 8, 0, 1, 3], 1),
        ([3, 3], 0),
        ([0, 2**63, 1, 3], 1),
    ],
)
def test_gaps_in_the_instruments_count_are_counted(sequences: list[int], missing: int) -> None:
    """Tiles before the first are not missing; a count that falls or leaps is another one."""
    totals = Rig().take(*(TileMessage.pack(tile(sequence)) for sequence in sequences))

    assert totals["prismlink_tile_sequence_gaps_total"] == missing


def test_instruments_on_one_socket_are_counted_apart() -> None:
    """Tiles of two that come in turns leave no gaps but their own."""
    tiles = [tile(n, sensor=s) for n in (0, 1, 3) for s in ("a", "b")]
    tiles[1::2] = [tile(n, sensor="b") for n in (5000, 5001, 5002)]
    totals = Rig().take(*(TileMessage.pack(t) for t in tiles))

    assert totals["prismlink_tile_sequence_gaps_total"] == 1


def test_others_may_take_tiles_too() -> None:
    """What another process of a shared instrument took is not missing."""
    rig = Rig(shared=True)
    totals = rig.take(*(TileMessage.pack(tile(sequence=number)) for number in (0, 2, 7)))
    assert totals["prismlink_tile_sequence_gaps_total"] == 0
    assert len(rig.tiles) == 3


def test_what_waits_in_the_socket_is_taken_at_the_end() -> None:
    """While messages come, ingest is not done; when none came, it is."""
    rig = Rig()
    rig.take(GOOD)
    assert rig.ingest.pending()
    rig.ingest.poll()
    assert not rig.ingest.pending()


def test_an_instrument_that_never_pauses_cannot_keep_the_process_alive() -> None:
    """After intake stopped, only so many more messages are taken."""
    rig = Rig()
    more = 0
    rig.take(GOOD)
    while rig.ingest.pending():
        rig.take(GOOD)
        more += 1
        assert more < 100
    assert more > 0
