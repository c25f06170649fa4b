"""A restored tile in, its product out: samples, what is known of each patch, and a STAC item.

`write_product` is what the ground and `prismlink decode` write tiles with; scenes share its steps,
`write_version` (`daemon.ground.assemble`). Every file appears whole or
not at all. The item comes last and goes first: while it is there, all it lists is there and has the
checksums it gives. Nothing in the files of samples depends on when, how often or over how many
passes they were written; what does (versions, boots, packets) is in the files beside them. The one
exception is the PSNR of patches in a Zarr store: as much as was known when that was written.

There is one product of a name. Samples in another format that were there before are removed: all
that is told beside them is of the new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from codec.errors import TileFileError
from codec.patch_layers import PatchLayers
from codec.tile import Tile
from codec.tile_files import write_tile
from codec.tile_writers import ENVI_SUFFIX, MASK, SCRATCH, WRITERS
from daemon.errors import OutputError
from daemon.files import write_whole
from daemon.ground.items import RestoredTile
from daemon.ground.stac import Asset, item_of, with_asset
from daemon.link.quality_note import Measured

QUALITY: Final = ".quality.json"
STAC: Final = ".stac.json"
"""What the file of a product's patches, and its STAC item, end in."""
WITHDRAWN: Final = f"{STAC}.withdrawn"
"""What an item ends in, behind a dot, while its product's file of patches is written anew."""

Json: TypeAlias = Mapping[str, object]
"""An object of JSON values."""

