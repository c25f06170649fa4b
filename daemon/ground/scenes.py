"""A scene: where its tiles sit, and whether they can be put together.

Where they lie is told by their transforms if they have any; else rows and columns of tiles lie side
by side, and one that is missing is as large as the largest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise, product
from typing import Any, Final, TypeAlias

import numpy as np

from codec.patch_grid import PatchLattice
from codec.tile import MAX_EDGE_PX
from daemon.errors import ScenePlaceError, SceneSizeError, SceneUnlikeError
from daemon.ground.tile_products import TileProduct
from daemon.ground.write import safe_name

_STEM: Final = re.compile(r".+_scene_[0-9a-f]{8}", re.DOTALL)
_MAX_POSITIONS: Final = 1 << 16
"""Positions of tiles in a scene: the missing ones are listed."""
_MAX_PATCHES: Final = 1 << 18
"""Patches of a scene, those of gaps included: of each is told what is known of it."""
_WHOLE_PX: Final = 0.01
"""How far from a whole pixel a tile may lie [px]: what is left of it is rounding."""
_SAME_PIXEL: Final = 1e-7
"""Pixels are the same where they differ by less: over 65,536 of them less than `_WHOLE_PX`."""

Span: TypeAlias = tuple[int, int]
"""Half-open, along one axis [px]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    """A tile in its scene; row and col of its first pixel [px]."""

    product: TileProduct
    row: int
    col: int

    @property
    def rows(self) -> Span:
        """The scene's rows that it has."""
        return self.row, self.row + self.product.shape[1]

    @property
    def cols(self) -> Span:
        """The scene's columns that it has."""
        return self.col, self.col + self.product.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Tiles, each in its place, that can be written as one.

    Attributes:
        tiles: From top to bottom, then from left to right.
        grid: Patches of all of them, and of the gaps between them.
        missing: (tile_row, tile_col) of which there is no tile.
    """

    tiles: tuple[PlacedTile, ...]
    grid: PatchLattice
    missing: tuple[tuple[int, int], ...]

    @property
    def stem(self) -> str:
        """Name of its files without suffix."""
        first = self.tiles[0].product
        return scene_stem(first.sensor, first.scene)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its samples."""
        return np.dtype(self.tiles[0].product.dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, cols)."""
        return self.tiles[0].product.shape[0], self.grid.row_edges[-1], self.grid.col_edges[-1]

    @property
    def complete(self) -> bool:
        """Whether all tiles of the rectangle are there, without gaps, and all patches came."""
        covered_px = sum(math.prod(tile.product.shape[1:]) for tile in self.tiles)
        is_whole = not self.missing and covered_px == math.prod(self.shape[1:])
        return is_whole and all(tile.product.complete for tile in self.tiles)


def scene_stem(sensor: str, scene: str) -> str:
    """Name of a scene's files without suffix; its digits keep apart what is equal otherwise."""
    digits = blake2b(repr((sensor, scene)).encode(), digest_size=4).hexdigest()
    return f"{safe_name(scene)}_scene_{digits}"


def is_scene_stem(stem: str) -> bool:
    """Whether a name may be one of `scene_stem`; that of a tile is none."""
    return _STEM.fullmatch(stem) is not None


def place(tiles: Sequence[TileProduct], max_bytes: int) -> Scene:
    """Find out where tiles of a scene sit.

    Args:
        tiles: Of one scene, each at a position of its own.
        max_bytes: Most that its samples may take [bytes].

    Raises:
        SceneUnlikeError: If they cannot be in one array.
        ScenePlaceError: If they do not lie side by side, in whole pixels.
        SceneSizeError: If it is too large.
    """
    first = tiles[0]
    for tile in tiles:
        for what, one, other in (
            ("sample type", first.dtype, tile.dtype),
            ("bands", first.shape[0], tile.shape[0]),
            ("patches", first.patch_px, tile.patch_px),
            ("place on the ground", first.transform is None, tile.transform is None),
        ):
            if one != other:
                raise SceneUnlikeError(f"{tile.name} is of another {what} than {first.name}")
    placed = _by_position(tiles) if first.transform is None else _by_transform(tiles)
    rows, cols = _spans(tile.rows for tile in placed), _spans(tile.cols for tile in placed)
    if len({(tile.row, tile.col) for tile in placed}) < len(placed):
        raise ScenePlaceError("two of its tiles lie in the same place")
    shape = first.shape[0], rows[-1][1], cols[-1][1]
    size_bytes = math.prod(shape) * np.dtype(first.dtype).itemsize
    if max(shape[1:]) > MAX_EDGE_PX or size_bytes > max_bytes:
        raise SceneSizeError(f"it is {shape}, {size_bytes} bytes")
    grid = PatchLattice(
        row_edges=_edges(rows, first.patch_px),
        col_edges=_edges(cols, first.patch_px),
        patch_px=first.patch_px,
    )
    if math.prod(grid.shape) > _MAX_PATCHES:
        raise SceneSizeError(f"it has {grid.shape} patches, more than {_MAX_PATCHES}")
    return Scene(
        tiles=tuple(sorted(placed, key=lambda tile: (tile.row, tile.col))),
        grid=grid,
        missing=_missing({tile.place for tile in tiles}),
    )


