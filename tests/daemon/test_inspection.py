"""Inspection: whatever it is, what is in it is told, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from codec import prism_file
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BundleError, CodecError, TileFileError, WrongModelError
from codec.tile_files import write_tile
from daemon.bulk.catalog import Selection
from daemon.bulk.decode import bundles_of, decode
from daemon.bulk.jobs import Output
from daemon.disk import LocalDisk
from daemon.ground.assemble import assemble
from daemon.ground.scenes import place
from daemon.inspection import inspect
from daemon.inspection_tables import show
from daemon.link.packet import Packet
from daemon.onboard.segment_log import SegmentLog
from fakes import cubes, recordings
from fakes.bundles import klt_bundle
from fakes.recordings import frames
from fakes.scenes import cut, products, write


def shown(found: dict[str, Any]) -> str:
    """The tables, as wide as a screen."""
    console = Console(file=StringIO(), width=100)
    show(found, console)
    assert isinstance(console.file, StringIO)
    json.dumps(found, allow_nan=False)  # plain values, for --json
    return console.file.getvalue()


def test_a_bundle_is_described(bundle_file: Path, tmp_path: Path) -> None:
    """Name, network, size and origin; a flight bundle is the same model and says what it lacks."""
    flight = tmp_path / "flight.safetensors"
    bundle = replace(klt_bundle(), provenance={"scenes": 3}, scores={"psnr_db": 50.0})
    flight.write_bytes(bundle.for_flight().to_bytes())
    whole, part = inspect(bundle_file).description, inspect(flight).description

    assert whole["model"] == part["model"] == klt_bundle().name
    assert (whole["flight_only"], part["flight_only"]) == (False, True)
    assert whole["parameters"] > part["parameters"] > 0
    assert (part["provenance"], part["scores"]) == ({"scenes": 3}, {"psnr_db": 50.0})
    assert whole["conditioner"] == {"kind": "klt", "components": 6}
    assert "a flight bundle" in shown(part)


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_a_product_is_described(tmp_path: Path, file_format: str) -> None:
    """What it is, what its samples are, and where."""
    tile = cubes.tile(
        bands=3, rows=8, cols=9, nodata=-1.0, fill_pixels=0.34, scene="here",
        start_utc_s=1_777_593_600.0, wavelengths_nm=(470.0, 550.0, 640.0),
    )  # fmt: skip
    inspection = inspect(write_tile(tile, tmp_path / "x", file_format))
    found = inspection.description

    assert (found["kind"], found["scene"], found["dtype"]) == ("product", "here", "int16")
    assert (found["shape"], found["nodata"]) == ([3, 8, 9], -1.0)
    assert found["wavelengths_nm"] == [470.0, 550.0, 640.0]
    assert found["valid_share"] == pytest.approx(6 / 9)
    assert found["start_utc"] == "2026-05-01T00:00:00.000+00:00"
    assert found["least"] == tile.samples[tile.valid()].min()
    np.testing.assert_array_equal(inspection.tile.samples, tile.samples)  # type: ignore[union-attr]
    assert "470 to 640 nm in 3 bands" in shown(found)


def test_a_product_tells_what_lies_beside_it(tmp_path: Path, bundle_file: Path) -> None:
    """Model, steps, holes, and, of frames of a board, bits per valid sample."""
    recordings.archive(tmp_path / "archive", frames(0)[:-1]).close()
    report = decode(
        [tmp_path / "archive"],
        Output(folder=tmp_path / "cubes", file_format="npy"),
        bundles=bundles_of([bundle_file]),
    )
    found = inspect(Path(report.files[0])).description

    assert (found["model"], found["steps"]) == (klt_bundle().name, [32.0, 32.0])
    assert (found["patches"], found["patches_of"], found["version"]) == (2, 3, 1)
    assert found["bytes_coded"] == sum(map(len, frames(0)[:-1]))
    assert "2 of 3" in shown(found)
    assert f"{found['bits_per_sample']:.4f} of frames, packets not counted" in shown(found)


@pytest.mark.parametrize("how", ["product", "frames", "store"])
def test_a_time_that_nobody_told_is_unknown(tmp_path: Path, bundle_file: Path, how: str) -> None:
    """No table says 1970; in JSON it is null."""
    tile = cubes.tile(bands=3, rows=8, cols=9, start_utc_s=0.0)
    path = tmp_path / "x.prism"
    path.write_bytes(prism_file.pack(Encoder(klt_bundle(), backend="torch-cpu").encode(tile)))
    if how == "product":
        path = write_tile(tile, tmp_path / "x", "npy")
    elif how == "store":
        output = Output(folder=tmp_path / "all.zarr", file_format="zarr")
        decode([path], output, bundles=bundles_of([bundle_file]))
        path = output.folder
    found = inspect(path).description
    (described,) = found.get("tiles", [found])

    assert described["start_utc"] is None
    assert "unknown" in shown(found)
    assert "1970" not in shown(found)


def test_bits_are_said_to_be_of_frames(tmp_path: Path) -> None:
    """The demo counts packets: nobody shall take one for the other."""
    found = inspect(recordings.frame_file(tmp_path / "x.prism", 0)).description
    assert "of frames, packets not counted" in shown(found)


def test_a_scene_is_described_as_a_tile_is(tmp_path: Path) -> None:
    """How many patches of all its tiles came, how finely, and in which version."""
    whole = cubes.tile(bands=3, rows=138, cols=8, scene="x")
    tiles = cut(whole, (130, 8), (8,)).values()
    for number, tile in enumerate(tiles):
        write(tmp_path, tile, *([(1, 0)] if number == 0 else []))
    scene = place(products(tmp_path, tiles), max_bytes=1 << 20)
    said = inspect(assemble(scene, tmp_path, "geotiff")).description

    assert (said["kind"], said["shape"], said["scene"]) == ("product", [3, 138, 8], "x")
    assert (said["patches"], said["patches_of"], said["version"]) == (2, 3, 1)
    assert said["steps"] == [64.0, 64.0]


def test_a_store_of_many_tiles_is_listed(tmp_path: Path, bundle_file: Path) -> None:
    """Group by group."""
    store = tmp_path / "all.zarr"
    decode(
        [recordings.frame_file(tmp_path / "x.prism", 0, 1)],
        Output(folder=store, file_format="zarr"),
        bundles=bundles_of([bundle_file]),
    )
    found = inspect(store).description

    assert [tile["scene"] for tile in found["tiles"]] == ["scene-0", "scene-1"]
    assert "2 tiles" in shown(found)


def test_of_a_store_the_first_tile_is_at_hand(tmp_path: Path) -> None:
    """For a picture of it: the one that the table shows first."""
    for name in ("a", "b"):
        write_tile(cubes.tile(scene=name), tmp_path / "all.zarr" / name, "zarr")
    tile = inspect(tmp_path / "all.zarr").tile

    assert tile is not None
    assert tile.info.scene == "a"


@pytest.mark.parametrize("how", ["frames", "store"])
def test_one_tile_is_no_plural(tmp_path: Path, how: str) -> None:
    """In neither table that counts tiles."""
    path = tmp_path / "x.prism" if how == "frames" else tmp_path / "all.zarr"
    if how == "frames":
        recordings.frame_file(path, 0)
    else:
        write_tile(cubes.tile(), path / "x", "zarr")

    assert f"{path.name}: 1 tile " in shown(inspect(path).description)


def test_one_of_a_folder_of_products_is_to_be_named(tmp_path: Path) -> None:
    """What `decode` leaves, or a tree of scenes, is not described at once: a file is named."""
    paths = [write_tile(cubes.tile(), tmp_path / name / "x", "npy") for name in ("a", "b")]
    with pytest.raises(TileFileError, match=r"\(2\); remedy: name one, such as") as caught:
        inspect(tmp_path)
    assert str(caught.value).endswith(str(paths[0]))


def test_every_frame_of_a_file_is_described(tmp_path: Path) -> None:
    """Side frames by what their tile is, patch frames by their place; tiles as a whole."""
    path = recordings.frame_file(tmp_path / "x.prism", 0)
    found = inspect(path).description

    side, *patches = found["frames"]
    assert (side["kind"], side["scene"], side["shape"]) == ("side", "scene-0", [3, 284, 9])
    assert [patch["patch"] for patch in patches] == [[0, 0], [1, 0], [2, 0]]
    assert {frame["model"] for frame in found["frames"]} == {klt_bundle().name}
    (tile,) = found["tiles"]
    assert (tile["patches"], tile["patches_of"]) == (3, 3)
    assert tile["bytes"] == sum(map(len, frames(0)))
    assert tile["bits_per_sample"] == 8 * tile["bytes"] / (3 * 284 * 9)
    assert klt_bundle().name in shown(found)


def test_an_archive_is_listed_by_what_is_asked_for(tmp_path: Path) -> None:
    """While its process has it: by scene, time and model."""
    kept = recordings.archive(tmp_path / "archive", frames(0), frames(1)[:-1], frames(2))
    found = inspect(tmp_path / "archive", selection=Selection(scene="scene-[12]")).description
    kept.close()

    assert found["kind"] == "archive"
    assert [tile["scene"] for tile in found["tiles"]] == ["scene-1", "scene-2"]
    assert [(tile["patches"], tile["patches_of"]) for tile in found["tiles"]] == [(2, 3), (3, 3)]
    assert "2/3" in shown(found)


def test_a_capture_tells_packets_and_gaps(tmp_path: Path) -> None:
    """By channel, by boot, what is lacking, and what is not ours."""
    sent = recordings.packets(0, repair=2)
    lost = [*sent[:2], *sent[3:-1]]
    path = recordings.network_capture(tmp_path / "x.pcap", [*lost, b"a stranger's"])
    found = inspect(path).description
    packets = found["packets"]

    assert found["kind"] == "capture"
    assert sum(packets["by_channel"].values()) == len(lost)
    assert set(packets["by_channel"]) == {"side", "patch"}
    assert packets["by_apid"] == {"100": len(lost)}
    assert packets["repair"] == sum(Packet.unpack(raw).is_repair for raw in lost) > 0
    assert packets["skipped_bytes"] == len(b"a stranger's")
    assert packets["boots"] == [
        {
            "boot_id": "00000064", "received": len(lost), "missing": 1,
            "missing_before_start": 0, "duplicate": 0, "late": 0,
        }
    ]  # fmt: skip
    assert packets["first_utc"] == "2023-11-14T22:13:20.000+00:00"
    assert "00000064" in shown(found)


def test_what_waits_in_a_spool_is_counted(tmp_path: Path) -> None:
    """While its process goes on; what is done does not wait, and damage is told."""
    log = SegmentLog(tmp_path / "patch", LocalDisk(), segment_bytes=60, now_s=0.0)
    for packet in (b"done", b"waits", b"waits too"):
        log.append([packet], 0.0)
    log.sync_files()
    log.note_synced()
    log.finish_oldest()
    with next((tmp_path / "patch").glob("*.log")).open("ab") as file:
        file.write(b"xyz")

    found = inspect(tmp_path).description
    assert found["lanes"] == {
        "patch": {
            "files": 1, "packets": 2, "packet_bytes": 14, "skipped_bytes": 3, "first_sequence": 1,
        }
    }  # fmt: skip
    assert "patch" in shown(found)
    log.close()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """What is sound of it is described all the same."""
    path = recordings.frame_file(tmp_path / "x.prism", 0)
    path.write_bytes(path.read_bytes()[:-1])
    inspection = inspect(path)

    assert len(inspection.description["frames"]) == 3
    (problem,) = inspection.problems
    size = path.stat().st_size
    assert problem == (
        f"{path}: cut off after frame 3: needed {size + 1} bytes, got {size}; remedy: copy the "
        "whole file"
    )
    assert inspection.description["problems"] == [problem]


def test_the_first_tile_is_restored_if_asked_for(tmp_path: Path, bundle_file: Path) -> None:
    """For a picture of it; a model that is not at hand is named."""
    path = recordings.raw_capture(tmp_path / "x.bin", recordings.packets(0, 1))
    found = inspect(path, bundles=bundles_of([bundle_file]), selection=Selection(scene="*-1"))
    wanted = Decoder(klt_bundle()).decode(frames(1))

    assert found.tile is not None
    np.testing.assert_array_equal(found.tile.samples, wanted.samples)
    assert inspect(path).tile is None
    with pytest.raises(WrongModelError, match=klt_bundle().name):
        inspect(path, bundles={})


def test_tiles_of_a_scene_can_be_told_apart(tmp_path: Path) -> None:
    """By row and column; where one position was shown again, by the instrument's count."""
    tiles = [
        cubes.tile(bands=3, rows=8, cols=9, scene="x", tile_row=row, tile_col=4, sequence=sequence)
        for row, sequence in ((2, 71), (3, 72), (3, 73))
    ]
    coded = [Encoder(klt_bundle(), backend="torch-cpu").encode(tile) for tile in tiles]
    path = tmp_path / "x.prism"
    path.write_bytes(prism_file.pack([*coded[0], *coded[1]]))
    once = shown(inspect(path).description)
    path.write_bytes(prism_file.pack([frame for frames in coded for frame in frames]))
    again = shown(inspect(path).description)

    assert all(name in once for name in ("r2 c4", "r3 c4"))
    assert "sequence" not in once
    assert all(name in again for name in ("sequence", " 72 ", " 73 "))


