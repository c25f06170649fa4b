"""Tiles of a scene in, its product out: as a function of their products alone.

In whatever order tiles came, over however many passes: the same tiles give the same files. Samples
are put together on the disk, one tile at a time, in a file without a name: that is gone with the
process, however it ends.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codec.errors import TileFileError
from codec.patch_layers import PatchLayers
from codec.tile import Georeference, Samples, Tile, TileInfo, fill_value
from codec.tile_files import read_tile
from daemon.errors import OutputError, SceneChangedError, SceneTileError, SceneUnlikeError
from daemon.ground.products import QUALITY, STAC, Beside, Version, listed, write_version
from daemon.ground.scenes import PlacedTile, Scene
from daemon.ground.stac import Asset, feature, utc
from daemon.ground.tile_products import TileProduct, is_current

Tiles: TypeAlias = Mapping[tuple[int, int], tuple[str, str]]
"""Tiles that a product is made of: name and digest by position."""

_SAME: Final = ("sensor", "scene", "reflectance_scale", "nodata", "wavelengths_nm", "fwhm_nm")
"""What tiles of a scene have in common, beside shape and type."""
_OF_A_TILE: Final = ("version", "sha256", "complete", "model")
"""What is told of each tile, as its own file of patches has it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembled:
    """A scene put together.

    Attributes:
        tile: All of it, as one tile; its samples are on the disk.
        layers: What came of it.
        patches: What is known of each patch, as JSON values.
        times_s: Of the first line of the first tile and of the last [s since 1970-01-01 UTC], of
            those that are known; empty if none is.
    """

    tile: Tile
    layers: PatchLayers
    patches: Sequence[dict[str, Any]]
    times_s: tuple[float, ...]


def is_due(scene: Scene, folder: Path, file_format: str, *, again: bool = False) -> bool:
    """Whether a scene is to be put together: its product is not whole, or was made of others.

    Args:
        scene: Of which tiles.
        folder: Where its files go.
        file_format: As in `codec.tile_files.write_tile`.
        again: Whether also if it is as it should be.

    Raises:
        SceneTileError: If there is a new tile, and one that the product was made of is gone:
            without it the product would be poorer than it is.
    """
    path = folder / scene.stem
    try:
        told = json.loads(path.with_name(path.name + QUALITY).read_bytes())
        before = {
            (row, col): (str(tile["name"]), str(tile["item_sha256"]))
            for tile in told["tiles"]
            for row, col in [tile["tile"]]
        }
        as_now = told["format"] == file_format
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True
    now = {tile.product.place: (tile.product.name, tile.product.digest) for tile in scene.tiles}
    if lacks(now, before, path.name):
        return False
    return again or not as_now or now != before or not listed(path)


def lacks(now: Tiles, before: Tiles, name: str) -> bool:
    """Whether there is nothing new, and tiles that a product was made of were taken away.

    Raises:
        SceneTileError: If there is something new: without them the product would be poorer.
    """
    gone = before.keys() - now.keys()
    if gone and not now.items() <= before.items():
        raise SceneTileError(
            f"tile {min(gone)} is no longer there; remedy: put it back, or remove {name}.*"
        )
    return bool(gone)


def assemble(scene: Scene, folder: Path, file_format: str) -> Path:
    """Write the product of a scene, or replace it by a new version of it.

    Args:
        scene: Of which tiles.
        folder: Where its files go.
        file_format: As in `codec.tile_files.write_tile`.

    Returns:
        The path that `read_tile` takes.

    Raises:
        OutputError: If it cannot be written; what was there is then as it was, or has no item.
        SceneError: If tiles cannot be read, do not fit each other, or change meanwhile.
    """
    made = put_together(scene, folder)
    beside = Beside(
        quality=partial(_quality, scene, made, file_format), item=partial(_item, scene, made)
    )
    return write_version(made.tile, made.layers, folder / scene.stem, file_format, beside)


