"""A tile sent anew is its later boot's, whatever of an earlier boot is sent again."""

from __future__ import annotations

from daemon.ground.kept_tiles import KeptTiles
from daemon.link.packet import Channel


def test_what_an_earlier_boot_sent_is_not_newer_for_coming_late() -> None:
    """Its side information, asked for again, does not bring back the tile it began."""
    tiles = KeptTiles()
    other = tiles.have(1, b"other", under_way=True)
    tiles.add(other, 0, Channel.SIDE)
    later = tiles.have(2, b"tile", under_way=True)
    tiles.add(later, 0, Channel.SIDE)
    earlier = tiles.have(1, b"tile", under_way=True)
    tiles.add(earlier, 3, Channel.SIDE)

    assert tiles.is_newest(later)
    assert not tiles.is_newest(earlier)
    assert tiles.is_spent(earlier)
    anew = tiles.have(3, b"tile", under_way=True)
    tiles.add(anew, 0, Channel.SIDE)
    assert not tiles.is_newest(later)
    assert tiles.is_newest(anew)
