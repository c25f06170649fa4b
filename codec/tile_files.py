"""Tiles from files and into files, whatever the format.

The codec has no input or output of its own, by rule. This module and those it stands on
(`tile_tags`, `tile_readers`, `tile_writers`, with a writer each for GeoTIFF and zarr) depart from
that: the daemon's feed, its ground writer and the training scenes need the same readers and
writers, and those two packages may not import each other, so what they share has to lie below
both. Nothing else in the codec imports it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from codec.errors import TileFileError
from codec.patch_layers import PatchLayers
from codec.tile import Tile
from codec.tile_readers import (
    read_envi,
    read_geotiff,
    read_mat,
    read_npy,
    read_npz,
    read_zarr,
)
from codec.tile_writers import WRITERS, publish

READERS: Final[dict[str, tuple[str, Callable[[Path], Tile]]]] = {
    ".tif": ("GeoTIFF", read_geotiff),
    ".tiff": ("GeoTIFF", read_geotiff),
    ".hdr": ("ENVI image", read_envi),
    ".mat": ("MATLAB file", read_mat),
    ".npy": ("NumPy array", read_npy),
    ".npz": ("NumPy archive", read_npz),
    ".zarr": ("zarr store", read_zarr),
}
"""Suffix to the format's name and its reader."""


def read_tile(path: Path) -> Tile:
    """Read a scene as one tile, at row 0, column 0 and sequence 0 unless the file says other.

    Args:
        path: GeoTIFF, ENVI header or its data file, `.mat`, `.npy`, `.npz` or our own `.zarr`.

    Returns:
        The tile. Where the file does not tell the sample value of reflectance 1.0, it is 10,000
        for integers and 1 for floats; where it names no scene, the scene is the file's name.

    Raises:
        TileFileError: If the file is absent, of no known format, broken, or holds no tile.
    """
    path = Path(path)
    if not path.exists():
        raise TileFileError(f"{path}: no such file; remedy: check the path")
    if not (path.is_file() or path.is_dir()):  # a pipe nobody writes to would be waited for
        raise TileFileError(f"{path}: no regular file; remedy: check the path")
    known = READERS.get(path.suffix.lower())
    if known is None and (header := _header_of(path)) is not None:
        path, known = header, READERS[".hdr"]
    if known is None:
        raise TileFileError(f"{path}: unknown format; remedy: one of {', '.join(READERS)}")
    name, reader = known
    try:
        return reader(path)
    except TileFileError:
        raise
    except Exception as error:
        # Of a broken file, parsers of others (GDAL, scipy, zarr, zipfile) raise whatever they
        # trip over, IndexError and struct.error included; no list of types would be complete.
        reason = str(error) or type(error).__name__
        raise TileFileError(
            f"{path}: not a readable {name}: {reason}; remedy: check that the file is whole"
        ) from error


def find_scenes(path: Path) -> list[Path]:
    """Find the scenes at a path, in order of their names.

    Args:
        path: A file, or a folder that is searched to the bottom. Quality layers of EnMAP and
            HySpecNet-11k, hidden files and a `-DATA.npy` beside its own GeoTIFF are no scenes.

    Returns:
        Paths for `read_tile`, at least one.

    Raises:
        TileFileError: If there is none.
    """
    path = Path(path)
    if not path.exists():
        raise TileFileError(f"{path}: no such file or folder; remedy: check the path")
    if path.is_file() or path.suffix.lower() == ".zarr":
        return [path]
    found: list[Path] = []
    for folder, folders, files in os.walk(path):
        found += [Path(folder, name) for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [
            n for n in folders if not n.startswith(".") and not n.lower().endswith(".zarr")
        ]
        found += [Path(folder, name) for name in files if _is_scene(name, files)]
    if not found:
        raise TileFileError(f"{path}: no scene there; remedy: one of {', '.join(READERS)}")
    return sorted(found)


def write_tile(
    tile: Tile,
    path: Path,
    format: str,  # noqa: A002  # the command's word
    layers: PatchLayers | None = None,
    before_replacing: Callable[[], object] = lambda: None,
) -> Path:
    """Write a tile such that `read_tile` gives the same tile back.

    The file appears whole or not at all. Text that is no CRS is kept and read back, but other
    software sees a tile without one.

    Args:
        tile: What to write.
        path: Where; the format's suffix is added unless it is there. Missing folders are made.
        format: "geotiff", "cog" (a cloud-optimized one), "envi" (`.hdr` and `.img`), "zarr" or
            "npy" (`.npy` and `.json`).
        layers: What came of it, where that is to be told: holes are then marked in all formats
            but npy, and zarr stores hold the layers.
        before_replacing: As of `codec.tile_writers.publish`.

    Returns:
        The path that `read_tile` takes.

    Raises:
        TileFileError: If the format is unknown or the file cannot be written.
    """
    if format not in WRITERS:
        raise TileFileError(f"{path}: unknown format {format!r}; remedy: one of {list(WRITERS)}")
    suffix, writer = WRITERS[format]
    path = Path(path)
    if path.suffix != suffix:
        path = path.with_name(path.name + suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(tile, path, partial(writer, layers=layers), before_replacing)
    except TileFileError:
        raise
    except Exception as error:
        # As in read_tile: a full disk surfaces as GDAL's, zarr's or the system's own error.
        raise TileFileError(
            f"{path}: cannot be written: {error}; remedy: check the folder and its free space"
        ) from error
    return path


def _header_of(data: Path) -> Path | None:
    """The ENVI header of a data file: x.hdr or x.img.hdr for x.img."""
    candidates = (data.with_suffix(".hdr"), data.with_name(data.name + ".hdr"))
    return next((c for c in candidates if c.is_file()), None)


def _is_scene(name: str, beside: list[str]) -> bool:
    if name.startswith(".") or "-QL_" in name or Path(name).suffix.lower() not in READERS:
        return False
    return name.removesuffix("-DATA.npy") + "-SPECTRAL_IMAGE.TIF" not in beside
