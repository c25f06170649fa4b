"""Scenes into frame files: the numbers are those of the file, and errors name the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec import prism_file
from codec.errors import TileFileError
from codec.frame import SideFrame, parse
from codec.tile_files import read_tile, write_tile
from daemon import offline
from daemon.errors import OutputError
from fakes import cubes


@pytest.fixture
def scenes(tmp_path: Path) -> list[Path]:
    """Two scenes: one with fill, one of two patches."""
    tiles = [
        cubes.tile(bands=4, rows=20, cols=9, nodata=-1.0, fill_pixels=0.3, scene="one"),
        cubes.tile(bands=3, rows=130, cols=8, scene="two"),
    ]
    return [write_tile(tile, tmp_path / tile.info.scene, "npy") for tile in tiles]


def encode(scenes: list[Path], output: Path, bundle: Path) -> offline.EncodedFile:
    """With the bundle's own step, on PyTorch."""
    return offline.encode(scenes, output, bundle=bundle, step=None, backend="torch")


def test_the_numbers_are_those_of_the_file(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """Every byte of every frame counts; fill does not count as samples."""
    output, seen = tmp_path / "both.prism", list[offline.EncodedScene]()
    made = offline.encode(
        scenes, output, bundle=bundle_file, step=None, backend="torch", progress=seen.append
    )
    frames = list(prism_file.unpack(output.read_bytes()))
    tiles = [read_tile(scene) for scene in scenes]

    assert (len(made.scenes), made.patches, tuple(seen)) == (2, 3, made.scenes)
    assert [scene.path for scene in made.scenes] == scenes
    assert made.bytes_coded == sum(map(len, frames))
    assert made.bytes_raw == sum(tile.samples.nbytes for tile in tiles)
    assert made.valid_samples == sum(int(tile.valid().sum()) for tile in tiles)
    assert made.bpppc == 8 * made.bytes_coded / made.valid_samples


def test_the_step_is_the_one_given(scenes: list[Path], bundle_file: Path, tmp_path: Path) -> None:
    """It travels with the tile, so decoding needs no option."""
    output = tmp_path / "one.prism"
    offline.encode(scenes[:1], output, bundle=bundle_file, step=100.0, backend="torch")
    side = parse(next(prism_file.unpack(output.read_bytes())))

    assert isinstance(side, SideFrame)
    assert side.step == 100.0


def test_two_tiles_of_one_name_are_refused(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """Their frames could not be told apart again: better no file than one that does not decode."""
    output = tmp_path / "twice.prism"
    with pytest.raises(TileFileError, match="remedy: encode it into a file of its own"):
        encode([scenes[0], scenes[0]], output, bundle_file)

    assert not output.exists()


def test_an_input_that_cannot_be_read_is_named(bundle_file: Path, tmp_path: Path) -> None:
    """By its name, and it is no output's fault."""
    with pytest.raises(TileFileError, match=r"absent\.tif"):
        encode([tmp_path / "absent.tif"], tmp_path / "x.prism", bundle_file)


def test_an_output_that_cannot_be_written_is_named(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """An error of outputs, not of inputs."""
    taken = tmp_path / "file"
    taken.write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        encode(scenes[:1], taken / "x.prism", bundle_file)
