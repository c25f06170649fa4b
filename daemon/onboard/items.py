"""What passes from one flight stage to the next: one type per hop."""

from __future__ import annotations

from dataclasses import dataclass

from codec.jobs import PatchJob
from codec.patch_grid import PatchGrid
from codec.tile import Tile
from daemon.link.lanes import Lane, Level
from daemon.link.packet import Channel
from daemon.onboard.models import Model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReceivedTile:
    """A checked tile and when it came in [s, monotonic]."""

    tile: Tile
    received_s: float

    @property
    def patches(self) -> int:
        """Patches the tile will be cut into."""
        _, rows, cols = self.tile.samples.shape
        return len(PatchGrid(tile_rows=rows, tile_cols=cols))

    @property
    def size_bytes(self) -> int:
        """Bytes of its samples."""
        return self.tile.samples.nbytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedPatch:
    """A patch whose tile has its conditioner.

    Attributes:
        job: The patch.
        model: What opened its tile, and is to encode it.
        received_s: When its tile came in [s, monotonic].
        expected_bytes: What its frame should take, where that was estimated.
        level: How urgent it is.
        side_frame: Its tile's side information, as it was sent.
    """

    job: PatchJob
    model: Model
    received_s: float
    expected_bytes: float | None = None
    level: Level = Level.NORMAL
    side_frame: bytes = b""

    @property
    def patches(self) -> int:
        """Itself."""
        return 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples behind it."""
        return self.job.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Patches that are encoded together, in the order they came; at least one, all of one model."""

    opened: tuple[OpenedPatch, ...]

    @property
    def model(self) -> Model:
        """What is to encode them."""
        return self.opened[0].model

    @property
    def patches(self) -> int:
        """Patches in it."""
        return len(self.opened)

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples behind it."""
        return sum(patch.size_bytes for patch in self.opened)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedFrame:
    """A frame ready for the link."""

    raw: bytes
    lane: Lane
    received_s: float

    @property
    def channel(self) -> Channel:
        """What it is."""
        return self.lane.channel

    @property
    def patches(self) -> int:
        """Patches lost with it: none for side information, whose tile is counted elsewhere."""
        return int(self.channel is Channel.PATCH)

    @property
    def size_bytes(self) -> int:
        """Bytes of the frame."""
        return len(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FramePackets:
    """The packets of one frame, repair packets last."""

    packets: tuple[bytes, ...]
    lane: Lane
    received_s: float

    @property
    def channel(self) -> Channel:
        """What they are of."""
        return self.lane.channel

    @property
    def patches(self) -> int:
        """Patches lost with it."""
        return int(self.channel is Channel.PATCH)

    @property
    def size_bytes(self) -> int:
        """Bytes of all packets."""
        return sum(map(len, self.packets))
