"""What passes between stages knows its size: mailboxes are bounded by it."""

from __future__ import annotations

from codec.frame import SideFrame, parse
from daemon.ground.items import RestoredTile, TilePart
from fakes import cubes
from fakes.ground import collected, decoder, frames


def test_sizes_are_those_of_what_is_held() -> None:
    """A frame its bytes; a patch and a tile their samples; side information its payload."""
    tile = cubes.tile(bands=3, rows=8, cols=9)
    first, second = frames(tile)
    side, patch = parse(first.raw), parse(second.raw)
    assert isinstance(side, SideFrame)
    decoded = decoder().decode(frame.raw for frame in (first, second))
    part = TilePart(side=side, side_frame_id=first.frame_id, patch=None, frame=first)

    assert collected(b"12345").size_bytes == 5
    assert part.size_bytes == len(side.payload)
    assert patch.tile_id == side.tile_id
    assert part.sent_as == (first.boot_id, first.frame_id)
    restored = RestoredTile(
        tile=decoded, side=side, sent_as=(7, 0), missing=(), frames=(), frame_bytes=0
    )
    assert restored.patches == 1
    assert restored.size_bytes == 3 * 8 * 9 * 2