def put_together(
    scene: Scene, folder: Path, is_current: Callable[[TileProduct], bool] = is_current
) -> Assembled:
    """Put a scene together, and write nothing.

    Args:
        scene: Of which tiles.
        folder: On a disk with room for its samples.
        is_current: Whether a tile that was read is still the one that was told of.

    Raises:
        OutputError: If there is no room.
        SceneError: If tiles cannot be read, do not fit each other, or change meanwhile.
    """
    patches, layers = _known(scene, is_current)
    samples = _room(scene, folder)
    infos = _fill(samples, scene, is_current)
    times_s = sorted(info.start_utc_s for info in infos if info.start_utc_s)
    info = replace(
        infos[0],
        tile_row=min(info.tile_row for info in infos),
        tile_col=min(info.tile_col for info in infos),
        sequence=max(info.sequence for info in infos),
        start_utc_s=times_s[0] if times_s else 0.0,
        georeference=_corner(infos[0].georeference, scene.tiles[0]),
    )
    return Assembled(
        tile=Tile(samples=samples, info=info),
        layers=layers,
        patches=patches,
        times_s=(times_s[0], times_s[-1]) if times_s else (),
    )


def _room(scene: Scene, folder: Path) -> Samples:
    """An array of zeros on the disk, in a file without a name, gone with the array.

    The disk gives all of the room now: had it none later, the process would be killed.

    Raises:
        OutputError: If there is none.
    """
    size_bytes = math.prod(scene.shape) * scene.dtype.itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.asarray(np.memmap(file, scene.dtype, "r+", shape=scene.shape))
    except OSError as error:
        cause = f"{error}, for {size_bytes} bytes of samples"
        raise OutputError(folder / scene.stem, cause) from None


def _fill(
    samples: Samples, scene: Scene, is_current: Callable[[TileProduct], bool]
) -> list[TileInfo]:
    """Put all tiles where they belong, and fill value where there is none.

    Returns:
        What is known of each tile.

    Raises:
        SceneError: If one cannot be read, does not fit the first, or changes meanwhile.
    """
    infos = list[TileInfo]()
    covered = np.zeros(scene.grid.shape, dtype=np.bool_)
    for placed in scene.tiles:
        tile = _read(placed.product, is_current)
        infos.append(tile.info)
        _check_like(infos[0], tile.info, placed.product)
        samples[:, slice(*placed.rows), slice(*placed.cols)] = tile.samples
        covered[_cells(scene, placed)] = True
    fill = fill_value(scene.dtype, infos[0].nodata)
    rows, cols = (list(pairwise(edges)) for edges in (scene.grid.row_edges, scene.grid.col_edges))
    for row, col in np.argwhere(~covered):
        samples[:, slice(*rows[row]), slice(*cols[col])] = fill
    return infos


def _read(told: TileProduct, is_current: Callable[[TileProduct], bool]) -> Tile:
    """Read a tile.

    Raises:
        SceneError: If that fails, or what was read is not what was told of.
    """
    try:
        tile = read_tile(told.path)
    except TileFileError as error:
        if not is_current(told):
            raise SceneChangedError(f"{told.name} was replaced") from None
        raise SceneTileError(str(error)) from None
    if not is_current(told):
        raise SceneChangedError(f"{told.name} was replaced")
    if (tile.samples.shape, tile.samples.dtype.name) != (told.shape, told.dtype):
        raise SceneTileError(f"{told.path}: its samples are not as its item says")
    return tile


def _check_like(first: TileInfo, info: TileInfo, told: TileProduct) -> None:
    """Check that a tile fits the first one.

    Raises:
        SceneUnlikeError: If it does not.
    """
    crs = [place and place.crs for place in (first.georeference, info.georeference)]
    # As text: of numbers, NaN is not itself.
    unlike = [name for name in _SAME if repr(getattr(first, name)) != repr(getattr(info, name))]
    if unlike or crs[0] != crs[1]:
        what = ", ".join(unlike) or "CRS"
        raise SceneUnlikeError(f"{told.name} differs from the first of its tiles in {what}")


def _corner(georeference: Georeference | None, placed: PlacedTile) -> Georeference | None:
    """Where a scene lies, by where one of its tiles does."""
    if georeference is None:
        return None
    a, b, c, d, e, f = georeference.transform
    x, y = c - a * placed.col - b * placed.row, f - d * placed.col - e * placed.row
    return replace(georeference, transform=(a, b, x, d, e, y))


def _cells(scene: Scene, placed: PlacedTile) -> tuple[slice, slice]:
    """A tile's patches in the grid of its scene."""
    rows, cols = (
        slice(*(bisect_left(edges, at) for at in span))
        for edges, span in (
            (scene.grid.row_edges, placed.rows),
            (scene.grid.col_edges, placed.cols),
        )
    )
    return rows, cols


