"""Which frames of which tiles are at hand, and how far those tiles were written.

A patch belongs to its tile's last side frame of the same boot. Under a newer one, or by another
boot, a tile has been sent anew; what is left of the older is not decoded again: the file is the
newer one's.

A tile's frames either are under way through the ground, or nothing of it is: it was written, or its
side information or its model is not there. A tile of which nothing is under way is due once there
are more frames at hand than it was written with.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from daemon.ground.record_files import Segment
from daemon.link.packet import Channel

Key: TypeAlias = tuple[int, int]
"""(boot_id, frame_id) of a frame."""

NONE: Final = -1
"""Below every frame id."""


class KeptTile:
    """A tile of one boot; what is said of writing is of its last side frame.

    Attributes:
        key: (boot_id, tile_id).
        under_way: Whether frames of it are in the ground's stages.
        lacks_model: Name of its model, if that is not there.
        frames: Ids of the frames at hand, in the order they came.
        marked_in: Where it is recorded that it was written.
        side: Id of its last side frame.
        complete: Whether it was written whole.
        written: Frames it was written with.
        last: The highest id of these.
        tried: Frames that were given when it was decoded again.
    """

    __slots__ = (
        *("complete", "frames", "key", "lacks_model", "last", "marked_in", "side", "tried"),
        *("under_way", "written"),
    )

    def __init__(self, key: tuple[int, bytes], *, under_way: bool) -> None:
        self.key, self.under_way = key, under_way
        self.frames: dict[int, None] = {}
        self.lacks_model: bytes | None = None
        self.marked_in: Segment | None
        self.begin(NONE)

    def begin(self, side: int) -> None:
        """Nothing was written of it since this side frame."""
        self.side, self.complete = side, False
        self.written = self.tried = 0
        self.last, self.marked_in = NONE, None

    @property
    def has_side(self) -> bool:
        """Whether its side information is at hand."""
        return self.side in self.frames

    @property
    def current(self) -> list[Key]:
        """Its last side frame, then those after it in the order they came."""
        since = [frame_id for frame_id in self.frames if frame_id > self.side]
        ids = [self.side, *since] if self.has_side else since
        return [(self.key[0], frame_id) for frame_id in ids]

    def has_whole(self, frame_id: int) -> bool:
        """Whether a frame that is not at hand is of what was written whole, or of what it replaced.

        It is not, if all are at hand that were: then it is of a tile sent anew.
        """
        at_hand = sum(self.side <= known <= self.last for known in self.frames)
        return self.complete and frame_id <= self.last and at_hand < self.written


class KeptTiles:
    """All tiles of which a frame or a mark is kept.

    Attributes:
        unmarked: Tiles whose marks are not recorded yet.
    """

    def __init__(self) -> None:
        self.unmarked: dict[KeptTile, None] = {}
        self._tiles: dict[tuple[int, bytes], KeptTile] = {}
        self._newest: dict[bytes, KeptTile] = {}
        self._boots: dict[int, int] = {}
        """Boots in the order in which frames of them first came: that of their beginnings."""
        self._due: dict[KeptTile, None] = {}
        self._lacking: dict[KeptTile, None] = {}

    def find(self, boot_id: int, tile_id: bytes) -> KeptTile | None:
        """A tile, if it is known."""
        return self._tiles.get((boot_id, tile_id))

    def have(self, boot_id: int, tile_id: bytes, *, under_way: bool) -> KeptTile:
        """A tile, or a new one."""
        key = boot_id, tile_id
        return self._tiles.get(key) or self._tiles.setdefault(
            key, KeptTile(key, under_way=under_way)
        )

    def add(self, tile: KeptTile, frame_id: int, channel: int) -> None:
        """A frame of a tile is at hand."""
        tile.frames[frame_id] = None
        order = self._boots.setdefault(tile.key[0], len(self._boots))
        if channel == Channel.SIDE:
            if frame_id > tile.side:
                tile.begin(frame_id)
            newest = self._newest.get(tile.key[1], tile)
            if order >= self._boots.get(newest.key[0], 0):  # else an earlier boot's, sent again
                self._newest[tile.key[1]] = tile
        self._look_at(tile)

    def mark(self, tile: KeptTile, side: int, *, complete: bool, frames: int, last: int) -> bool:
        """A tile was written; tell whether it was not sent anew since."""
        if side < tile.side:
            return False
        if side > tile.side:
            tile.begin(side)
        tile.complete, tile.written, tile.last, tile.under_way = complete, frames, last, False
        self._look_at(tile)
        return True

    def rest(self, tile: KeptTile, side: int) -> None:
        """Nothing of a tile is under way, nor written: it is due with more than this side frame."""
        if side == tile.side:
            tile.under_way, tile.tried = False, max(tile.tried, 1)
            self._look_at(tile)

    def to_be_marked(self) -> list[KeptTile]:
        """Tiles whose marks are to be recorded; of those sent anew there is nothing to say."""
        self.unmarked = {tile: None for tile in self.unmarked if tile.last != NONE}
        return list(self.unmarked)

    def halt(self, tile: KeptTile) -> None:
        """Patches of it are not under way any more, if they waited for side information."""
        if tile.side == NONE:
            tile.under_way = False

    def lack(self, tile: KeptTile, model: bytes | None) -> None:
        """A tile waits for its model; None: it does not."""
        tile.lacks_model = model
        if model is None:
            self._lacking.pop(tile, None)
        else:
            tile.under_way = False
            self._lacking[tile] = None

    def model_came(self, model: bytes) -> None:
        """Tiles that waited for a model are due."""
        for tile in [tile for tile in self._lacking if tile.lacks_model == model]:
            self.lack(tile, None)
            tile.tried = 0
            self._look_at(tile)

    @property
    def without_model(self) -> int:
        """How many tiles wait for their model."""
        return len(self._lacking)

    def is_due(self, tile: KeptTile) -> bool:
        """Whether there is more at hand than it was written with, or than was tried."""
        return (
            not (tile.under_way or tile.complete)
            and tile.has_side
            and tile.lacks_model is None
            and self.is_newest(tile)
            and len(tile.current) > max(tile.written, tile.tried)
        )

    def next_due(self) -> KeptTile | None:
        """Send the tile that is due for longest on its way."""
        while self._due:
            tile = next(iter(self._due))
            del self._due[tile]
            if self.is_due(tile):
                tile.under_way, tile.tried = True, 0
                return tile
        return None

    def is_spent(self, tile: KeptTile) -> bool:
        """Whether its frames are not needed any more."""
        return tile.complete or not self.is_newest(tile)

    def remove(self, tile: KeptTile, frame_id: int) -> None:
        """A frame of it is no longer at hand."""
        del tile.frames[frame_id]
        self.forget_if_empty(tile)

    def forget_if_empty(self, tile: KeptTile) -> None:
        """Forget a tile of which neither a frame nor a mark is left."""
        if tile.frames or tile.marked_in or tile in self.unmarked:
            return
        self._tiles.pop(tile.key, None)
        self._due.pop(tile, None)
        self._lacking.pop(tile, None)
        if self._newest.get(tile.key[1]) is tile:
            del self._newest[tile.key[1]]

    def lose_marks_of(self, segment: Segment) -> None:
        """A segment is gone; marks of tiles that have frames elsewhere are to be recorded anew."""
        for tile in [tile for tile in self._tiles.values() if tile.marked_in is segment]:
            tile.marked_in = None
            if tile.frames:
                self.unmarked[tile] = None
            self.forget_if_empty(tile)

    def is_newest(self, tile: KeptTile) -> bool:
        """Whether it was not sent anew by a later boot."""
        return self._newest.get(tile.key[1], tile) is tile

    def _look_at(self, tile: KeptTile) -> None:
        if self.is_due(tile):
            self._due[tile] = None
