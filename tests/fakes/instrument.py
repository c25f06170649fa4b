"""An instrument that sends tile after tile, and what becomes of them where nobody disturbs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from daemon.link.sockets import Endpoint, TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import PATIENCE_S, Desk, towards

PATCHES: Final = 2
"""Of every tile."""
SAME_SPEED: Final = "model.overload_speed=0"
"""Encoded faster while others wait, a tile comes back otherwise."""


def message(sequence: int) -> list[bytes | memoryview]:
    """A tile."""
    tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, scene="s", sequence=sequence)
    return list(TileMessage.pack(tile))


class Instrument:
    """Sends tiles while it is told to, each once; those a killed board had not spooled are lost.

    Args:
        address: Where the board is.
        every_s: Time between two [s].

    Attributes:
        sent: How many.
    """

    def __init__(self, address: str, *, every_s: float = 0.1) -> None:
        self._address, self._every_s, self.sent = address, every_s, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="instrument")
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with TileSender(Endpoint(address=self._address, bind=False, linger_s=10)) as sender:
            while not self._stopping.is_set():
                if sender.send(message(self.sent), 0.2):
                    self.sent += 1
                time.sleep(self._every_s)


def undisturbed_run(
    desk: Desk, bundle: Path, cubes: Path, sequences: list[int]
) -> dict[int, bytes]:
    """The same tiles through processes that nobody kills."""
    ground = desk.ground(bundle, f"output.directory={cubes}", "output.format=npy").until_ready()
    flight = desk.flight(bundle, SAME_SPEED, "mailboxes.tiles.policy=block").until_ready()
    with TileSender(towards(desk.tiles)) as sender:
        for sequence in sequences:
            assert sender.send(message(sequence), PATIENCE_S)
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == len(sequences), "all tiles"
    )
    flight.stop()
    ground.stop()
    return {
        sequence: path.read_bytes()
        for sequence, path in zip(sequences, sorted(cubes.glob("*.npy")), strict=True)
    }
