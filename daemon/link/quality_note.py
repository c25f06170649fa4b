"""What the board found of a patch that it decoded again: how far it is from what came in.

A note travels beside beacons, as a packet of the housekeeping channel, and is sent once: one that
is lost is never repeated, as nothing depends on it. Byte by byte in docs/wire-format.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import msgpack

from codec.frame import TILE_ID_BYTES
from daemon.errors import PacketFieldError
from daemon.link.commands import list_of, number_of, read_list

VERSION: Final = 1
_KIND: Final = "q"
_BEGINS: Final = b"\x97\xa1q"
"""An array of seven whose first is the kind; a beacon begins with a number, its version."""
_U16: Final = 2**16


class Measured(NamedTuple):
    """PSNR [dB] and largest error [units of samples] of a patch, under the names they have."""

    psnr_db: float
    max_abs_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityNote:
    """The quality of one patch, as measured on board.

    Attributes:
        tile_id: Names the tile, eight bytes.
        row: Of the patch, in the tile's grid.
        col: Likewise.
        psnr_db: MAX = reflectance 1.0 [dB]; finite, whatever the patch.
        max_abs_error: Largest difference of a sample [units of samples].

    Raises:
        PacketFieldError: If one of them cannot be.
    """

    tile_id: bytes
    row: int
    col: int
    psnr_db: float
    max_abs_error: float

    def __post_init__(self) -> None:
        if type(self.tile_id) is not bytes or len(self.tile_id) != TILE_ID_BYTES:
            raise PacketFieldError(f"a tile's id has {TILE_ID_BYTES} bytes")
        number_of(self.row, _U16, "row of a patch")
        number_of(self.col, _U16, "column of a patch")
        for value in (self.psnr_db, self.max_abs_error):
            if type(value) is not float or not math.isfinite(value):
                raise PacketFieldError(f"quality must be a finite number, got {value!r}")
        if self.max_abs_error < 0:
            raise PacketFieldError(f"the largest error is negative: {self.max_abs_error}")

    @property
    def place(self) -> tuple[int, int]:
        """(row, col)."""
        return self.row, self.col

    @property
    def measured(self) -> Measured:
        """What it tells of the patch."""
        return Measured(self.psnr_db, self.max_abs_error)

    def pack(self) -> bytes:
        """Return the bytes of the frame it is; 32-bit floats are exact enough."""
        fields = [_KIND, VERSION, self.tile_id, self.row, self.col]
        raw: bytes = msgpack.packb(
            [*fields, self.psnr_db, self.max_abs_error], use_single_float=True
        )
        return raw

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a note that fills `raw`.

        Raises:
            PacketFieldError: If it is none.
        """
        kind, version, tile_id, row, col, psnr_db, error = list_of(
            read_list(raw, "note of quality"), "a note of quality", 7
        )
        if kind != _KIND or version != VERSION:
            raise PacketFieldError(
                f"note {kind!r} of version {version}, this build reads {VERSION}"
            )
        return cls(tile_id=tile_id, row=row, col=col, psnr_db=psnr_db, max_abs_error=error)


def is_note(raw: bytes) -> bool:
    """Whether a frame of the housekeeping channel is a note, sound or not, and no beacon."""
    return raw.startswith(_BEGINS)