def _known(
    scene: Scene, is_current: Callable[[TileProduct], bool]
) -> tuple[list[dict[str, Any]], PatchLayers]:
    """What is known of each patch of a scene; those of tiles that are missing did not come.

    Raises:
        SceneTileError: If what is told of a tile's patches is not as we write it.
        SceneChangedError: If it is another version's.
    """
    known = dict[tuple[int, int], dict[str, Any]]()
    try:
        for placed in scene.tiles:
            rows, cols = _cells(scene, placed)
            cells = product(range(rows.start, rows.stop), range(cols.start, cols.stop))
            for (row, col), patch in zip(cells, placed.product.patches(), strict=True):
                if (rows.start + patch["row"], cols.start + patch["col"]) != (row, col):
                    raise ValueError(
                        f"patch {patch['row']}, {patch['col']} of {placed.product.name}"
                    )
                known[row, col] = {**patch, "row": row, "col": col}
        nothing = dict.fromkeys(next(iter(known.values())), None) | {"received": False}
        patches = [
            known.get((row, col)) or {**nothing, "row": row, "col": col}
            for row, col in product(*map(range, scene.grid.shape))
        ]
        return patches, _layers(scene, patches)
    except (OSError, ValueError, LookupError, TypeError) as error:
        if not all(is_current(placed.product) for placed in scene.tiles):
            raise SceneChangedError(f"a tile of {scene.stem} was replaced") from None
        cause = error if isinstance(error, OSError) else repr(error)  # the one names its file
        raise SceneTileError(f"patches of {scene.stem} cannot be told: {cause}") from None


def _layers(scene: Scene, patches: Sequence[dict[str, Any]]) -> PatchLayers:
    def of(name: str) -> NDArray[np.float32]:
        values = [math.nan if patch[name] is None else patch[name] for patch in patches]
        return np.array(values, dtype=np.float32).reshape(scene.grid.shape)

    return PatchLayers(
        grid=scene.grid,
        received=of("received").astype(np.bool_),
        step=of("step"),
        psnr_db=of("psnr_db"),
        model=_models(scene),
    )


def _models(scene: Scene) -> str:
    """Names of the models that coded it; one, if the board did not change it meanwhile."""
    return ",".join(sorted({str(tile.product.quality["model"]) for tile in scene.tiles}))


def _quality(scene: Scene, made: Assembled, file_format: str, version: Version) -> dict[str, Any]:
    """Describe a scene tile by tile and patch by patch, as a tile is described."""
    return {
        "version": version.number,
        "sha256": version.digest,
        "complete": scene.complete,
        "format": file_format,
        "model": _models(scene),
        "patch_px": scene.grid.patch_px,
        "grid": list(scene.grid.shape),
        "row_edges": list(scene.grid.row_edges),
        "col_edges": list(scene.grid.col_edges),
        "tiles": [
            {
                "name": tile.product.name,
                "item_sha256": tile.product.digest,
                "tile": list(tile.product.place),
                "sequence": tile.product.sequence,
                "offset": [tile.row, tile.col],
                "shape": list(tile.product.shape[1:]),
                **{name: tile.product.quality[name] for name in _OF_A_TILE},
            }
            for tile in scene.tiles
        ],
        "tiles_missing": [list(position) for position in scene.missing],
        "patches": list(made.patches),
    }


def _item(scene: Scene, made: Assembled, assets: Sequence[Asset], version: int) -> dict[str, Any]:
    """Make the STAC item of a scene."""
    holes = [[patch["row"], patch["col"]] for patch in made.patches if not patch["received"]]
    tiles = len(scene.tiles)
    properties: dict[str, Any] = {
        "processing:lineage": (
            f"Put together from {tiles} of {tiles + len(scene.missing)} tiles, decoded from "
            f"{len(made.patches) - len(holes)} of {len(made.patches)} patches."
        ),
        "prismlink:complete": scene.complete,
        "prismlink:scene": scene.tiles[0].product.scene,
        "prismlink:tiles": tiles + len(scene.missing),
        "prismlink:tiles_missing": [list(position) for position in scene.missing],
        "prismlink:model": _models(scene),
        "prismlink:patches": len(made.patches),
        "prismlink:patches_missing": holes,
    }
    if made.times_s:
        properties["start_datetime"], properties["end_datetime"] = map(utc, made.times_s)
    links = [
        {
            "rel": "derived_from",
            "href": f"./{tile.product.name}{STAC}",
            "type": "application/geo+json",
        }
        for tile in scene.tiles
    ]
    return feature(made.tile, properties, assets, name=scene.stem, version=version, links=links)
