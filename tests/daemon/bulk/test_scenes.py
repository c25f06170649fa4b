"""Scenes of decoded tiles: as the ground's, in a folder and in one zarr store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from codec import prism_file
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.tile import Samples
from codec.tile_files import read_tile
from daemon.bulk.decode import Report, Watchers, bundles_of, decode
from daemon.bulk.jobs import Output
from daemon.bulk.pools import ThisProcess
from daemon.ground.products import QUALITY, STAC
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.product_reader import PLACE
from fakes.scenes import Place, cut

SCENE = cubes.tile(
    bands=3, rows=258, cols=140, scene="a scene", dtype="uint16", georeference=PLACE,
    wavelengths_nm=(470.0, 550.0, 640.0),
)  # fmt: skip
TILES = cut(SCENE, (130, 128), (100, 40))
LAST = (1, 1)


@cache
def frames(place: Place) -> tuple[bytes, ...]:
    """Of a tile, side information first."""
    return tuple(Encoder(klt_bundle(), step=None, backend="torch").encode(TILES[place]))


@cache
def wanted() -> Samples:
    """What the codec makes of the scene, tile by tile."""
    found = np.zeros_like(SCENE.samples)
    for (row, col), place in zip(((0, 0), (0, 100), (130, 0), (130, 100)), TILES, strict=True):
        part = Decoder(klt_bundle()).decode(frames(place)).samples
        found[:, row : row + part.shape[1], col : col + part.shape[2]] = part
    return found


class Run:
    """Decodes tiles of the scene into one place."""

    def __init__(self, folder: Path, bundle: Path, name: str, file_format: str) -> None:
        self.folder, self.format, self.bundles = folder, file_format, bundles_of([bundle])
        self.output, self.told = folder / name, list[str]()

    def __call__(self, places: Iterable[Place], *, holes: bool = False, **options: Any) -> Report:
        """Decode; with holes, the first tile lacks its last patch."""
        raws = [
            raw
            for at, place in enumerate(places)
            for raw in frames(place)[: -1 if holes and not at else None]
        ]
        file = self.folder / "frames.prism"
        file.write_bytes(prism_file.pack(raws))
        return decode(
            [file], Output(folder=self.output, file_format=self.format),  # type: ignore[arg-type]
            bundles=self.bundles, pool=lambda _: ThisProcess(threads=1),
            watchers=Watchers(tell=self.told.append), **options,
        )  # fmt: skip


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_a_folder_has_its_scenes(tmp_path: Path, bundle_file: Path, file_format: str) -> None:
    """As one more product, with all that is told of the tiles."""
    run = Run(tmp_path, bundle_file, "cubes", file_format)
    report = run(TILES)
    (file,) = map(Path, report.scenes)

    assert (len(report.files), run.told) == (4, [])
    back = read_tile(file)
    np.testing.assert_array_equal(back.samples, wanted(), strict=True)
    assert back.info.georeference == PLACE
    item = json.loads(file.with_suffix(STAC).read_bytes())["properties"]
    assert (item["version"], item["prismlink:complete"]) == ("1", True)


def test_a_scene_is_completed_in_place(tmp_path: Path, bundle_file: Path) -> None:
    """When more is at hand; one that is up to date is left as it is."""
    run = Run(tmp_path, bundle_file, "cubes", "npy")
    (file,) = map(Path, run([place for place in TILES if place != LAST], holes=True).scenes)
    assert json.loads(file.with_suffix(QUALITY).read_bytes())["complete"] is False
    assert run(TILES).scenes == [str(file)]
    told = json.loads(file.with_suffix(QUALITY).read_bytes())
    assert (told["version"], told["complete"]) == (2, True)
    np.testing.assert_array_equal(read_tile(file).samples, wanted())

    before = file.stat()
    assert run(TILES).scenes == [str(file)]
    assert file.stat() == before


def test_a_scene_that_is_not_whole_is_made_again(tmp_path: Path, bundle_file: Path) -> None:
    """Though its tiles are the same: where files are gone or cut off."""
    run = Run(tmp_path, bundle_file, "cubes", "geotiff")
    (file,) = map(Path, run(TILES).scenes)
    whole = file.read_bytes()
    for damage in (
        file.unlink,
        lambda: file.write_bytes(whole[:1000]),
        file.with_suffix(STAC).unlink,
        file.with_suffix(QUALITY).unlink,
    ):
        damage()
        assert run(TILES).scenes == [str(file)]
        assert file.read_bytes() == whole
        assert file.with_suffix(STAC).exists()
        assert file.with_suffix(QUALITY).exists()


@pytest.mark.parametrize("name", ["cubes", "cubes.zarr"])
def test_scenes_are_made_anew_with_their_tiles(
    tmp_path: Path, bundle_file: Path, name: str
) -> None:
    """With `--again`, whatever became of them; without, a store's if it is gone."""
    run = Run(tmp_path, bundle_file, name, "zarr")
    (file,) = map(Path, run(TILES).scenes)
    chunk = max(file.glob("samples/**/[0-9]*"), key=lambda path: path.stat().st_size)
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert run(list(TILES)[:1], again=True).scenes == [str(file)]
    np.testing.assert_array_equal(read_tile(file).samples, wanted())

    shutil.rmtree(file)
    assert run(TILES).scenes == [str(file)]
    np.testing.assert_array_equal(read_tile(file).samples, wanted())


