"""An operator commands a board that runs: what is said is done, and what is said again is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.link.sockets import Endpoint, PacketListener, PacketSender, TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import DEPLOY, PATIENCE_S, Desk, Numbers, Process, towards, until

PATCHES = 4
BEACON_S = 0.1
KBIT_PER_S, ENOUGH_KBIT = 100, 500


class Operator:
    """Commands a board through a relay that keeps what passed.

    Args:
        desk: Starts the command.
        flight: The board.
        board: Its uplink.
        relay: Where the relay listens.
        words: Settings of the command.
    """

    def __init__(
        self, *, desk: Desk, flight: Process, board: str, relay: PacketListener, words: list[str]
    ) -> None:
        self._desk, self.flight, self._board = desk, flight, board
        self._relay, self._words = relay, words
        self.recorded = list[bytes]()
        self.played_s = 0.0

    def says(self, *words: object) -> Numbers:
        """Send a command; return what the board tells once it has obeyed."""
        asked, kind = self._desk.start("command", "command", *words, *self._words), str(words[0])
        before = self.flight.metrics().total("commands_total", kind=kind)
        (raw,) = self._relay.recv_many(1, PATIENCE_S)
        asked.end_well()
        assert asked.log.startswith(f"{' '.join(map(str, words))}: sent to ")
        self.recorded.append(raw)
        self.plays([raw])
        return self.flight.until_metrics(
            lambda n: n.total("commands_total", kind=kind) == before + 1, f"{kind} obeyed"
        )

    def plays(self, raw: list[bytes]) -> None:
        """Send what was recorded, as it was."""
        self.played_s = time.monotonic()
        with PacketSender(towards(self._board)) as radio:
            assert all(radio.send(one, PATIENCE_S) for one in raw)


class Air:
    """The ground's end of the link.

    Attributes:
        packets: How many came.
    """

    def __init__(self, listener: PacketListener) -> None:
        self._listener, self.packets = listener, 0

    def recv(self, timeout_s: float) -> list[bytes]:
        """Return what has come, or nothing."""
        got = self._listener.recv_many(1000, timeout_s)
        self.packets += len(got)
        return got

    def drain(self, flight: Process) -> None:
        """Take what left before a command was obeyed."""
        until(
            lambda: (
                not self.recv(5 * BEACON_S)
                and self.packets == flight.metrics().total("packets_total")
            ),
            "silence",
        )


@pytest.fixture
def spooled(desk: Desk) -> Callable[[Process, int], float]:
    """Have one more tile spooled, always the same; return by how much the spool grew [bytes]."""

    def feed(flight: Process, sequence: int) -> float:
        before = flight.metrics()
        tile = fake_tile(
            bands=6, rows=128, cols=128 * PATCHES, noise_dn=400.0, scene="s", sequence=sequence
        )
        with TileSender(towards(desk.tiles)) as eye:
            assert eye.send(TileMessage.pack(tile), PATIENCE_S)
        frames = before.total("frames_total", channel="patch") + PATCHES
        after = flight.until_metrics(
            lambda n: n.total("frames_total", channel="patch") == frames, "a tile spooled"
        )
        return after.total("spool_bytes") - before.total("spool_bytes")

    return feed


@pytest.mark.parametrize("is_sealed", [False, True], ids=["plain", "sealed"])
def test_a_board_does_as_it_is_told(
    *,
    desk: Desk,
    small_bundle: Path,
    tmp_path: Path,
    spooled: Callable[[Process, int], float],
    is_sealed: bool,
) -> None:
    """Suspended nothing leaves; coarser steps make fewer bytes; every second is within the rate.

    A ground runs beside it. Sealed commands that were recorded are of no use, nor are they to a
    board that was killed and started again.
    """
    up, relay = f"{desk.link}-up", f"{desk.link}-relay"

    def seal(state: str) -> list[str]:
        key = tmp_path / "keys" / "seal.key"
        found = [f"security.seal_key={key}", f"security.seal_state={tmp_path / state}"]
        return found if is_sealed else []

    desk.start("keys", "keys", tmp_path / "keys").end_well()
    board = (f"link.uplink={{address: {up}, beacon_s: {BEACON_S}}}", *seal("board"))
    beside = (f"link.uplink={{address: {up}}}", f"link.address={desk.link}-ground", *seal("ground"))
    desk.ground(small_bundle, *beside).until_ready()
    given = (
        f"link.uplink={{address: {relay}}}", f"model.bundles=[{small_bundle}]",
        f"output.directory={desk.cubes}", *seal("ground"),
    )  # fmt: skip
    words = ["--settings", str(DEPLOY / "ground.yaml")]
    words += [word for setting in given for word in ("--set", setting)]

    with (
        PacketListener(Endpoint(address=desk.link, bind=True)) as listens,
        PacketListener(Endpoint(address=relay, bind=True)) as between,
    ):
        air = Air(listens)
        flight = desk.flight(small_bundle, *board).until_ready()
        operator = Operator(desk=desk, flight=flight, board=up, relay=between, words=words)
        assert air.recv(PATIENCE_S)

        operator.says("suspend")
        air.drain(flight)
        given_bytes = spooled(flight, 0)
        assert air.recv(1.0) == []
        operator.says("step", 2)
        assert spooled(flight, 1) < 0.8 * given_bytes
        assert flight.metrics().total("step_octaves") == 2

        operator.says("rate", KBIT_PER_S)
        assert flight.metrics().total("link_open") == 0
        operator.says("resume")
        kbit = 0.0
        while kbit < ENOUGH_KBIT:
            came = air.recv(PATIENCE_S)
            assert came
            kbit += sum(8 * len(raw) for raw in came) / 1000
            # Those of a second at most; what comes late only makes it less.
            assert kbit <= KBIT_PER_S * (time.monotonic() - operator.played_s + 1)

        waiting = flight.metrics().total("spool_packets")
        assert waiting > 0
        operator.says("rate", "plan")
        flight.until_metrics(lambda n: n.total("spool_packets") == 0, "the rest on the air")

        if is_sealed:
            refused_again(operator)
            flight.kill()
            operator.flight = desk.flight(small_bundle, *board).until_ready()
            refused_again(operator)


def refused_again(operator: Operator) -> None:
    """Play all that was recorded: every one is counted, and the link stays open."""
    operator.plays(operator.recorded)
    told = operator.flight.until_metrics(
        lambda n: n.total("commands_refused_total", reason="replay") == len(operator.recorded),
        "replays refused",
    )
    assert told.total("link_open") == 1
    operator.flight.until_metrics(
        lambda n: n.total("packets_total") > told.total("packets_total"), "more that leave"
    )
