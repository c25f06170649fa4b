"""Things that pass between the ground stages, without the stages before."""

from __future__ import annotations

from functools import cache
from itertools import count

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.frame import SideFrame, parse
from codec.tile import Tile
from daemon.ground.decode import DecodeWorker
from daemon.ground.items import CollectedFrame, PatchRecord, RestoredTile, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel
from daemon.link.reassembly import PacketCount
from daemon.metrics import new_registry
from fakes.bundles import klt_bundle
from fakes.clock import FakeClock
from fakes.layers import with_holes

BOOT_ID = 7
_frame_ids = count()


@cache
def decoder() -> Decoder:
    """Of the untrained linear codec."""
    return Decoder(klt_bundle())


def collected(raw: bytes, *, boot_id: int = BOOT_ID) -> CollectedFrame:
    """A frame with an id of its own, on the channel of its kind."""
    side = raw[1:2] == bytes([SideFrame.KIND])
    return CollectedFrame(
        raw=raw,
        channel=Channel.SIDE if side else Channel.PATCH,
        boot_id=boot_id,
        frame_id=next(_frame_ids),
    )


def parts_of(tile: Tile) -> list[TilePart]:
    """A tile as it comes out of the decoder: announced, then its patches."""
    worker = DecodeWorker(
        {klt_bundle().model: decoder()},
        threads=1,
        max_parked_bytes=1 << 20,
        max_age_s=1.0,
        clock=FakeClock(),
        metrics=GroundMetrics(new_registry()),
    )
    with worker._pool:  # its thread ends here, not when somebody collects garbage
        return [part for frame in frames(tile) for part in worker.accept(frame)]


def frames(
    tile: Tile, bundle: Bundle | None = None, *, step: float | None = None, boot_id: int = BOOT_ID
) -> list[CollectedFrame]:
    """The frames of a tile as the link brings them, side information first."""
    encoder = Encoder(bundle or klt_bundle(), step=step, backend="torch-cpu")
    return [collected(raw, boot_id=boot_id) for raw in encoder.encode(tile)]


def restored(tile: Tile, *missing: tuple[int, int], boot_id: int = BOOT_ID) -> RestoredTile:
    """A tile as the mosaic hands it on, with fill where these patches are; one was repaired."""
    side = parse(frames(tile)[0].raw)
    assert isinstance(side, SideFrame)
    count = PacketCount(segments=5, repaired=2)
    there = [position for position in side.grid if position not in missing]
    return RestoredTile(
        tile=with_holes(tile, *missing)[0],
        side=side,
        sent_as=(boot_id, 0),
        missing=missing,
        frames=tuple((boot_id, frame_id) for frame_id in range(1 + len(there))),
        frame_bytes=99,
        records={
            position: PatchRecord(step=64.0, packets=count if position == there[0] else None)
            for position in there
        },
    )