_READ_BYTES: Final = 1 << 20
_NOTHING: Final = MappingProxyType[str, Callable[[str], Json]]({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Of a product, and the digest of its samples' files by which a new one is told."""

    number: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What is told beside the samples of a product, once these are written.

    Attributes:
        quality: Makes what is known of its patches, from the version.
        item: Makes the STAC item, from the files and the version's number.
        others: Further files: what a name ends in, and what makes of the name of the samples' file
            the values to write.
    """

    quality: Callable[[Version], Json]
    item: Callable[[Sequence[Asset], int], Json]
    others: Mapping[str, Callable[[str], Json]] = field(default_factory=dict)


def write_product(
    item: RestoredTile,
    path: Path,
    file_format: str,
    others: Mapping[str, Callable[[str], Json]] = _NOTHING,
) -> Path:
    """Write the product of a tile, or replace it by a new version of it.

    Args:
        item: The tile as far as it arrived.
        path: Where, without a suffix.
        file_format: As in `codec.tile_files.write_tile`.
        others: As of `Beside`.

    Returns:
        The path that `read_tile` takes.

    Raises:
        OutputError: As of `write_version`.
    """
    beside = Beside(
        quality=partial(quality, item),
        item=lambda assets, number: item_of(item, assets, name=path.name, version=number),
        others=others,
    )
    return write_version(item.tile, layers_of(item), path, file_format, beside)


def write_version(
    tile: Tile, layers: PatchLayers, path: Path, file_format: str, beside: Beside
) -> Path:
    """Write a product, or replace it by a new version of it, also one in another format.

    Args:
        tile: Its samples.
        layers: What came of them.
        path: Where, without a suffix.
        file_format: As in `codec.tile_files.write_tile`.
        beside: What is told beside it.

    Returns:
        The path that `read_tile` takes.

    Raises:
        OutputError: If any of it cannot be written; what was there is then as it was, or has no
            item.
    """
    paths = {end: path.with_name(path.name + end) for end in (QUALITY, STAC, *beside.others)}
    before = _version_in(paths[QUALITY])

    def withdraw() -> None:
        for told in (paths[STAC], _withdrawn(path)):
            told.unlink(missing_ok=True)

    try:
        written = write_tile(tile, path, file_format, layers, withdraw)
        _remove_other_formats(path, written)
    except (OSError, TileFileError) as error:
        raise OutputError(path, str(error)) from None
    assets = [_asset(part) for part in parts_of(written)]
    digest = hashlib.sha256("".join(asset.sha256 for asset in assets).encode()).hexdigest()
    version = Version(number=before.number + (digest != before.digest), digest=digest)
    write_whole(paths[QUALITY], _json(beside.quality(version)))
    assets.append(_asset(paths[QUALITY]))
    for end, make in beside.others.items():
        write_whole(paths[end], _json(make(written.name)))
        assets.append(_asset(paths[end]))
    write_whole(paths[STAC], _json(beside.item(assets, version.number)))
    return written


def measured_in(path: Path, item: RestoredTile) -> dict[tuple[int, int], Measured]:
    """Read what was measured on board of patches that a product has, as they are in a tile, too.

    Args:
        path: Of the product, without a suffix; it need not be there.
        item: The tile; what was measured of a patch of another model or step is not of its patch.

    Returns:
        By (row, col).
    """
    try:
        told = json.loads(path.with_name(path.name + QUALITY).read_bytes())
        if told["model"] != item.side.model.hex():
            return {}
        return {
            (patch["row"], patch["col"]): Measured(patch["psnr_db"], patch["max_abs_error"])
            for patch in told["patches"]
            if (record := item.records.get((patch["row"], patch["col"])))
            and record.step == patch["step"]
            and isinstance(patch.get("max_abs_error"), float)
            and isinstance(patch["psnr_db"], float)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def amend_product(path: Path, measured: Mapping[tuple[int, int], Measured]) -> bool:
    """Write what was measured on board into a product's file of patches, and its item.

    Args:
        path: Of the product, without a suffix.
        measured: By (row, col).

    Returns:
        Whether that is news. A product that was taken away, or has no item, is left as it is.

    Raises:
        OutputError: If the files are not ours, or cannot be written; there may be no item then,
            until `mend_item`.
    """
    mend_item(path)
    quality_path, item_path = (path.with_name(path.name + end) for end in (QUALITY, STAC))
    try:
        told, item = (json.loads(part.read_bytes()) for part in (quality_path, item_path))
        changed = False
        for patch in told["patches"]:
            known = measured.get((patch["row"], patch["col"])) if patch["received"] else None
            if known is not None and not known._asdict().items() <= patch.items():
                patch.update(known._asdict())
                changed = True
        if not changed:
            return False
        with_asset(item, _asset(quality_path))  # what cannot be mended is not begun
        item_path.replace(_withdrawn(path))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(quality_path, f"not amended: {error!r}") from None
    try:
        write_whole(quality_path, _json(told))
    except OutputError:  # the file is as it was, and so shall be the item
        with contextlib.suppress(OSError):
            _withdrawn(path).replace(item_path)
        raise
    mend_item(path)
    return True


def mend_item(path: Path) -> None:
    """Give a product its item again that `amend_product` has withdrawn; if none was, do nothing.

    Args:
        path: Of the product, without a suffix.

    Raises:
        OutputError: If it cannot be read or written, or the product is there no more.
    """
    quality_path, item_path = (path.with_name(path.name + end) for end in (QUALITY, STAC))
    withdrawn = _withdrawn(path)
    try:
        item = json.loads(withdrawn.read_bytes())
        write_whole(item_path, _json(with_asset(item, _asset(quality_path))))
        withdrawn.unlink()
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(item_path, f"not mended: {error!r}") from None


def layers_of(item: RestoredTile) -> PatchLayers:
    """What is known of a tile's patches, on their grid."""
    grid = item.side.grid
    received = np.ones(grid.shape, dtype=np.bool_)
    step, psnr_db = np.full((2, *grid.shape), np.nan, dtype=np.float32)
    for position in item.missing:
        received[position] = False
    for position, record in item.records.items():
        step[position] = record.step
        psnr_db[position] = math.nan if record.psnr_db is None else record.psnr_db
    return PatchLayers(
        grid=grid, received=received, step=step, psnr_db=psnr_db, model=item.side.model.hex()
    )


def quality(item: RestoredTile, version: Version) -> dict[str, object]:
    """Describe a product patch by patch; null is what is not known."""
    grid, missing = item.side.grid, set(item.missing)

    def describe(position: tuple[int, int]) -> dict[str, object]:
        record = item.records.get(position)
        packets = record and record.packets
        return {
            "row": position[0],
            "col": position[1],
            "received": position not in missing,
            "step": record and record.step,
            "psnr_db": record and record.psnr_db,
            "max_abs_error": record and record.max_abs_error,
            "packets": packets and packets.segments,
            "packets_repaired": packets and packets.repaired,
        }

    return {
        "version": version.number,
        "sha256": version.digest,
        "complete": not missing,
        "model": item.side.model.hex(),
        "patch_px": grid.patch_px,
        "grid": list(grid.shape),
        "patches": [describe(position) for position in grid],
    }


def listed(path: Path) -> list[str]:
    """Names of what a product's item lists, if all is there, of the size it gives; else none.

    No file is read.

    Args:
        path: Of the product, without a suffix.
    """
    names = list[str]()
    try:
        item = json.loads(path.with_name(path.name + STAC).read_bytes())
        for told in item["assets"].values():
            part = path.with_name(str(told["href"]).removeprefix("./"))
            if not part.is_dir() and part.stat().st_size != told["file:size"]:
                return []
            names.append(part.name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return names


def parts_of(path: Path) -> list[Path]:
    """The files, or the one folder, of a tile's samples, by the path that `read_tile` takes."""
    if path.suffix == ENVI_SUFFIX:
        mask = path.with_suffix(MASK)
        return [path.with_suffix(".img"), path, *([mask] if mask.exists() else [])]
    return [path, path.with_suffix(".json")] if path.suffix == ".npy" else [path]


def file_sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def tree_sha256(folder: Path) -> str:
    """One digest of all files in a folder and their names: SHA-256 of what `sha256sum` prints.

    The same as `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` in the folder.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in _files_in(folder))
    lines = "".join(f"{file_sha256(folder / name)}  ./{name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def _remove_other_formats(path: Path, written: Path) -> None:
    """Remove samples of a product in other formats, each in one step, what readers open first.

    Raises:
        OSError: If that fails.
    """
    opened = {path.with_name(path.name + suffix) for suffix, _ in WRITERS.values()} - {written}
    others = [
        part
        for other in opened
        for part in dict.fromkeys((other, *parts_of(other)))
        if part.exists()
    ]
    if not others:
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=SCRATCH) as scratch:
        for part in others:
            part.rename(Path(scratch) / part.name)


def _asset(path: Path) -> Asset:
    """Read back what was written."""
    try:
        folder = path.is_dir()
        size_bytes = sum(file.stat().st_size for file in (_files_in(path) if folder else [path]))
        sha256 = tree_sha256(path) if folder else file_sha256(path)
    except OSError as error:
        raise OutputError(path, str(error)) from None
    return Asset(name=path.name, size_bytes=size_bytes, sha256=sha256, folder=folder)


def _withdrawn(path: Path) -> Path:
    return path.with_name(f".{path.name}{WITHDRAWN}")


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def version_of(path: Path) -> int:
    """Number of the version of a product that is there, by its path without a suffix; 0: none."""
    return _version_in(path.with_name(path.name + QUALITY)).number


def _version_in(path: Path) -> Version:
    """The version that is there; none, if that cannot be told."""
    try:
        told = json.loads(path.read_bytes())
        return Version(number=int(told["version"]), digest=str(told["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Version()


def _json(told: Json) -> bytes:
    return (json.dumps(told, indent=1) + "\n").encode()
