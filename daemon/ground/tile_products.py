"""Tile products of a folder, as is told beside them, and which of them make a scene.

Tiles of one sensor and one scene's name are one scene. At one position, (tile_row, tile_col), the
highest sequence wins: it was shown last. What is told of a tile is read from its item and its file
of patches alone; a product without an item is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from codec.tile import SAMPLE_DTYPES
from daemon.errors import SceneChangedError, SceneTileError
from daemon.ground.products import QUALITY, STAC

_TILE_ITEM: Final = re.compile(
    rf"(?P<scene>.+)_(?P<place>r\d{{3,10}}c\d{{3,10}})_\d{{6,20}}_[0-9a-f]{{8}}{re.escape(STAC)}"
)
"""Names of items of tiles; see `daemon.ground.write.file_stem`."""
_REMEMBERED: Final = 1 << 12
"""Tiles, the last told of, whose items are not read again while they are the same: 3 KB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileProduct:
    """A tile product, as is told beside it.

    Attributes:
        path: What `read_tile` takes.
        digest: Of its item: another version of the product has another.
        sensor: As of `codec.tile.TileInfo`; so are the next four.
        scene: See there.
        tile_row: See there.
        tile_col: See there.
        sequence: See there.
        dtype: Type of its samples.
        shape: (bands, rows, cols).
        patch_px: Edge of a patch [px].
        transform: As of `codec.tile.Georeference`; None: nobody knows where it lies.
        quality: What is known of all its patches, as `daemon.ground.products.quality` has it.
        patches: Reads what is known of each, likewise; raises `OSError`, or what it trips over.
    """

    path: Path
    digest: str
    sensor: str
    scene: str
    tile_row: int
    tile_col: int
    sequence: int
    dtype: str
    shape: tuple[int, int, int]
    patch_px: int
    transform: tuple[float, ...] | None
    quality: Mapping[str, Any] = field(repr=False)
    patches: Callable[[], Sequence[Mapping[str, Any]]] = field(repr=False)

    @property
    def name(self) -> str:
        """Of the product."""
        return self.path.stem

    @property
    def place(self) -> tuple[int, int]:
        """Its position among the tiles of its scene."""
        return self.tile_row, self.tile_col

    @property
    def complete(self) -> bool:
        """Whether all its patches came."""
        return bool(self.quality["complete"])


def several_tiles(names: Iterable[str]) -> dict[str, list[str]]:
    """Find scenes that have tiles at more than one position, by names of files alone.

    Returns:
        Names of the items of tiles, by what of the scene's name goes into them.
    """
    items, places = defaultdict[str, list[str]](list), defaultdict[str, set[str]](set)
    for name in names:
        if name.endswith(STAC) and (match := _TILE_ITEM.fullmatch(name)):
            items[match["scene"]].append(name)
            places[match["scene"]].add(match["place"])
    return {scene: items[scene] for scene, found in sorted(places.items()) if len(found) > 1}


def tiles_of(folder: Path, items: Iterable[str]) -> Iterator[TileProduct]:
    """Read what is told of tiles, by names of their items, one by one.

    Raises:
        SceneTileError: If it is not as we write it.
        SceneChangedError: If one was withdrawn meanwhile.
    """
    for item_path in map(folder.joinpath, items):
        yield _told_of(item_path, file_state(item_path))


def scenes_of(tiles: Iterable[TileProduct]) -> list[list[TileProduct]]:
    """Which of these are of one scene: of every position the last, of scenes of more than one."""
    scenes = defaultdict[tuple[str, str], dict[tuple[int, int], TileProduct]](dict)
    for tile in tiles:
        last = scenes[tile.sensor, tile.scene].setdefault(tile.place, tile)
        if (tile.sequence, tile.name) > (last.sequence, last.name):
            scenes[tile.sensor, tile.scene][tile.place] = tile
    return [
        sorted(places.values(), key=lambda tile: tile.place)
        for _, places in sorted(scenes.items())
        if len(places) > 1
    ]


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Tells a file, or a folder, from what takes its place; None: it is not there."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


def is_current(tile: TileProduct) -> bool:
    """Whether a product is still the version that was told of.

    Raises:
        SceneTileError: If its item is there and cannot be read.
    """
    try:
        return _digest(_item_path(tile.path).read_bytes()) == tile.digest
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SceneTileError(f"{_item_path(tile.path)}: cannot be read: {error!r}") from None


@lru_cache(_REMEMBERED)
def _told_of(item_path: Path, _: tuple[int, int, int] | None) -> TileProduct:
    """Read what is told of a tile whose item is in this state; errors are not remembered."""
    quality_path = item_path.with_name(item_path.name.removesuffix(STAC) + QUALITY)
    try:
        raw = item_path.read_bytes()
        told, quality = json.loads(raw), json.loads(quality_path.read_bytes())
        properties, data = told["properties"], told["assets"]["data"]
        (row, col), (rows, cols) = properties["prismlink:tile"], properties["proj:shape"]
        file, dtype = str(data["href"]).removeprefix("./"), str(data["data_type"])
        if file != Path(file).name or dtype not in SAMPLE_DTYPES:
            raise ValueError(f"{dtype} samples in {file}")
        transform = tuple(map(float, properties.get("proj:transform", ())))
        if len(transform) not in (0, 6):
            raise ValueError(f"a transform of {len(transform)} numbers")
        return TileProduct(
            path=item_path.with_name(file),
            digest=_digest(raw),
            sensor=str(properties.get("instruments", [""])[0]),
            scene=str(properties["prismlink:scene"]),
            tile_row=int(row),
            tile_col=int(col),
            sequence=int(properties["prismlink:sequence"]),
            dtype=dtype,
            shape=(len(data["bands"]), int(rows), int(cols)),
            patch_px=int(quality["patch_px"]),
            transform=transform or None,
            quality={name: told for name, told in quality.items() if name != "patches"},
            patches=partial(_patches, quality_path),
        )
    except FileNotFoundError as error:
        if item_path.exists():  # then its file of patches was taken away, and none is on its way
            raise SceneTileError(f"{item_path}: cannot be read: {error}") from None
        raise SceneChangedError(f"{item_path.name} was withdrawn") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SceneTileError(f"{item_path}: cannot be read: {error!r}") from None


def _patches(quality_path: Path) -> Any:
    return json.loads(quality_path.read_bytes())["patches"]


def _item_path(product: Path) -> Path:
    return product.with_name(product.stem + STAC)


def _digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()
