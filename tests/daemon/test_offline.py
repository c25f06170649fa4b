"""The codec on files: what is encoded decodes to the same tile, and errors name the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, BundleError, CodecError, TileFileError
from codec.frame import SideFrame, parse
from codec.tile import Tile
from codec.tile_files import read_tile, write_tile
from daemon import offline, prism_file
from daemon.disk import LocalDisk
from daemon.errors import OutputError
from daemon.onboard.segment_log import SegmentLog
from fakes import cubes
from fakes.bundles import klt_bundle

FORMATS = ("geotiff", "envi", "zarr", "npy")


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


def expected(scene: Path, bundle: Path) -> Tile:
    """What the codec makes of a scene, without files."""
    loaded = load_bundle(bundle)
    return Decoder(loaded).decode(Encoder(loaded, backend="torch").encode(read_tile(scene)))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_decodes_to_what_the_codec_makes_of_its_tiles(
    scenes: list[Path], bundle_file: Path, tmp_path: Path, file_format: str
) -> None:
    """Tile by tile, sample for sample, in every format, with everything known about it."""
    output = tmp_path / "both.prism"
    encode(scenes, output, bundle_file)
    paths = list(
        offline.decode(output, tmp_path / "cubes", bundle=bundle_file, file_format=file_format)
    )

    for scene, path in zip(scenes, paths, strict=True):
        wanted, got = expected(scene, bundle_file), read_tile(path)
        np.testing.assert_array_equal(got.samples, wanted.samples)
        assert got.info == wanted.info


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


def test_a_tile_larger_than_memory_is_refused(
    scenes: list[Path], bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame of some bytes may claim terabytes: nothing is decoded for them."""
    output = tmp_path / "both.prism"
    encode(scenes, output, bundle_file)
    raws = list(prism_file.unpack(output.read_bytes()))
    side = parse(raws[0])
    assert isinstance(side, SideFrame)
    raws[0] = replace(side, shape=(side.shape[0], 65_536, 65_536)).pack()
    output.write_bytes(prism_file.pack(raws))
    monkeypatch.setattr(offline, "Decoder", lambda *_: None)
    with pytest.raises(TileFileError, match=r"both\.prism: holds \d+ bytes, this machine has"):
        list(offline.decode(output, tmp_path, bundle=bundle_file, file_format="npy"))


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
    """Whether a scene or a frame file: its name and a remedy, and it is no output's fault."""
    absent = tmp_path / "absent.prism"
    with pytest.raises(TileFileError, match=r"absent\.prism: cannot be read.*remedy"):
        list(offline.decode(absent, tmp_path, bundle=bundle_file, file_format="npy"))
    with pytest.raises(TileFileError, match=r"absent\.prism"):
        offline.inspect(absent)
    with pytest.raises(TileFileError, match=r"absent\.tif"):
        encode([tmp_path / "absent.tif"], absent, bundle_file)


def test_an_output_that_cannot_be_written_is_named(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """Whether the frame file or a cube: an error of outputs, not of inputs."""
    output, taken = tmp_path / "one.prism", tmp_path / "file"
    taken.write_bytes(b"")
    encode(scenes[:1], output, bundle_file)
    with pytest.raises(OutputError, match="file"):
        list(offline.decode(output, taken, bundle=bundle_file, file_format="npy"))
    with pytest.raises(OutputError, match="file"):
        encode(scenes[:1], taken / "x.prism", bundle_file)


def test_a_damaged_file_is_named(scenes: list[Path], bundle_file: Path, tmp_path: Path) -> None:
    """Cut short, or with a patch missing: the error says which file and what is wrong."""
    output = tmp_path / "two.prism"
    encode(scenes[1:], output, bundle_file)
    frames = list(prism_file.unpack(output.read_bytes()))

    def errors(raw: bytes) -> None:
        output.write_bytes(raw)
        with pytest.raises(BitstreamError, match=r"two\.prism: "):
            list(offline.decode(output, tmp_path, bundle=bundle_file, file_format="npy"))

    errors(prism_file.pack(frames)[:-1])
    errors(prism_file.pack(frames[:-1]))
    errors(prism_file.pack([frames[0][:-1], *frames[1:]]))
    with pytest.raises(BitstreamError, match=r"two\.prism: "):
        offline.inspect(output)


def test_a_file_of_another_model_is_named(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """The error names the file, the model it needs and the one at hand."""
    output, other = tmp_path / "one.prism", tmp_path / "other.safetensors"
    other.write_bytes(klt_bundle(step=31.0).to_bytes())
    encode(scenes[:1], output, bundle_file)
    with pytest.raises(BitstreamError) as caught:
        list(offline.decode(output, tmp_path, bundle=other, file_format="npy"))

    for word in ("one.prism", klt_bundle().name, klt_bundle(step=31.0).name):
        assert word in str(caught.value)


def test_inspect_describes_every_frame(
    scenes: list[Path], bundle_file: Path, tmp_path: Path
) -> None:
    """Side frames by what their tile is, patch frames by their place."""
    output = tmp_path / "two.prism"
    encode(scenes[1:], output, bundle_file)
    found = offline.inspect(output)

    side, *patches = found["frames"]
    assert (side["kind"], side["scene"], side["shape"]) == ("side", "two", [3, 130, 8])
    assert [patch["patch"] for patch in patches] == [[0, 0], [1, 0]]
    assert {frame["model"] for frame in found["frames"]} == {klt_bundle().name}
    assert sum(frame["bytes"] for frame in found["frames"]) < output.stat().st_size


def test_inspect_describes_a_bundle(bundle_file: Path, tmp_path: Path) -> None:
    """Name, network, size and origin; a flight bundle is the same model and says what it lacks."""
    flight = tmp_path / "flight.safetensors"
    bundle = replace(klt_bundle(), provenance={"scenes": 3}, scores={"psnr_db": 50.0})
    flight.write_bytes(bundle.for_flight().to_bytes())
    whole, part = offline.inspect(bundle_file), offline.inspect(flight)

    assert whole["model"] == part["model"] == klt_bundle().name
    assert (whole["flight_only"], part["flight_only"]) == (False, True)
    assert whole["parameters"] > part["parameters"] > 0
    assert (part["provenance"], part["scores"]) == ({"scenes": 3}, {"psnr_db": 50.0})
    assert whole["conditioner"] == {"kind": "klt", "components": 6}


def test_inspect_counts_what_waits_in_a_spool(tmp_path: Path) -> None:
    """While its process goes on; what is done does not wait, and damage is told."""
    log = SegmentLog(tmp_path / "patch", LocalDisk(), segment_bytes=60, now_s=0.0)
    for packet in (b"done", b"waits", b"waits too"):
        log.append([packet], 0.0)
    log.sync_files()
    log.note_synced()
    log.finish_oldest()
    with next((tmp_path / "patch").glob("*.log")).open("ab") as file:
        file.write(b"xyz")

    assert offline.inspect(tmp_path) == {
        "patch": {
            "files": 1, "packets": 2, "packet_bytes": 14, "skipped_bytes": 3, "first_sequence": 1,
        }
    }  # fmt: skip
    log.close()


@pytest.mark.parametrize("name", ["x.tif", "x"])
def test_inspect_refuses_what_it_does_not_know(tmp_path: Path, name: str) -> None:
    """By name, with what it does know."""
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CodecError, match="neither a bundle"):
        offline.inspect(tmp_path / name)


def test_inspect_refuses_a_broken_bundle(tmp_path: Path) -> None:
    """By name."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"")
    with pytest.raises(BundleError, match=r"x\.safetensors"):
        offline.inspect(path)
