"""Board and ground with keys: what is sent arrives once, and nothing else does."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from zmq.utils import z85

from daemon.keys import CurveKeys, curve_public, curve_secret
from daemon.link.seal import DOWNLINK_SPI, OPERATOR_SPI, UPLINK_SPI, derived_key
from daemon.link.sockets import Endpoint, PacketListener, PacketSender, TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import PATIENCE_S, Desk, Process, towards, until

TILES = 3


def settings(own: Path, peer: Path, state: Path) -> tuple[str, ...]:
    """Keys of one side of the link; the seal's is the board's on both."""
    return (
        f"security.curve_secret_key={own / 'curve.secret'}",
        f"security.curve_peers.link=[{peer / 'curve.public'}]",
        f"security.seal_key={state.parent / 'board' / 'seal.key'}",
        f"security.seal_state={state}",
    )


def keys(own: Path, peer: Path) -> CurveKeys:
    """The same for a socket of the test."""
    return CurveKeys(
        secret=curve_secret(own / "curve.secret"), peers=(curve_public(peer / "curve.public"),)
    )


def heard(air: PacketListener, board: Process) -> list[bytes]:
    """All packets of the tiles, once the board has no more."""
    packets: list[bytes] = []

    def all_of_them() -> bool:
        packets.extend(air.recv_many(1000, 0.05))
        told = board.metrics()
        all_spooled = told.total("frames_total", channel="patch") == TILES
        all_sent = all_spooled and told.total("spool_packets") == 0
        return all_sent and told.total("packets_total") == len(packets)

    until(all_of_them, "all packets")
    return packets


def test_a_recording_is_of_no_use(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """Sealed packets are opened once, also by a ground that was killed and started again.

    The packets go through the test's hands, which has the keys of the sockets and not of the seal.
    """
    board, ground, stranger = (tmp_path / name for name in ("board", "ground", "stranger"))
    for folder in (board, ground, stranger):
        desk.start("keys", "keys", folder).end_well()
    spoken = Endpoint(address=desk.link, bind=True, curve=keys(ground, board))
    with PacketListener(spoken) as air, TileSender(towards(desk.tiles)) as eye:
        flight = desk.flight(small_bundle, *settings(board, ground, tmp_path / "up")).until_ready()
        for sequence in range(TILES):
            tile = fake_tile(bands=6, rows=128, cols=128, scene="s", sequence=sequence)
            assert eye.send(TileMessage.pack(tile), PATIENCE_S)
        packets = heard(air, flight)
        flight.stop()

    secured = settings(ground, board, tmp_path / "down")
    link = f"{desk.link}-ground"
    landing = desk.ground(
        small_bundle, *secured, f"link.address={link}", "output.format=npy"
    ).until_ready()
    known = replace(towards(link), curve=keys(board, ground))
    unknown = Endpoint(address=link, bind=False, curve=keys(stranger, ground), linger_s=0.0)
    with PacketSender(unknown) as mute:
        assert not mute.send(packets[0], 0.5)
    with PacketSender(known) as radio:
        assert all(radio.send(raw, PATIENCE_S) for raw in packets)
        landing.until_metrics(lambda n: n.total("tiles_written_total") == TILES, "all tiles")
    landing.kill()

    landing = desk.ground(small_bundle, *secured, f"link.address={link}").until_ready()
    with PacketSender(known) as radio:
        assert all(radio.send(raw, PATIENCE_S) for raw in packets)
        landing.until_metrics(
            lambda n: n.total("packets_refused_total", reason="replay") == len(packets), "replays"
        )
    landed = landing.stop()
    assert landed.total("packets_received_total") == 0
    assert landed.total("insecure") == 0


def spellings(secret: bytes) -> set[str]:
    """How bytes may stand in a text: hexadecimal, base64, Z85, or as Python writes them."""
    texts = {secret.hex(), z85.encode(secret).decode(), repr(secret)[2:-1], str([*secret])[1:-1]}
    texts |= {base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()}
    return {text.rstrip("=").lower() for text in texts}


def test_no_log_holds_a_key(desk: Desk, small_bundle: Path, tmp_path: Path) -> None:
    """At level debug, with work done, refused and repeated: no secret in whatever spelling."""
    board, ground = tmp_path / "board", tmp_path / "ground"
    for folder in (board, ground):
        desk.start("keys", "keys", folder).end_well()
    up, down = settings(board, ground, tmp_path / "up"), settings(ground, board, tmp_path / "down")
    landing = desk.ground(small_bundle, *down, "log.level=debug").until_ready()
    flight = desk.flight(small_bundle, *up, "log.level=debug").until_ready()
    with TileSender(towards(desk.tiles)) as eye:
        assert eye.send(TileMessage.pack(fake_tile(bands=6, rows=9, cols=9)), PATIENCE_S)
        assert eye.send([b"no tile"], PATIENCE_S)
        landing.until_metrics(lambda n: n.total("frames_complete_total") == 2, "a tile")
        until(lambda: flight.events("tile message refused"), "a refusal")
    flight.stop()
    landing.stop()

    files = [folder / "curve.secret" for folder in (board, ground)]
    seal = bytes.fromhex((board / "seal.key").read_text())
    secrets = [z85.decode(file.read_bytes().strip()) for file in files]
    secrets += [seal, *(derived_key(seal, spi) for spi in (DOWNLINK_SPI, UPLINK_SPI, OPERATOR_SPI))]
    logs = flight.log.lower() + landing.log.lower()
    assert len(secrets) == 6
    assert [one for secret in secrets for one in spellings(secret) if one in logs] == []


def test_a_ground_open_to_all_has_to_say_so(desk: Desk, small_bundle: Path) -> None:
    """Without keys it ends at once with one line; asked to be insecure it runs, and warns."""
    refused = desk.ground(small_bundle, "link.address=tcp://0.0.0.0:*")
    refused._process.wait(PATIENCE_S)
    assert refused._process.returncode == 78
    (line,) = refused.log.splitlines()
    assert "link.address: tcp://0.0.0.0:* is open to other machines without keys" in line

    ground = desk.ground(
        small_bundle, "link.address=tcp://0.0.0.0:*", "security.insecure=true"
    ).until_ready()
    assert ground.metrics().total("insecure") == 1
    ground.stop()
    assert "insecure: open to other machines without keys" in ground.log
