"""Ten thousand bad messages at either door, or bad clients at the third: the work goes on."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Final, Self

import pytest

from codec.bundle import load_bundle
from codec.encoder import Encoder
from codec.tile import Tile
from daemon.link.packet import Channel
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketSender, TileSender
from daemon.tile_message import TileMessage
from fakes import hostile
from fakes.cubes import tile as fake_tile
from fakes.instrument import Instrument
from fakes.processes import PATIENCE_S, Desk, Process, until

MESSAGES: Final = 10_000
CONNECTIONS: Final = 100
ZMTP_GREETING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0")
MOST_LOG_LINES: Final = 1_000
"""A tenth of what would be written without a limit; the limit is per kind and ten seconds."""
MOST_NEW_SERIES: Final = 50
SLOW: Final = 200
TILES: Final = 40
PATIENT: Final = "mailboxes.tiles.max_items=1000"
"""A long queue, for a machine that is busy with other things as well."""


def tile(scene: str) -> Tile:
    """A tile of one small patch."""
    return fake_tile(bands=6, rows=8, cols=8, sensor="fake", scene=scene)


@pytest.fixture
def port() -> int:
    """A TCP port that is free; libzmq would not tell the one it chose."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


def pour_garbage(ports: list[int]) -> None:
    """Connect and send what speaks no protocol, or stops in the middle of its greeting.

    Not to be counted: libzmq takes what does not greet for ZMTP 1.0, and finds messages in it.
    """
    rng = random.Random(3)
    for _ in range(CONNECTIONS):
        for number in ports:
            with socket.create_connection(("127.0.0.1", number), PATIENCE_S) as connection:
                head = rng.choice((b"", ZMTP_GREETING[: rng.randrange(33)], ZMTP_GREETING, b"GET "))
                with suppress(ConnectionError, TimeoutError):  # hanging up is a fair answer
                    connection.sendall(head + rng.randbytes(rng.randrange(4096)))


def metrics_port(process: Process) -> int:
    """Where it answers Prometheus."""
    return int(process.events("ready")[0]["metrics"].rpartition(":")[2])


def check_calm(process: Process) -> None:
    """It runs, nothing took it by surprise, and its log can be read."""
    assert process.runs
    assert process.metrics().total("stage_errors_total", reason="internal_error") == 0
    assert "Traceback" not in process.log
    assert len(process.log.splitlines()) < MOST_LOG_LINES


def check_few_series(process: Process, before: set[str]) -> None:
    """What strangers send is no label: Prometheus keeps a series for each value for ever."""
    new = {name for name in process.metrics().samples if "_bucket{" not in name} - before
    assert len(new) < MOST_NEW_SERIES, sorted(new)


def until_written(desk: Desk, scene: str) -> None:
    """Wait for a tile on the ground, whole."""

    def whole() -> bool:
        return any(m["scene"] == scene and not m["patches_missing"] for m in desk.manifests())

    until(whole, f"{scene} on the ground")


def test_the_instruments_door(desk: Desk, small_bundle: Path, port: int) -> None:
    """Each message that is no tile is counted once, and a tile that follows goes down."""
    address = f"tcp://127.0.0.1:{port}"
    ground = desk.ground(small_bundle).until_ready()
    flight = desk.flight(small_bundle, f"instrument.address={address}").until_ready()
    series = set(flight.metrics().samples)
    bad = hostile.messages([bytes(p) for p in TileMessage.pack(tile("mutant"))], random.Random(1))

    with TileSender(Endpoint(address=address, bind=False, linger_s=10)) as sender:
        for parts in islice(bad, MESSAGES):
            assert sender.send(parts, PATIENCE_S)
        numbers = flight.until_metrics(
            lambda n: (
                n.total("tiles_received_total") + n.total("tile_messages_refused_total") == MESSAGES
            ),
            "every message counted once",
        )
        assert numbers.total("tile_messages_refused_total") > 0.8 * MESSAGES
        for reason in ("message_truncated", "message_field", "message_size", "message_version"):
            assert numbers.total("tile_messages_refused_total", reason=reason) > 0
        flight.until_metrics(
            lambda n: (
                n.total("patches_received_total")
                == n.total("frames_total", channel="patch") + n.total("dropped_patches_total")
            ),
            "an empty line",
        )
        pour_garbage([port, metrics_port(flight)])
        assert sender.send(TileMessage.pack(tile("good")), PATIENCE_S)
        until_written(desk, "good")

    check_calm(flight)
    check_calm(ground)
    check_few_series(flight, series)
    flight.stop()