def _by_transform(tiles: Sequence[TileProduct]) -> list[PlacedTile]:
    """Place tiles by where they lie on the ground, the first at row and column 0.

    Raises:
        ScenePlaceError: If they are not on one grid of pixels.
    """
    corners = list[tuple[TileProduct, int, int]]()
    for tile in tiles:
        (a, b, c, d, e, f), other = _transform(tiles[0]), _transform(tile)
        most = _SAME_PIXEL * max(map(abs, (a, b, d, e)))
        pixels = zip((a, b, d, e), (*other[:2], *other[3:5]), strict=True)
        size = a * e - b * d
        if not size or any(abs(one - another) > most for one, another in pixels):
            raise ScenePlaceError(f"pixels of {tile.name} are not those of {tiles[0].name}")
        x, y = other[2] - c, other[5] - f
        exact = (a * y - d * x) / size, (e * x - b * y) / size
        if not all(map(math.isfinite, exact)):
            raise ScenePlaceError(f"{tile.name} lies too far from {tiles[0].name}")
        row, col = map(round, exact)
        if max(abs(exact[0] - row), abs(exact[1] - col)) > _WHOLE_PX:
            raise ScenePlaceError(f"{tile.name} lies between pixels of {tiles[0].name}")
        corners.append((tile, row, col))
    top, left = min(row for _, row, _ in corners), min(col for *_, col in corners)
    return [PlacedTile(product=tile, row=row - top, col=col - left) for tile, row, col in corners]


def _by_position(tiles: Sequence[TileProduct]) -> list[PlacedTile]:
    """Place tiles side by side; one that is missing is as large as the largest."""
    heights, widths = dict[int, int](), dict[int, int]()
    for tile in tiles:
        _, rows, cols = tile.shape
        heights[tile.tile_row] = max(rows, heights.get(tile.tile_row, 0))
        widths[tile.tile_col] = max(cols, widths.get(tile.tile_col, 0))
    rows_at, cols_at = _starts(heights), _starts(widths)
    return [
        PlacedTile(product=tile, row=rows_at[tile.tile_row], col=cols_at[tile.tile_col])
        for tile in tiles
    ]


def _starts(lengths: Mapping[int, int]) -> dict[int, int]:
    """Where each of numbered spans begins, one behind the other."""
    usual, starts, end, following = max(lengths.values()), dict[int, int](), 0, min(lengths)
    for number in sorted(lengths):
        starts[number] = end + (number - following) * usual
        end, following = starts[number] + lengths[number], number + 1
    return starts


def _spans(spans: Iterable[Span]) -> list[Span]:
    """Each of these once, in order.

    Raises:
        ScenePlaceError: If some overlap.
    """
    found = sorted(set(spans))
    if any(one[1] > other[0] for one, other in pairwise(found)):
        raise ScenePlaceError("its tiles overlap, or do not lie in rows and columns")
    return found


def _edges(spans: Sequence[Span], patch_px: int) -> tuple[int, ...]:
    """Edges of patches along one axis, those that fill gaps included."""
    edges, end = list[int](), 0
    for start, stop in spans:
        edges += [*range(end, start, patch_px), *range(start, stop, patch_px)]
        end = stop
    return *edges, end


def _missing(there: Collection[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Positions of the rectangle around these that are not among them.

    Raises:
        SceneSizeError: If there are too many.
    """
    rows, cols = zip(*there, strict=True)
    rectangle = range(min(rows), max(rows) + 1), range(min(cols), max(cols) + 1)
    if math.prod(map(len, rectangle)) > _MAX_POSITIONS:
        raise SceneSizeError(f"it has more than {_MAX_POSITIONS} positions of tiles")
    return tuple(position for position in product(*rectangle) if position not in there)


def _transform(tile: TileProduct) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = tile.transform or ()
    return a, b, c, d, e, f
