"""The tiles that the page tells of, newest change last: bounded, and each change numbered.

A visitor who has seen all up to a number is told what changed since. Scenes are told apart by the
order of their tiles: an instrument goes through a scene once, row by row, so what would break that
order is of the scene's next acquisition, or of an earlier one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from daemon.ground.items import RestoredTile, TilePart
from daemon.ground.web.tile_view import TileState, TileView, mean_psnr

Place = tuple[int, int]


class TileBoard:
    """The tiles, for one thread.

    Args:
        max_tiles: Most that are told of.

    Attributes:
        max_tiles: The same.
        version: Counts changes.
    """

    def __init__(self, max_tiles: int) -> None:
        self.max_tiles = max_tiles
        self._tiles: OrderedDict[str, TileView] = OrderedDict()
        self._frames: dict[str, set[tuple[int, int]]] = {}
        """Frames counted of each open tile: a patch may come twice."""
        self._scenes: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._acquisitions = 0
        self.version = 0

    @property
    def tiles(self) -> tuple[TileView, ...]:
        """All of them, the last changed last."""
        return tuple(self._tiles.values())

    @property
    def scenes(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Files of products of scenes, by sensor and scene."""
        return dict(self._scenes)

    def get(self, tile_id: str) -> TileView | None:
        """One of them."""
        return self._tiles.get(tile_id)

    def part(self, item: TilePart) -> list[str]:
        """A tile took a part.

        Returns:
            Ids of tiles that are told of no more.
        """
        tile_id = item.side.tile_id.hex()
        view = self._tiles.get(tile_id)
        if view is None or view.sent_as != item.sent_as or view.state is not TileState.OPEN:
            fresh = TileView.of_side(item.side, item.sent_as)
            if view is not None:  # sent anew, or opened again: its files stay until it is written
                fresh = replace(
                    fresh, acquisition=view.acquisition, file=view.file, files=view.files
                )
            view = fresh
            self._frames[tile_id] = set()
        key = item.frame.boot_id, item.frame.frame_id
        if key not in self._frames[tile_id]:
            self._frames[tile_id].add(key)
            view = replace(view, frame_bytes=view.frame_bytes + item.frame.size_bytes)
        if item.patch is not None:
            view = view.with_patch(item.patch.patch_row, item.patch.patch_col)
        return self._put(view)

    def closed(self, item: RestoredTile) -> list[str]:
        """A tile waits to be written; returns as `part` does."""
        before = self._tiles.get(item.side.tile_id.hex())
        if before is not None and before.overtakes(item.sent_as):
            return []
        view = TileView.of_side(item.side, item.sent_as)
        missing = set(item.missing)
        psnr_db, psnr_patches = mean_psnr(record.psnr_db for record in item.records.values())
        return self._put(
            replace(
                view,
                state=TileState.CLOSED,
                have="".join("01"[place not in missing] for place in item.side.grid),
                frame_bytes=item.frame_bytes,
                psnr_db=psnr_db,
                psnr_patches=psnr_patches,
                acquisition=before.acquisition if before is not None else 0,
                file=before.file if before is not None else None,
                files=before.files if before is not None else (),
            )
        )

    def written(self, view: TileView, sent_as: tuple[int, int]) -> list[str]:
        """A tile was written, as its manifest has it; returns as `part` does."""
        before = self._tiles.get(view.tile_id)
        if before is not None and before.overtakes(sent_as):
            return self._put(replace(before, file=view.file, files=view.files))
        acquisition = 0 if before is None else before.acquisition
        return self._put(replace(view, acquisition=acquisition, sent_as=sent_as))

    def scene_written(self, sensor: str, scene: str, files: tuple[str, ...]) -> None:
        """A product of a scene is there; as many are told of as tiles."""
        self.version += 1
        self._scenes[sensor, scene] = files
        self._scenes.move_to_end((sensor, scene))
        if len(self._scenes) > self.max_tiles:
            self._scenes.popitem(last=False)

    def found(self, views: Iterable[TileView]) -> list[str]:
        """An earlier process wrote these, oldest first; returns as `part` does."""
        gone: list[str] = []
        for view in views:
            if view.tile_id not in self._tiles:
                gone += self._put(view)
        return gone

    def _put(self, view: TileView) -> list[str]:
        self.version += 1
        acquisition = view.acquisition or self._acquisition(view)
        self._tiles[view.tile_id] = replace(view, version=self.version, acquisition=acquisition)
        self._tiles.move_to_end(view.tile_id)
        if view.state is not TileState.OPEN:
            self._frames.pop(view.tile_id, None)
        gone: list[str] = []
        while len(self._tiles) > self.max_tiles:
            tile_id, _ = self._tiles.popitem(last=False)
            self._frames.pop(tile_id, None)
            gone.append(tile_id)
        return gone

    def _acquisition(self, view: TileView) -> int:
        """The acquisition that a new tile is of; counted from 1."""
        seen: dict[int, list[TileView]] = {}
        for other in self._tiles.values():
            if (other.sensor, other.scene) == (view.sensor, view.scene):
                seen.setdefault(other.acquisition, []).append(other)
        for number in sorted(seen, reverse=True):
            if all(_in_order(view, other) for other in seen[number]):
                return number
        self._acquisitions += 1
        return self._acquisitions


def _in_order(one: TileView, other: TileView) -> bool:
    """Whether an instrument that goes through a scene once can have sent both."""
    here, there = (one.tile_row, one.tile_col), (other.tile_row, other.tile_col)
    if one.shape[0] != other.shape[0]:
        return False
    return here != there and (here < there) == (one.sequence < other.sequence)