def test_a_scene_is_not_made_poorer_again(tmp_path: Path, bundle_file: Path) -> None:
    """Not even with `--again`: the tile that was taken away is in the product alone."""
    run = Run(tmp_path, bundle_file, "cubes", "npy")
    (file,) = map(Path, run(TILES).scenes)
    for path in run.output.glob("*_r000c000_*"):
        path.unlink()
    before = file.stat()
    assert run(list(TILES)[1:], again=True).scenes == [str(file)]
    assert file.stat() == before


def test_nobody_needs_to_have_scenes(tmp_path: Path, bundle_file: Path) -> None:
    """`--no-scenes`."""
    run = Run(tmp_path, bundle_file, "cubes", "npy")
    assert run(TILES, scenes=False).scenes == []
    assert not list(run.output.glob("*_scene_????????.*"))


def test_a_store_has_a_group_for_a_scene(tmp_path: Path, bundle_file: Path) -> None:
    """Beside those of tiles; completed when more is at hand, and only then written again."""
    run = Run(tmp_path, bundle_file, "cubes.zarr", "zarr")
    (file,) = map(Path, run([place for place in TILES if place != LAST], holes=True).scenes)
    with xarray.open_zarr(file, chunks=None) as found:
        assert np.argwhere(~found["patch_received"].values).tolist() == [[1, 0], [2, 1]]
        assert not found["valid"].values[:, 130:, 100:].any()
    assert run(TILES).scenes == [str(file)]
    with xarray.open_zarr(file, chunks=None, decode_coords="all") as found:
        assert found["valid"].values.all()
        np.testing.assert_array_equal(found["samples"].values, wanted())
        assert found["patch_step"].shape == (3, 2)
    members = {path.name for path in run.output.glob("*.zarr")}
    assert set(zarr.open_group(run.output, mode="r").group_keys()) == members
    assert len(members) == 5

    before = file.stat()
    assert run(TILES).scenes == [str(file)]
    assert file.stat() == before
    assert run.told == [line for line in run.told if "patches are missing" in line]


@pytest.mark.parametrize("name", ["cubes", "cubes.zarr"])
def test_a_scene_that_cannot_be_put_together_is_told(
    tmp_path: Path, bundle_file: Path, name: str
) -> None:
    """In one line; the tiles are there."""
    run = Run(tmp_path, bundle_file, name, "zarr")
    run(list(TILES)[:1])
    for path in run.output.glob("*"):
        if path.name.endswith(STAC):
            path.write_text("{}")
        elif path.suffix == ".zarr" and name.endswith(".zarr"):
            shutil.rmtree(path / "patch_step")
            (path / ".zmetadata").unlink()
    report = run(list(TILES)[1:])
    assert (len(report.files), report.scenes) == (3, [])
    (told,) = report.problems
    assert "scene a_scene is not put together: " in told


def test_attributes_that_are_none_of_ours_cost_a_scene(tmp_path: Path, bundle_file: Path) -> None:
    """Of a group in a store; and no run."""
    run = Run(tmp_path, bundle_file, "cubes.zarr", "zarr")
    run(list(TILES)[:1])
    (path,) = run.output.glob("*.zarr")
    zarr.open_group(path, mode="a", use_consolidated=False).attrs["start_utc_s"] = 1e300
    (path / ".zmetadata").unlink()
    report = run(list(TILES)[1:])
    assert (len(report.files), report.scenes) == (3, [])
    assert "start_utc_s" in report.problems[0]


def test_a_scene_in_a_store_never_gets_poorer(tmp_path: Path, bundle_file: Path) -> None:
    """Groups of tiles may be removed: the scene stays, and what is new does not go into it."""
    run = Run(tmp_path, bundle_file, "cubes.zarr", "zarr")
    partial = [place for place in TILES if place != LAST]
    (file,) = map(Path, run(partial).scenes)
    before = file.stat().st_ino
    first = next(path for path in run.output.glob("*r000c000*") if path.is_dir())
    shutil.move(first, tmp_path / "elsewhere")
    # What is there is kept; its tile is decoded again only if its frames come again.
    assert run(partial[1:]).scenes == [str(file)]
    assert (file.stat().st_ino, run.told) == (before, [])

    assert run(list(TILES)[1:]).scenes == []
    assert file.stat().st_ino == before
    assert "tile (0, 0) is no longer there" in run.told[-1]
