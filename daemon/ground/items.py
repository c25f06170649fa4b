"""What passes from one ground stage to the next: one type per hop."""

from __future__ import annotations

from dataclasses import dataclass, field

from codec.decoder import DecodedPatch
from codec.frame import SideFrame
from codec.tile import Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectedFrame:
    """A frame put together again.

    Attributes:
        raw: Its bytes.
        boot_id: Boot of the board that sent it.
        frame_id: The board's count of frames since that boot.
    """

    raw: bytes
    boot_id: int
    frame_id: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the frame."""
        return len(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilePart:
    """What a frame said of its tile: that it exists, or one patch of it."""

    side: SideFrame
    patch: DecodedPatch | None
    frame: CollectedFrame

    @property
    def size_bytes(self) -> int:
        """Bytes of the restored samples."""
        return self.patch.samples.nbytes if self.patch else len(self.side.payload)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RestoredTile:
    """A tile as far as it arrived.

    Attributes:
        tile: The tile; fill where patches are missing.
        side: Its side information.
        missing: (row, col) of the patches that did not arrive.
        frames: (boot_id, frame_id) of every frame it was made of.
        frame_bytes: Bytes of those frames.
    """

    tile: Tile
    side: SideFrame
    missing: tuple[tuple[int, int], ...]
    frames: tuple[tuple[int, int], ...] = field(repr=False)
    frame_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the samples."""
        return self.tile.samples.nbytes
