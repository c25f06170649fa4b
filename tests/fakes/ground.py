"""Things that pass between the ground stages, without the stages before."""

from __future__ import annotations

from functools import cache
from itertools import count

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.tile import Tile
from daemon.ground.items import CollectedFrame
from fakes.bundles import klt_bundle

BOOT_ID = 7
_frame_ids = count()


@cache
def decoder() -> Decoder:
    """Of the untrained linear codec."""
    return Decoder(klt_bundle())


def collected(raw: bytes, frame_id: int | None = None) -> CollectedFrame:
    """A frame with an id of its own, unless it is given one."""
    return CollectedFrame(
        raw=raw, boot_id=BOOT_ID, frame_id=next(_frame_ids) if frame_id is None else frame_id
    )


def frames(tile: Tile, bundle: Bundle | None = None) -> list[CollectedFrame]:
    """The frames of a tile as the link brings them, side information first."""
    encoder = Encoder(bundle or klt_bundle(), backend="torch-cpu")
    return [collected(raw) for raw in encoder.encode(tile)]
