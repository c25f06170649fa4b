"""A scientist's script that reads products all the while they are being written, and judges them.

`python -m fakes.product_reader DIRECTORY FORMAT` reads until there is a file `stop`, and once more.
What it reads must be whole: it opens, in a GeoTIFF each sample that is called valid is that of its
tile, and where the item was the same before and after, all of it is as the item says. What is not
so ends it with an error. `passes` holds how often it read what an item stands for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import xarray
from numpy.typing import NDArray

from codec.tile import Georeference, Tile
from daemon.ground.products import STAC, file_sha256, parts_of, tree_sha256
from fakes import cubes

PLACE: Final = Georeference(
    crs="EPSG:32618", transform=(30.0, 0.0, 688_005.0, 0.0, -30.0, 4_561_935.0)
)
SUFFIXES: Final = {"geotiff": ".tif", "envi": ".hdr", "zarr": ".zarr", "npy": ".npy"}


def tile_of(sequence: int) -> Tile:
    """Four patches without a fill value of their own: zero is a sample like any other."""
    return cubes.tile(
        bands=3, rows=200, cols=200, dtype="uint16", sequence=sequence, seed=sequence,
        georeference=PLACE,
    )  # fmt: skip


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Samples, and by pixel what is valid; None where the format cannot tell."""
    if path.suffix == ".zarr":
        with xarray.open_zarr(path, chunks=None) as dataset:
            dataset.load()
            return dataset["samples"].values, dataset["valid"].values.all(axis=0)
    if path.suffix == ".npy":
        return np.load(path), None
    with rasterio.open(path.with_suffix(".img") if path.suffix == ".hdr" else path) as file:
        return file.read(), file.dataset_mask() == 255


def said_of(item: Path) -> dict[str, Any] | None:
    """The item; None while there is none."""
    try:
        told: dict[str, Any] = json.loads(item.read_bytes())
    except FileNotFoundError:
        return None
    return told


def check(item: Path, file_format: str) -> bool:
    """Read one product; tell whether its item stood for it all the while."""
    before = said_of(item)
    if before is None:
        return False
    path = item.with_name(item.name.removesuffix(STAC) + SUFFIXES[file_format])
    samples, valid = read(path)
    digests = {part.name: _digest(part) for part in parts_of(path)}
    if said_of(item) != before:
        if (
            valid is not None and file_format == "geotiff"
        ):  # of several files, a reader may have opened older and newer
            _demand_equal(samples, before, valid)
        return False
    missing = before["properties"]["prismlink:patches_missing"]
    expected = np.ones((200, 200), dtype=np.bool_)
    for row, col in missing:
        expected[128 * row : 128 * (row + 1), 128 * col : 128 * (col + 1)] = False
    if valid is not None and not np.array_equal(valid, expected):
        raise SystemExit(f"{path}: the mask is not that of {missing}")
    _demand_equal(samples, before, expected)
    told = {
        asset["href"].removeprefix("./"): asset.get("file:checksum", "1220" + tree)
        for asset in before["assets"].values()
        for tree in [asset.get("prismlink:tree_sha256", "")]
    }
    if not digests.items() <= told.items():
        raise SystemExit(f"{path}: {digests} are not of {told}")
    return True


def _demand_equal(samples: NDArray[Any], item: dict[str, Any], valid: NDArray[np.bool_]) -> None:
    sequence = item["properties"]["prismlink:sequence"]
    if not np.array_equal(samples[:, valid], tile_of(sequence).samples[:, valid]):
        raise SystemExit(f"{item['id']}: samples that are called valid are others")


def _digest(part: Path) -> str:
    return "1220" + (tree_sha256(part) if part.is_dir() else file_sha256(part))


def main(directory: str, file_format: str) -> None:
    """Read until asked to stop."""
    folder, passes, stopped = Path(directory), 0, False
    while not stopped:
        stopped = (folder / "stop").exists()
        for item in sorted(folder.glob(f"*{STAC}"))[-2:]:
            passes += check(item, file_format)
        (folder / "passes").write_text(str(passes))


if __name__ == "__main__":
    main(*sys.argv[1:])