def test_a_folder_of_frame_files_is_a_folder(tmp_path: Path) -> None:
    """Not a frame file."""
    recordings.frame_file(tmp_path / "x.prism", 0)
    found = inspect(tmp_path).description

    assert (found["kind"], found["sources"]) == ("folder", 1)
    assert f"Folder {tmp_path.name}: 1 tile" in shown(found)


def test_a_text_is_none_of_the_kinds(tmp_path: Path) -> None:
    """One line says so, and no table of no packets."""
    (tmp_path / "README.md").write_text("# Some text\n" * 100)
    with pytest.raises(CodecError, match=r"README\.md: neither a bundle .*no packet of ours"):
        inspect(tmp_path / "README.md")


def test_scenes_of_a_store_are_no_tiles(tmp_path: Path) -> None:
    """They are counted apart."""
    for name in ("x_r0c0_1_ab", "x_r1c0_2_cd", "x_scene_01234567"):
        write_tile(cubes.tile(scene="x"), tmp_path / "all.zarr" / name, "zarr")
    found = inspect(tmp_path / "all.zarr").description

    assert [tile["is_scene"] for tile in found["tiles"]] == [False, False, True]
    assert "2 tiles, scenes put together: 1" in shown(found)


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    """By name, with what is known."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x.tif").write_bytes(b"")
    with pytest.raises(CodecError, match="neither a bundle"):
        inspect(tmp_path / "x")
    with pytest.raises(TileFileError, match=r"x\.tif: not a readable GeoTIFF"):
        inspect(tmp_path / "x.tif")
    with pytest.raises(TileFileError, match=r"absent\.prism: no such file"):
        inspect(tmp_path / "absent.prism")


def test_noise_is_none_of_the_kinds(tmp_path: Path) -> None:
    """A file of no known suffix is looked through for packets; what is named a capture is one."""
    (tmp_path / "x").write_bytes(b"noise")
    (tmp_path / "x.bin").write_bytes(b"noise")
    with pytest.raises(CodecError, match="no packet of ours"):
        inspect(tmp_path / "x")
    assert "holds no packet of ours" in inspect(tmp_path / "x.bin").problems[0]


def test_a_broken_bundle_is_refused(tmp_path: Path) -> None:
    """By name."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"")
    with pytest.raises(BundleError, match=r"x\.safetensors"):
        inspect(path)
