"""The payloads of the archive's records: a frame, or a mark that a tile was written.

Byte by byte in docs/wire-format.md.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from codec.frame import TILE_ID_BYTES
from daemon.link.packet import MAX_FRAME_BYTES

HEAD: Final = Struct(f">BBII{TILE_ID_BYTES}s")
"""Kind; channel, or whether complete; boot; frame, or side frame; tile id."""
MADE_OF: Final = Struct(">II")
"""Of a mark: frames, and the last one's id."""
FRAME, MARK = 0, 1
MAX_PAYLOAD_BYTES: Final = HEAD.size + MAX_FRAME_BYTES
