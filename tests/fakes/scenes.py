"""Scenes cut into tiles, and tiles written as products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from codec.tile import Tile
from daemon.ground.products import STAC, write_product
from daemon.ground.tile_products import TileProduct, tiles_of
from daemon.ground.write import file_stem
from fakes.ground import restored

Place = tuple[int, int]
"""(tile_row, tile_col)."""


def cut(scene: Tile, heights: Sequence[int], widths: Sequence[int]) -> dict[Place, Tile]:
    """A scene in tiles of these sizes, each with its place on the ground and a second later."""
    found = dict[Place, Tile]()
    tops, lefts = (list(accumulate(sizes, initial=0)) for sizes in (heights, widths))
    for row, height in enumerate(heights):
        for col, width in enumerate(widths):
            top, left, place = tops[row], lefts[col], scene.info.georeference
            if place is not None:
                a, b, c, d, e, f = place.transform
                corner = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
                place = replace(place, transform=corner)
            number = len(found)
            found[row, col] = Tile(
                samples=scene.samples[:, top : top + height, left : left + width],
                info=replace(
                    scene.info,
                    tile_row=row,
                    tile_col=col,
                    sequence=number,
                    start_utc_s=scene.info.start_utc_s + number,
                    georeference=place,
                ),
            )
    return found


def write(folder: Path, tile: Tile, *missing: Place, file_format: str = "npy") -> Path:
    """Write a tile as the ground does."""
    item = restored(tile, *missing)
    return write_product(item, folder / file_stem(tile.info), file_format)


def products(folder: Path, tiles: Iterable[Tile]) -> list[TileProduct]:
    """What is told of tiles that are there."""
    return list(tiles_of(folder, [file_stem(tile.info) + STAC for tile in tiles]))
