"""What passes from one ground stage to the next: one type per hop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from codec.decoded_patch import DecodedPatch
from codec.frame import SideFrame
from codec.tile import Tile
from daemon.link.packet import Channel
from daemon.link.reassembly import PacketCount


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectedFrame:
    """A frame put together again.

    Attributes:
        raw: Its bytes.
        channel: What it came as.
        boot_id: Boot of the board that sent it.
        frame_id: The board's count of frames since that boot.
        replayed: Whether it was read from the archive, for its tile to be put together anew.
        packets: What it was made of; None if it was not put together here.
    """

    raw: bytes
    channel: Channel
    boot_id: int
    frame_id: int
    replayed: bool = False
    packets: PacketCount | None = None

    @property
    def key(self) -> tuple[int, int]:
        """(boot_id, frame_id): names it."""
        return self.boot_id, self.frame_id

    @property
    def size_bytes(self) -> int:
        """Bytes of the frame."""
        return len(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilePart:
    """What a frame said of its tile: that it exists, or one patch of it.

    Attributes:
        side: The tile's side information.
        side_frame_id: The frame that brought it, of the same boot as `frame`.
        patch: The patch, or None where the frame is the side information itself.
        frame: The frame.
    """

    side: SideFrame
    side_frame_id: int
    patch: DecodedPatch | None
    frame: CollectedFrame

    @property
    def sent_as(self) -> tuple[int, int]:
        """(boot_id, frame_id) of its side information; under another one a tile is sent anew."""
        return self.frame.boot_id, self.side_frame_id

    @property
    def size_bytes(self) -> int:
        """Bytes of the restored samples."""
        return self.patch.samples.nbytes if self.patch else len(self.side.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchRecord:
    """What is known of a patch that arrived.

    Attributes:
        step: As of `codec.decoded_patch.DecodedPatch`.
        packets: As of `CollectedFrame`.
        psnr_db: As measured on board [dB]; None where that is not known.
        max_abs_error: Largest error as measured on board [units of samples]; likewise.
    """

    step: float
    packets: PacketCount | None = None
    psnr_db: float | None = None
    max_abs_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RestoredTile:
    """A tile as far as it arrived.

    Attributes:
        tile: The tile; fill where patches are missing.
        side: Its side information.
        sent_as: As of `TilePart`.
        missing: (row, col) of the patches that did not arrive.
        frames: (boot_id, frame_id) of every frame it was made of.
        frame_bytes: Bytes of those frames.
        records: By (row, col), of the patches that arrived.
    """

    tile: Tile
    side: SideFrame
    sent_as: tuple[int, int]
    missing: tuple[tuple[int, int], ...]
    frames: tuple[tuple[int, int], ...] = field(repr=False)
    frame_bytes: int
    records: Mapping[tuple[int, int], PatchRecord] = field(default_factory=dict, repr=False)

    @property
    def patches(self) -> int:
        """Patches that arrived."""
        return len(self.side.grid) - len(self.missing)

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples."""
        return self.tile.samples.nbytes
