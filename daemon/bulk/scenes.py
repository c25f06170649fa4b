"""Scenes of what was decoded, put together with the ground's own code.

In a folder the items of products tell which tiles there are, and which scenes are due. A zarr store
has neither; there attributes of groups tell the one, and the journal the other.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from codec.errors import CodecError, TileFileError
from codec.tile_files import write_tile
from codec.tile_tags import from_tags
from codec.tile_writers import WRITERS
from daemon.bulk.jobs import DecodedTile, Output
from daemon.bulk.journal import Journal
from daemon.errors import OutputError, SceneError, SceneTileError
from daemon.ground.assemble import assemble, is_due, lacks, put_together
from daemon.ground.products import STAC
from daemon.ground.scenes import Scene, place
from daemon.ground.tile_products import TileProduct, scenes_of, several_tiles, tiles_of

_MAX_BYTES = sys.maxsize
"""Of samples: the disk is asked for them first."""


def scenes_in(
    output: Output,
    journal: Journal,
    tell: Callable[[str], object],
    again: Collection[str] = (),
) -> Iterator[Path]:
    """Put all scenes together that have tiles at more than one position.

    Args:
        output: Where tiles are, and scenes go.
        journal: Knows what tiles were made of.
        tell: Told why a scene cannot be put together.
        again: Names of tiles whose scenes are written anew, though they are as they should be.

    Yields:
        The product of each that can, whether or not it was there already.

    Raises:
        OutputError: If the folder cannot be read, or a product not written.
    """
    suffix = output.folder.suffix if output.is_store else ""
    try:
        names = os.listdir(output.folder)
    except OSError as error:
        raise OutputError(output.folder, str(error)) from None
    items = (name.removesuffix(suffix) + STAC for name in names) if suffix else names
    for name, found in several_tiles(items).items():
        tiles: Iterable[TileProduct] = tiles_of(output.folder, found)
        if output.is_store:
            stores = (output.folder / (item.removesuffix(STAC) + suffix) for item in found)
            tiles = (_of_store(path, journal) for path in stores)
        try:
            scenes = scenes_of(tiles)
        except SceneError as error:
            tell(f"{output.folder}: scene {name} is not put together: {error}")
            continue
        for of_one in scenes:
            anew = any(tile.name in again for tile in of_one)
            try:
                scene = place(of_one, _MAX_BYTES)
                if output.is_store:
                    yield _write_into_store(scene, output, journal, anew)
                else:
                    yield _write(scene, output, anew)
            except SceneError as error:
                tell(f"{output.folder}: scene {name} is not put together: {error}")


def _write(scene: Scene, output: Output, again: bool) -> Path:
    if is_due(scene, output.folder, output.file_format, again=again):
        return assemble(scene, output.folder, output.file_format)
    return output.folder / f"{scene.stem}{WRITERS[output.file_format][0]}"


def _write_into_store(scene: Scene, output: Output, journal: Journal, again: bool) -> Path:
    digest, path = blake2b(digest_size=16), output.folder / scene.stem
    for tile in scene.tiles:
        digest.update(f"{tile.product.name} {tile.product.digest}\n".encode())
    mark, file = digest.hexdigest(), f"{path.name}{output.folder.suffix}"
    now = {tile.product.place: (tile.product.name, tile.product.digest) for tile in scene.tiles}
    before = journal.made_of(path.name)
    if lacks(now, before, path.name) or not (again or journal.finds(mark) is None):
        return output.folder / file
    made = put_together(scene, output.folder, is_current=lambda _: True)
    try:
        written = write_tile(made.tile, path, output.file_format, made.layers)
    except TileFileError as error:
        raise OutputError(path, str(error)) from None
    journal.add(mark, DecodedTile(file=written.name), [(*at, *told) for at, told in now.items()])
    return written


def _of_store(path: Path, journal: Journal) -> TileProduct:
    """What a group of a zarr store tells of its tile.

    Raises:
        SceneTileError: If it is not as we write it.
    """
    zarr: Any = importlib.import_module("zarr")
    try:
        group = zarr.open_group(path, mode="r")
        info, samples = from_tags(dict(group.attrs)), group["samples"]
        received, step, psnr_db = (
            group[f"patch_{name}"][...] for name in ("received", "step", "psnr_db")
        )
        told = group["patch_received"].attrs
        patches = [
            {
                "row": row,
                "col": col,
                "received": bool(received[row, col]),
                "step": _known(step[row, col]),
                "psnr_db": _known(psnr_db[row, col]),
            }
            for row in range(received.shape[0])
            for col in range(received.shape[1])
        ]
        return TileProduct(
            path=path,
            digest=journal.marks.get(path.name, ""),
            sensor=info.sensor,
            scene=info.scene,
            tile_row=info.tile_row,
            tile_col=info.tile_col,
            sequence=info.sequence,
            dtype=samples.dtype.name,
            shape=samples.shape,
            patch_px=int(told["patch_px"]),
            transform=None if info.georeference is None else info.georeference.transform,
            quality={
                "complete": bool(received.all()),
                "model": str(told["model"]),
            },
            patches=lambda: patches,
        )
    except (OSError, ValueError, LookupError, TypeError, CodecError) as error:
        raise SceneTileError(f"{path}: cannot be read: {error!r}") from None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
