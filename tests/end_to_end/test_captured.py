"""What real processes put on the link and the uplink, as strangers read it."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from pathlib import Path

import ccsdspy.utils  # type: ignore[import-untyped]
import space_packet_parser  # type: ignore[import-untyped]
from spacepackets.ccsds.spacepacket import (  # type: ignore[import-untyped]
    PacketType,
    SpacePacketHeader,
)

from daemon.link.sockets import Endpoint, PacketListener, PacketSender, TileSender
from daemon.tile_message import TileMessage
from fakes.cubes import tile as fake_tile
from fakes.processes import PATIENCE_S, Desk, towards, until

TILES, PATCHES = 3, 4
APID, HOUSEKEEPING = 100, 101


class Tap:
    """Hands messages on from one socket to another, and keeps them."""

    def __init__(self, *, bound: str, connected: str) -> None:
        self.kept: list[bytes] = []
        self._listener = PacketListener(Endpoint(address=bound, bind=True))
        self._sender = PacketSender(Endpoint(address=connected, bind=False))

    def carry(self) -> None:
        """Hand on what has come."""
        for raw in self._listener.recv_many(64, 0.01):
            self.kept.append(raw)
            assert self._sender.send(raw, PATIENCE_S)

    def close(self) -> None:
        """Close both ends."""
        self._listener.close()
        self._sender.close()


def test_strangers_read_what_was_captured(desk: Desk, small_bundle: Path) -> None:
    """spacepackets, ccsdspy and space_packet_parser find whole packets and no gap in any count."""
    air, up = f"{desk.link}-air", f"{desk.link}-up"
    down_tap = Tap(bound=air, connected=desk.link)
    up_tap = Tap(bound=f"{up}-ground", connected=up)
    try:
        ground = desk.ground(small_bundle, f"link.uplink={{address: '{up}-ground'}}").until_ready()
        flight = desk.flight(
            small_bundle, f"link.address={air}", f"link.uplink={{address: '{up}', beacon_s: 0.2}}",
            "link.mtu_bytes=512",
        ).until_ready()  # fmt: skip
        with TileSender(towards(desk.tiles)) as sender:
            for sequence in range(TILES):
                tile = fake_tile(bands=6, rows=128, cols=128 * PATCHES, sequence=sequence)
                assert sender.send(TileMessage.pack(tile), PATIENCE_S)

        def acknowledged() -> bool:
            down_tap.carry()
            up_tap.carry()
            numbers = flight.metrics()
            waits = numbers.total("spool_packets") + numbers.total("spool_kept_frames")
            return len(desk.manifests()) == TILES and not waits

        until(acknowledged, "all tiles on the ground, and acknowledged")
        flight.stop()
        ground.stop()
    finally:
        down_tap.close()
        up_tap.close()

    by_apid = defaultdict[int, list[bytes]](list)
    for raw in (*down_tap.kept, *up_tap.kept):
        header = SpacePacketHeader.unpack(raw)
        assert header.packet_len == len(raw)
        assert header.packet_type == (PacketType.TC if raw in up_tap.kept else PacketType.TM)
        by_apid[header.apid].append(raw)
    assert set(by_apid) == {APID, HOUSEKEEPING}
    for stream in (down_tap.kept, up_tap.kept):
        joined = b"".join(stream)
        found = [bytes(packet) for packet in space_packet_parser.ccsds_generator(joined)]
        assert found == stream
    for apid in (APID, HOUSEKEEPING):
        # Side information overtakes patches: in the order of their counts there is no gap.
        sent = sorted(
            (raw for raw in by_apid[apid] if raw in down_tap.kept),
            key=lambda raw: SpacePacketHeader.unpack(raw).seq_count,
        )
        assert len(sent) > 1
        complaints = ccsdspy.utils.validate(io.BytesIO(b"".join(sent)), valid_apids=[apid])
        assert [one for one in complaints if one.levelno >= logging.WARNING] == []
