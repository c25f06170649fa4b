"""`prismlink-train synthesize`: plausible scenes as a HySpecNet-11k tree, or as one long strip."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar

from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.errors import TileFileError
from codec.tile import Tile, TileInfo
from codec.tile_files import write_tile
from training.config import load_settings
from training.errors import TrainingError
from training.files import write_whole
from training.hyspecnet import ALL_BANDS, DIFFICULTIES, FILL, FLAGS, PARTS, PATCH_PX
from training.plots import scene_statistics
from training.scenes import load_scenes, split_scenes
from training.store import allocate
from training.synthesis import Library, World, at_enmap_bands, measure_library, statistics

_PATCHES_ACROSS: Final = 4
"""Of a tile; as many along the track."""
_SHARES: Final = (0.7, 0.9)
"""Where the parts of a split end: train, val, test, as HySpecNet-11k's."""
_STRIP_LINES: Final = 128
"""Lines of a strip that are made at once."""
_LAYERS: Final = [name for name in FLAGS if name != "NO_DATA"]


def synthesize_step(
    scenes: Path,
    settings_path: Path | None,
    out: Path,
    *,
    tiles: int,
    strip_lines: int,
    cols: int,
    seed: int,
    console: Console,
) -> None:
    """Measure scenes, then make a tree of tiles, or a strip if it has lines.

    Scenes that the settings hold back are not measured: what is made of them would tell of them.

    Raises:
        TrainingError: If something cannot be written.
    """
    settings = load_settings(settings_path)
    found = load_scenes(scenes, settings.scenes)
    if settings.scenes.validation:
        found = split_scenes(found, settings.scenes).training
    library = measure_library(found)
    console.print(f"{len(library.spectra)} spectra of {len(library.sources)} scenes")
    try:
        if strip_lines:
            make_strip(library, out, lines=strip_lines, cols=cols, seed=seed, console=console)
        else:
            make_tree(library, out, tiles=tiles, seed=seed, console=console)
    except (OSError, TileFileError) as error:
        raise TrainingError(f"{out}: cannot be written: {error}") from None
    real = {scene.name: statistics(at_enmap_bands(scene.tile)) for scene in found}
    made = {}
    for number in range(3):
        samples, _ = World(library, PATCH_PX, seed + number, cloudiness=0).lines(0, PATCH_PX)
        usable = samples[(samples != FILL).all(axis=(1, 2))]
        made[f"synthetic {number + 1}"] = statistics(usable.astype(np.float32) / 10_000)
    picture = out.with_name(out.name + "-statistics.png")
    write_whole(picture, scene_statistics(real, made))
    console.print(f"{out}; {picture} holds it against the real scenes")


def make_tree(library: Library, root: Path, *, tiles: int, seed: int, console: Console) -> None:
    """Make tiles of sixteen patches with quality layers, and both splits of them."""
    paths: list[list[str]] = []
    with Bar(console=console) as bar:
        task = bar.add_task("making patches", total=tiles * _PATCHES_ACROSS**2)
        for tile in range(1, tiles + 1):
            world, of_tile = World(library, _PATCHES_ACROSS * PATCH_PX, seed + tile), []
            for row in range(_PATCHES_ACROSS):
                samples, flags = world.lines(row * PATCH_PX, PATCH_PX)
                for col in range(_PATCHES_ACROSS):
                    across = slice(col * PATCH_PX, (col + 1) * PATCH_PX)
                    number = row * _PATCHES_ACROSS + col + 1
                    of_tile.append(
                        _write_patch(root, tile, number, samples[:, :, across], flags[:, across])
                    )
                    bar.advance(task)
            paths.append(of_tile)
    rng, every = np.random.default_rng(seed), [path for of_tile in paths for path in of_tile]
    easy = [every[i] for i in rng.permutation(len(every))]
    patches_of = {"easy": 1, "hard": _PATCHES_ACROSS**2}  # that are never parted
    for difficulty, ordered in zip(DIFFICULTIES, (easy, every), strict=True):
        of_each = patches_of[difficulty]
        count = len(every) // of_each
        first = min(round(_SHARES[0] * count), count - 2)
        second = min(max(round(_SHARES[1] * count), first + 1), count - 1)
        ends = [of_each * end for end in (0, first, second, count)]
        for part, (begin, end) in zip(PARTS, pairwise(ends), strict=True):
            rows = "".join(f"{path}\n" for path in ordered[begin:end])
            write_whole(root / "splits" / difficulty / f"{part}.csv", rows.encode())


def make_strip(
    library: Library, out: Path, *, lines: int, cols: int, seed: int, console: Console
) -> None:
    """Make a strip of any length, `.npy` with a `.json` beside it, a piece at a time."""
    path = out.with_suffix(".npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    world = World(library, cols, seed)
    head = Tile(samples=np.zeros((ALL_BANDS, 1, 1), np.int16), info=_info(path.stem))
    write_tile(head, path, "npy")  # what is told beside the samples; they follow
    strip = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.int16, shape=(ALL_BANDS, lines, cols)
    )
    allocate(path)
    with Bar(console=console) as bar:
        task = bar.add_task("making lines", total=lines)
        for first in range(0, lines, _STRIP_LINES):
            count = min(_STRIP_LINES, lines - first)
            strip[:, first : first + count], _ = world.lines(first, count)
            bar.advance(task, count)
    strip.flush()


def _write_patch(
    root: Path, tile: int, number: int, samples: NDArray[np.int16], flags: NDArray[np.uint8]
) -> str:
    """Write a patch as HySpecNet-11k names it; return its row in a split."""
    name = (
        f"ENMAP01-____L2A-DT{tile:010d}_20260101T000000Z_001_V000000_20260101T000000Z"
        f"-Y{tile:08d}_X{number:08d}"
    )
    path = f"tile_{tile:03d}/tile_{tile:03d}-patch_{number:02d}/{name}/{name}"
    layers = {
        f"QL_QUALITY_{layer}": (flags & FLAGS[layer] != 0).astype(np.int16)[None]
        for layer in _LAYERS
    }
    for end, values in {"SPECTRAL_IMAGE": np.ascontiguousarray(samples), **layers}.items():
        info = _info(name) if end == "SPECTRAL_IMAGE" else TileInfo(sensor="", scene=name)
        written = write_tile(
            Tile(samples=values, info=info), root / "patches" / f"{path}-{end}.tif", "geotiff"
        )
        written.rename(written.with_suffix(".TIF"))
    return f"{path}-DATA.npy"


def _info(scene: str) -> TileInfo:
    return TileInfo(
        sensor="EnMAP",
        scene=scene,
        reflectance_scale=10_000.0,
        nodata=float(FILL),
        wavelengths_nm=ENMAP_WAVELENGTHS_NM,
    )