def test_the_links_door(desk: Desk, small_bundle: Path, port: int) -> None:
    """Each message that is no packet is counted once; a tile among them is restored."""
    address = f"tcp://127.0.0.1:{port}"
    # Small: a mutant's side information may ask for any size, and gets as much as this.
    small = ("mailboxes.tiles.max_mib=16", "output.format=npy")
    ground = desk.ground(small_bundle, f"link.address={address}", *small).until_ready()
    series = set(ground.metrics().samples)
    encoder = Encoder(load_bundle(small_bundle))
    mutant, good = (
        (frames, [Channel.SIDE, *[Channel.PATCH] * (len(frames) - 1)])
        for frames in (encoder.encode(tile(scene)) for scene in ("mutant", "good"))
    )
    bad = hostile.packets(sound(*mutant, boot_id=1), mutant[0], random.Random(2))

    with PacketSender(Endpoint(address=address, bind=False, linger_s=10)) as sender:
        for raw in islice(bad, MESSAGES):
            assert sender.send(raw, PATIENCE_S)
        numbers = ground.until_metrics(
            lambda n: (
                n.total("packets_received_total") + n.total("packets_refused_total") == MESSAGES
            ),
            "every message counted once",
        )
        assert numbers.total("packets_refused_total") > 0.4 * MESSAGES
        for reason in ("packet_truncated", "packet_checksum", "packet_field", "packet_version"):
            assert numbers.total("packets_refused_total", reason=reason) > 0
        pour_garbage([port, metrics_port(ground)])
        for raw in sound(*good, boot_id=2):
            assert sender.send(raw, PATIENCE_S)
        until_written(desk, "good")

    check_calm(ground)
    check_few_series(ground, series)
    ground.stop()


class SlowClients:
    """Clients of an HTTP port that say little, and some that say too much, while in its context.

    Attributes:
        rounds: How often each has said something, or was replaced.
        hung_up: How many were hung up on.
    """

    def __init__(self, port: int) -> None:
        self._port, self._end = port, threading.Event()
        self.rounds = self.hung_up = 0
        self._thread = threading.Thread(target=self._run, name="slow clients")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        clients: list[socket.socket | None] = [None] * SLOW
        while not self._end.is_set():
            for number, client in enumerate(clients):
                try:
                    if client is None:
                        client = socket.create_connection(("127.0.0.1", self._port), 1.0)  # noqa: PLW2901
                        clients[number] = client
                    client.sendall(b"GET /" + b"x" * 20_000 if number % 10 == 0 else b"G")
                except OSError:
                    self.hung_up += 1
                    if client is not None:
                        client.close()
                    clients[number] = None
            self.rounds += 1
        for client in filter(None, clients):
            client.close()


def test_the_door_of_http_while_tiles_flow(desk: Desk, small_bundle: Path) -> None:
    """Two hundred slow clients and long questions cost no tile; metrics are told during and after.

    Who asks may be hung up on meanwhile, as one of very many, and asks again.
    """
    ground = desk.ground(small_bundle).until_ready()
    flight = desk.flight(small_bundle, PATIENT).until_ready()
    instrument = Instrument(desk.tiles)
    try:
        until(lambda: instrument.sent > 0, "a tile")
        with SlowClients(metrics_port(flight)) as slow:
            begun = instrument.sent
            until(lambda: slow.rounds >= 3 and instrument.sent >= begun + TILES, "tiles meanwhile")

            def told() -> bool:
                with suppress(OSError, HTTPException):
                    return flight.metrics().total("tiles_received_total") > 0
                return False

            until(told, "metrics among two hundred")
            until(lambda: slow.hung_up > SLOW, "more that were hung up on than there are")
    finally:
        instrument.stop()
    ground.until_metrics(
        lambda n: n.total("tiles_written_total", state="complete") == instrument.sent, "all tiles"
    )
    check_calm(flight)
    numbers = flight.stop()
    assert numbers.total("tiles_received_total") == instrument.sent
    assert numbers.total("tile_sequence_gaps_total") == 0
    assert numbers.total("dropped_patches_total") == numbers.total("dropped_tiles_total") == 0


def sound(frames: list[bytes], channels: list[Channel], *, boot_id: int) -> list[bytes]:
    """The packets of frames, as a board sends them."""
    segmenter = Segmenter(boot_id=boot_id, apid=1, mtu_bytes=256, repair={})
    return [
        packet
        for frame, channel in zip(frames, channels, strict=True)
        for packet in segmenter.packets(frame, channel, 0.0)
    ]
