"""The commands: what they print, what they write, and the exit status of every kind of error."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import rasterio

from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.tile import Tile, TileInfo
from codec.tile_files import read_tile, write_tile
from daemon import cli
from daemon.errors import SealError
from daemon.keys import CurveKeys, curve_public, curve_secret, seal_key
from daemon.link.commands import Command, Kind, unpack_value
from daemon.link.seal import DOWNLINK_SPI, OPERATOR_SPI, UPLINK_SPI, Opener, Sealer, derived_key
from daemon.link.sockets import Endpoint, PacketListener, TileListener, TileSender
from daemon.reserved_counter import ReservedCounter
from fakes import cubes, recordings
from fakes.bundles import klt_bundle

FAILED, USAGE, DATA, UNAVAILABLE, OUTPUT, CONFIG = 1, 2, 65, 69, 73, 78


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Prismlink = Callable[..., Ended]


@pytest.fixture
def prismlink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Prismlink:
    """Run a command as the console script does."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["prismlink", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return Ended(status, said.out, said.err)

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A small scene in a file."""
    return write_tile(cubes.tile(bands=4, rows=20, cols=9, scene="here"), tmp_path / "here", "npy")


def settings(folder: Path, side: str, bundle: Path, more: str = "") -> Path:
    """A settings file."""
    path = folder / f"{side}.yaml"
    model = f"bundle: {bundle}" if side == "flight" else f"bundles: [{bundle}]"
    output = "" if side == "flight" else "output: {directory: out}\n"
    path.write_text(f"model: {{{model}}}\n{output}{more}")
    return path


# ---------------------------------------------------------------- encode, decode, inspect


@pytest.mark.parametrize("file_format", ["geotiff", "envi", "zarr", "npy"])
def test_encode_and_decode_are_a_round_trip(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path, file_format: str
) -> None:
    """In every format the cube is the codec's; decode prints where it is."""
    coded, cubes_dir = tmp_path / "here.prism", tmp_path / "cubes"
    made = prismlink("encode", scene, "-o", coded, "--bundle", bundle_file, "--backend", "torch")
    assert made.status == 0
    restored = prismlink(
        *("decode", coded, "-o", cubes_dir, "--format", file_format, "--bundle", bundle_file)
    )
    assert restored.status == 0

    bundle = load_bundle(bundle_file)
    wanted = Decoder(bundle).decode(Encoder(bundle, backend="torch").encode(read_tile(scene)))
    got = read_tile(Path(restored.out.strip()))
    np.testing.assert_array_equal(got.samples, wanted.samples)
    assert got.info == wanted.info


def test_a_cog_is_a_geotiff(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """`--cog` makes one; beside another format it is an error before anything is written."""
    coded, cubes_dir = tmp_path / "here.prism", tmp_path / "cubes"
    prismlink("encode", scene, "-o", coded, "--bundle", bundle_file, "--backend", "torch")
    decode = ("decode", coded, "-o", cubes_dir, "--bundle", bundle_file, "--cog")

    refused = prismlink(*decode, "--format", "envi")
    assert refused.status == 2
    assert "not of envi" in refused.err
    assert not cubes_dir.exists()
    restored = prismlink(*decode)
    assert restored.status == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(restored.out.strip()) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_encode_writes_its_numbers(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """To the screen for people, with `--json` for programs."""
    coded, numbers = tmp_path / "here.prism", tmp_path / "made" / "numbers.json"
    ended = prismlink(
        *("encode", scene, "-o", coded, "--bundle", bundle_file, "--backend", "torch"),
        *("--json", numbers),
    )

    assert "here.prism: 1 tile, 1 patch, " in ended.out.replace("\n", "")
    assert json.loads(numbers.read_text()).keys() == {
        "tiles", "patches", "bytes_raw", "bytes_coded", "valid_samples", "bpppc", "step",
        "psnr_db", "scenes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("--rate", "bpppc", pytest.approx(2.0, rel=0.05)),
        ("--psnr", "psnr_db", pytest.approx(70.0, abs=0.3)),
        ("--step", "step", 20.0),
    ],
)
def test_encode_says_what_a_target_came_to(
    *, prismlink: Prismlink, bundle_file: Path, tmp_path: Path, option: str, key: str, value: float
) -> None:
    """`--rate` is met within 5 %, `--psnr` within 0.3 dB; the numbers say so, scene by scene."""
    scene = write_tile(cubes.tile(bands=6, rows=64, cols=64, scene="big"), tmp_path / "big", "npy")
    asked = {"--rate": 2.0, "--psnr": 70.0, "--step": 20.0}[option]
    ended = prismlink(
        *("encode", scene, "-o", tmp_path / "x.prism", "--bundle", bundle_file),
        *("--backend", "torch", option, asked, "--json", tmp_path / "x.json"),
    )
    numbers = json.loads((tmp_path / "x.json").read_text())

    assert (ended.status, ended.err) == (0, "")
    assert numbers[key] == value
    (found,) = numbers["scenes"]
    assert found == {
        "scene": scene.name, "step": numbers["step"], "bytes": numbers["bytes_coded"],
        "bpppc": numbers["bpppc"], "psnr_db": numbers["psnr_db"], "on_target": True,
    }  # fmt: skip
    assert (numbers["psnr_db"] is None) == (option != "--psnr")
    assert f", step {numbers['step']:g}" in ended.out
    assert ("PSNR" in ended.out) == (option == "--psnr")
    assert option != "--psnr" or f", PSNR {numbers['psnr_db']:.2f} dB\n" in ended.out


def test_encode_says_between_which_steps_scenes_lie(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """Of several scenes with one target each has a step of its own: the least and the most."""
    for number, spread in enumerate((40, 4000)):
        cube = cubes.tile(bands=6, rows=64, cols=64, scene=f"s{number}")
        cube = replace(cube, samples=(cube.samples // spread).astype(cube.samples.dtype))
        write_tile(cube, tmp_path / "scenes" / f"s{number}", "npy")
    ended = prismlink(
        *("encode", tmp_path / "scenes", "-o", tmp_path / "x.prism", "--bundle", bundle_file),
        *("--backend", "torch", "--rate", 1.0, "--json", tmp_path / "x.json"),
    )
    steps = [one["step"] for one in json.loads((tmp_path / "x.json").read_text())["scenes"]]

    assert ended.status == 0
    assert min(steps) < max(steps)
    assert "2 tiles, 2 patches, " in ended.out
    assert f", step {min(steps):g} to {max(steps):g}\n" in ended.out


def test_encode_replaces_nothing_but_frames(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """Neither the scene that it reads, both files of an ENVI image included, nor anybody else's.

    A frame file is made anew, and an empty one, as `mktemp` leaves, is written.
    """
    image = write_tile(cubes.tile(bands=4, rows=20, cols=9), tmp_path / "image", "envi")
    (tmp_path / "link.npy").symlink_to(scene)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    options = ("--bundle", bundle_file, "--backend", "torch")
    before = {path: path.read_bytes() for path in (scene, image, image.with_suffix(".img"))}
    for read, output in (
        (scene, scene), (scene, tmp_path / "link.npy"), (tmp_path / "link.npy", scene),
        (image, image), (image, image.with_suffix(".img")), (image.with_suffix(".img"), image),
        (scene, image), (scene, tmp_path / "pipe"), (scene, tmp_path / "folder"),
    ):  # fmt: skip
        ended = prismlink("encode", read, "-o", output, *options)
        assert ended.status == USAGE, (read, output)
        assert "no frame file" in ended.err
    assert {path: path.read_bytes() for path in before} == before

    coded = tmp_path / "empty"
    coded.touch()
    for _ in range(2):
        assert prismlink("encode", scene, "-o", coded, *options).status == 0
        assert coded.read_bytes().startswith(b"PRISM")


def test_a_scene_better_than_its_target_is_named(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """A flat one needs no bits: it is encoded, and a line says what it came to."""
    flat = Tile(samples=np.full((4, 20, 9), 7, dtype=np.int16), info=TileInfo(scene="flat"))
    scene = write_tile(flat, tmp_path / "flat", "npy")
    ended = prismlink(
        *("encode", scene, "-o", tmp_path / "x.prism", "--bundle", bundle_file),
        *("--backend", "torch", "--rate", 8, "--json", tmp_path / "x.json"),
    )

    assert (ended.status, ended.err.count("\n")) == (0, 1)
    assert f"{scene}: no step brings it to 8 bits per sample; it came to " in ended.err
    assert not json.loads((tmp_path / "x.json").read_text())["scenes"][0]["on_target"]


def test_a_target_out_of_reach_ends_with_65(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """One line names the scene, the target and the nearest that can be had; nothing is written."""
    ended = prismlink(
        *("encode", scene, "-o", tmp_path / "x.prism", "--bundle", bundle_file),
        *("--backend", "torch", "--rate", 0.001),
    )

    assert ended.status == DATA
    assert ended.err.count("\n") == 1
    assert f"{scene}: 0.001 bits per sample is out of reach; the nearest is" in ended.err
    assert not (tmp_path / "x.prism").exists()


def test_a_quality_needs_the_whole_bundle(
    prismlink: Prismlink, scene: Path, tmp_path: Path
) -> None:
    """It is met by decoding, which a flight bundle cannot: the error says which to take."""
    flight = tmp_path / "flight.safetensors"
    flight.write_bytes(klt_bundle().for_flight().to_bytes())
    ended = prismlink(
        *("encode", scene, "-o", tmp_path / "x.prism", "--bundle", flight, "--psnr", 50)
    )

    assert ended.status == CONFIG
    assert "use the full bundle" in ended.err


@pytest.mark.parametrize(
    ("where", "said"),
    [("x.prism", "a file is there, not a folder"), ("/proc/x", "cannot be made a folder")],
)
def test_a_folder_that_cannot_be_is_told_with_its_remedy(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, where: str, said: str
) -> None:
    """One line, and no number of the system's."""
    (tmp_path / "x.prism").write_bytes(b"")
    ended = prismlink(
        "decode", tmp_path / "x.prism", "-o", tmp_path / where, "--bundle", bundle_file
    )

    assert ended.status == 73
    assert said in ended.err
    assert "; remedy: take another folder" in ended.err
    assert "Errno" not in ended.err


def test_inspect_prints_what_it_found(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """As a table on the screen, as JSON in the file."""
    ended = prismlink("inspect", bundle_file, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())

    assert (ended.status, ended.err) == (0, "")
    assert found["model"] == klt_bundle().name
    assert f"Bundle {found['model']}" in ended.out
    assert f"{found['parameters']:,}" in ended.out


def test_inspect_draws(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """A product; the first tile of a store, and of frames with a bundle; of a bundle nothing."""
    coded, png = tmp_path / "here.prism", tmp_path / "x.png"
    prismlink("encode", scene, "-o", coded, "--bundle", bundle_file, "--backend", "torch")
    store = tmp_path / "all.zarr"
    prismlink("decode", coded, "-o", store, "--bundle", bundle_file, "--workers", 1)
    for words in ([scene], [coded, "--bundle", bundle_file], [store]):
        ended = prismlink("inspect", *words, "--png", png)
        assert (ended.status, ended.err) == (0, "")
        assert png.read_bytes().startswith(b"\x89PNG")
        png.unlink()
    ended = prismlink("inspect", bundle_file, "--png", png)
    errors_in_one_line(ended, DATA, bundle_file, "no tile to draw")


def test_decode_selects_and_goes_on(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """Sources of all kinds, a selection, the numbers; and again, when all is there."""
    recordings.archive(tmp_path / "all" / "archive", recordings.frames(0)).close()
    recordings.network_capture(tmp_path / "all" / "x.pcap", recordings.packets(1, 2))
    words = (
        *("decode", tmp_path / "all", "-o", tmp_path / "cubes", "--bundle", bundle_file),
        *("--scene", "scene-*", "--since", "2026-05-02", "--until", "2026-05-09"),
        *("--model", klt_bundle().name[:4], "--workers", 1, "--json", tmp_path / "x.json"),
    )
    first = prismlink(*words)
    told = json.loads((tmp_path / "x.json").read_text())
    second = prismlink(*words)

    assert (first.status, second.status) == (0, 0)
    assert (told["tiles"], told["decoded"], told["problems"]) == (3, 2, [])
    assert first.out == second.out
    assert sorted(first.out.split()) == sorted(told["files"])
    assert first.err == "2 of 2 tiles decoded; 1 not selected\n"
    assert second.err == "0 of 2 tiles decoded; 2 there already; 1 not selected\n"


def test_decode_says_that_a_tile_was_there(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """Also of one tile alone: its name is printed as the first time, so a line tells."""
    source = recordings.frame_file(tmp_path / "x.prism", 0)
    words = ("decode", source, "-o", tmp_path / "cubes", "--bundle", bundle_file, "--workers", 1)
    first, second = prismlink(*words), prismlink(*words)

    assert first.out == second.out
    assert first.err == ""
    assert second.err == "0 of 1 tile decoded; 1 there already\n"


def test_decode_of_nothing_says_so(prismlink: Prismlink, bundle_file: Path, tmp_path: Path) -> None:
    """A selection that takes no tile is no error, and is not silent."""
    source = recordings.frame_file(tmp_path / "x.prism", 0)
    ended = prismlink(
        *("decode", source, "-o", tmp_path / "cubes", "--bundle", bundle_file),
        *("--scene", "nosuch*", "--workers", 1),
    )

    assert (ended.status, ended.out) == (0, "")
    assert ended.err == "0 of 0 tiles decoded; 1 not selected\n"


def test_decode_opens_sealed_packets(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """With the key's file; without it there is no packet."""
    assert prismlink("keys", tmp_path / "keys").status == 0
    key_file = tmp_path / "keys" / "seal.key"
    key = derived_key(bytes.fromhex(key_file.read_text()), DOWNLINK_SPI)
    numbers = itertools.count(1)
    sealer = Sealer(key, DOWNLINK_SPI, lambda: next(numbers), salt=b"salt")
    capture = recordings.network_capture(
        tmp_path / "x.pcap", [sealer.seal(raw) for raw in recordings.packets(0)]
    )
    words = ("decode", capture, "-o", tmp_path / "cubes", "--bundle", bundle_file)

    errors_in_one_line(prismlink(*words), DATA, capture, "--seal-key")
    opened = prismlink(*words, "--seal-key", key_file)
    assert (opened.status, opened.err) == (0, "")
    inspected = prismlink("inspect", capture, "--seal-key", key_file, "--json", tmp_path / "x.json")
    assert inspected.status == 0
    assert json.loads((tmp_path / "x.json").read_text())["packets"]["sealed"] > 0


# ---------------------------------------------------------------- errors


BAD = (
    "fly", "suspend 3", "open plan", "rate", "rate fast", "rate 0", "rate -1", "rate inf",
    "rate nan", "step", "step plan", "step 8.5", "step -1", "suspend --timeout -1",
    "suspend --timeout nan",
)  # fmt: skip
"""Commands that make no sense."""


def test_wrong_usage_ends_with_2(prismlink: Prismlink, scene: Path, tmp_path: Path) -> None:
    """An unknown command or option, a missing argument, a value out of range."""
    for words in (
        ["fly"],
        ["encode", scene],
        ["encode", scene, "-o", tmp_path / "x", "--step", "0"],
        ["encode", scene, "-o", tmp_path / "x", "--rate", "0"],
        ["encode", scene, "-o", tmp_path / "x", "--rate", "0.1", "--psnr", "50"],
        ["encode", scene, "-o", tmp_path / "x", "--step", "9", "--psnr", "50"],
        ["decode", scene, "-o", tmp_path, "--format", "jpeg"],
        ["decode", scene, "-o", tmp_path / "x.zarr", "--format", "envi"],
        ["decode", scene, "-o", tmp_path, "--since", "yesterday"],
        ["decode", scene, "-o", tmp_path, "--seal-key", scene],
        ["decode", scene, "-o", tmp_path, "--model", "zz"],
        ["decode", scene, "-o", tmp_path, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"],
        ["inspect", scene, "--until", "x"],
        ["feed", scene, "--rate", "-1"],
        *(["command", *words.split(), "--settings", tmp_path / "never-read.yaml"] for words in BAD),
        ["command", "suspend"],
    ):
        ended = prismlink(*words)
        assert ended.status == USAGE, words
        assert "Traceback" not in ended.err


def errors_in_one_line(ended: Ended, status: int, *words: object) -> None:
    """Check an error: the status, one line, no traceback, and what it must name."""
    assert ended.status == status, ended.err
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("prismlink: ")
    for word in words:
        assert str(word) in ended.err


def test_bad_input_ends_with_65(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """Whatever it is that cannot be read: the file, and a remedy or what is wrong with it."""
    absent, broken = tmp_path / "absent.tif", tmp_path / "broken.prism"
    broken.write_bytes(b"PRISM\x01\0\0\0\x01")
    out = ("-o", tmp_path / "x.prism", "--bundle", bundle_file, "--backend", "torch")

    errors_in_one_line(prismlink("encode", absent, *out), DATA, absent, "remedy")
    errors_in_one_line(prismlink("encode", scene, scene, *out), DATA, scene, "remedy")
    decode = ("-o", tmp_path / "cubes", "--bundle", bundle_file)
    errors_in_one_line(
        prismlink("decode", broken, *decode), DATA, broken, "needed 14 bytes", "remedy"
    )
    errors_in_one_line(prismlink("decode", tmp_path / "no.prism", *decode), DATA, "remedy")
    errors_in_one_line(prismlink("inspect", broken), DATA, broken)
    (tmp_path / "folder").mkdir()
    unknown = prismlink("inspect", tmp_path / "folder")
    errors_in_one_line(unknown, DATA, tmp_path / "folder", "neither a bundle")
    errors_in_one_line(prismlink("feed", absent), DATA, absent, "remedy")
    errors_in_one_line(prismlink("demo", absent, "--out", tmp_path / "d"), DATA, absent, "remedy")


def test_an_unwritable_output_ends_with_73(
    prismlink: Prismlink, scene: Path, bundle_file: Path, tmp_path: Path
) -> None:
    """Frame file, cube, numbers or folder: the path that could not be made."""
    taken, coded = tmp_path / "file", tmp_path / "here.prism"
    taken.write_bytes(b"")
    encode = ("encode", scene, "--bundle", bundle_file, "--backend", "torch", "-o")
    assert prismlink(*encode, coded).status == 0

    errors_in_one_line(prismlink(*encode, taken / "x.prism"), OUTPUT, taken)
    errors_in_one_line(prismlink(*encode, coded, "--json", taken / "x.json"), OUTPUT, taken)
    errors_in_one_line(
        prismlink("decode", coded, "-o", taken, "--bundle", bundle_file), OUTPUT, taken
    )
    errors_in_one_line(prismlink("demo", scene, "--out", taken), OUTPUT, taken)


def test_a_bundle_that_cannot_be_used_ends_with_78(
    prismlink: Prismlink, scene: Path, tmp_path: Path
) -> None:
    """A restart would not help: absent, broken, or without the decoder that is asked for."""
    broken, flight = tmp_path / "broken.safetensors", tmp_path / "flight.safetensors"
    broken.write_bytes(b"?")
    flight.write_bytes(klt_bundle().for_flight().to_bytes())
    out = ("-o", tmp_path / "x")

    errors_in_one_line(prismlink("encode", scene, *out, "--bundle", broken), CONFIG, broken)
    errors_in_one_line(prismlink("decode", scene, *out, "--bundle", flight), CONFIG, "flight")
    errors_in_one_line(prismlink("inspect", broken), CONFIG, broken)


def test_an_address_that_cannot_be_had_ends_with_69(
    prismlink: Prismlink, scene: Path, tmp_path: Path
) -> None:
    """A restart may help: the address, and what the system said."""
    address = f"ipc://{tmp_path}/no/such"
    errors_in_one_line(
        prismlink("feed", scene, "--address", address, "--bind"), UNAVAILABLE, address
    )
    errors_in_one_line(
        prismlink("feed", scene, "--address", f"ipc://{tmp_path}/a", "--bind", "--wait-s", "0"),
        *(UNAVAILABLE, "nobody subscribed"),
    )


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_service_that_could_not_report_does_not_start(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, side: str
) -> None:
    """The numbers are written at the end; that they cannot be is said at the beginning."""
    taken, path = tmp_path / "file", settings(tmp_path, side, bundle_file)
    taken.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"daemon.{side.replace('flight', 'onboard')}.service.run", pytest.fail)
        ended = prismlink(side, "run", path, "--json", taken / "x.json")

    errors_in_one_line(ended, OUTPUT, taken / "x.json")


def test_an_unwritable_report_of_a_feed_is_told_before_it(
    prismlink: Prismlink, scene: Path, tmp_path: Path
) -> None:
    """As is one of the demo."""
    taken = tmp_path / "file"
    taken.write_bytes(b"")
    for words in (("feed", scene, "--address", f"ipc://{tmp_path}/a"), ("demo", scene)):
        errors_in_one_line(prismlink(*words, "--json", taken / "x.json"), OUTPUT, taken)


def test_a_feed_that_nobody_took_has_failed(
    prismlink: Prismlink, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its numbers written all the same, and one line that says so."""
    monkeypatch.setattr(TileSender, "send", lambda *_: False)
    words = ("feed", scene, "--address", f"ipc://{tmp_path}/a", "--pattern", "pull")
    ended = prismlink(*words, "--repeat", 3, "--rate", 0, "--json", tmp_path / "fed.json")

    errors_in_one_line(ended, FAILED, "nobody took any of 3 tiles")
    assert json.loads((tmp_path / "fed.json").read_text())["refused"] == 3


def test_a_feed_that_waits_can_be_stopped(scene: Path, tmp_path: Path) -> None:
    """It says what it waits for, and ends on Ctrl-C at once, with a line."""
    address = f"ipc://{tmp_path}/a"
    command = [sys.executable, "-m", "daemon.cli", "feed", str(scene), "--address", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as feed:
        try:
            assert feed.stderr is not None
            assert feed.stderr.readline() == f"waiting for a listener at {address}\n"
            feed.send_signal(signal.SIGINT)
            rest = feed.stderr.read()
            assert feed.wait(10.0) == FAILED
        finally:
            feed.kill()

    assert rest == f"prismlink: {address}: asked to end before anybody subscribed\n"


def test_a_feed_that_nobody_listens_to_any_more_can_be_stopped(tmp_path: Path) -> None:
    """It does not wait for a tile to be taken, nor for those that are queued to leave."""
    address = f"ipc://{tmp_path}/a"
    scene = write_tile(cubes.tile(bands=99, rows=256, cols=256), tmp_path / "large", "npy")
    words = ("feed", str(scene), "--address", address, "--rate", "0", "--repeat", "1000")
    with (
        TileListener(Endpoint(address=address, bind=True), queued=1) as listener,
        subprocess.Popen([sys.executable, "-m", "daemon.cli", *words]) as feed,
    ):
        try:
            assert listener.recv(60.0) is not None
            with pytest.raises(subprocess.TimeoutExpired):
                feed.wait(1.0)  # it offers what nobody takes
            feed.send_signal(signal.SIGTERM)
            assert feed.wait(8.0) == 0
        finally:
            feed.kill()


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_a_wrong_setting_ends_with_78(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, side: str
) -> None:
    """`run` and `check-config` say the same: file, key, value and remedy, a line for each."""
    path = settings(tmp_path, side, bundle_file, "link: {adress: tcp://a:1}\n")
    for command in ("run", "check-config"):
        ended = prismlink(side, command, path)
        errors_in_one_line(ended, CONFIG, path, "link.adress", "did you mean address?")
        assert prismlink(side, command, tmp_path / "absent.yaml").status == CONFIG


@pytest.mark.parametrize("side", ["flight", "ground"])
def test_check_config_checks_what_run_would(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, side: str
) -> None:
    """The bundle too; what is well is said in one line."""
    path = settings(tmp_path, side, bundle_file)
    ended = prismlink(side, "check-config", path)
    assert (ended.status, ended.out.replace("\n", "")) == (0, f"{path}: ok")

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"?")
    path = settings(tmp_path, side, broken)
    errors_in_one_line(prismlink(side, "check-config", path), CONFIG, broken, "change model.bundle")


@pytest.mark.parametrize(("side", "key"), [("flight", "link"), ("ground", "web")])
def test_check_config_warns_of_a_plan_that_is_over(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, side: str, key: str
) -> None:
    """Nothing would be sent; `run` starts all the same, so it is no error."""
    path, old = settings(tmp_path, side, bundle_file), "{opens: 2001-01-01T10:00:00Z, closes: %s}"
    for closes, said in (("2001-01-01T10:10:00Z", f"{key}.passes"), ("2999-01-01T00:00:00Z", "")):
        plan = f"{key}.passes=[{old % closes}]"
        ended = prismlink(side, "check-config", path, "--set", plan)
        assert (ended.status, ended.out.replace("\n", "")) == (0, f"{path}: ok")
        assert (said in ended.err) if said else (ended.err == "")


def test_check_config_refuses_a_flight_bundle_on_the_ground(
    prismlink: Prismlink, tmp_path: Path
) -> None:
    """It cannot decode; the board may well use it."""
    flight = tmp_path / "flight.safetensors"
    flight.write_bytes(klt_bundle().for_flight().to_bytes())

    assert prismlink("flight", "check-config", settings(tmp_path, "flight", flight)).status == 0
    errors_in_one_line(
        prismlink("ground", "check-config", settings(tmp_path, "ground", flight)),
        *(CONFIG, flight, "change model.bundles"),
    )


def test_overrides_win_over_the_file(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """And are checked like it."""
    path = settings(tmp_path, "flight", bundle_file)
    ended = prismlink("flight", "check-config", path, "--set", "link.apid=9999")

    errors_in_one_line(ended, CONFIG, path, "link.apid: 9999")


def test_a_socket_open_to_all_needs_keys(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """`run` and `check-config` end with 78, in one line with the key and the remedy."""
    for side, name in (("flight", "instrument"), ("ground", "link")):
        path = settings(tmp_path, side, bundle_file, f"{name}: {{address: 'tcp://0.0.0.0:47100'}}")
        for command in ("run", "check-config"):
            ended = prismlink(side, command, path)
            errors_in_one_line(
                ended, CONFIG, path, f"{name}.address", "security.curve_secret_key", "insecure"
            )
        ended = prismlink(side, "check-config", path, "--set", "security.insecure=true")
        assert ended.status == 0


# ---------------------------------------------------------------- keys


def test_keys_are_made_once(prismlink: Prismlink, tmp_path: Path) -> None:
    """Files for their owner alone, as settings take them; a second time nothing is touched."""
    folder = tmp_path / "keys"
    ended = prismlink("keys", folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert (ended.status, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == [str(folder / name) for name in sorted(files)]
    assert sorted(files) == ["curve.public", "curve.secret", "seal.key"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert len(seal_key(folder / "seal.key")) == 32
    assert curve_secret(folder / "curve.secret") != curve_public(folder / "curve.public")

    errors_in_one_line(prismlink("keys", folder), OUTPUT, folder, "is there already")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_an_instrument_shows_its_key(prismlink: Prismlink, scene: Path, tmp_path: Path) -> None:
    """A board that asks for keys takes the tiles of `feed` that has them; half of them is wrong."""
    board, instrument = tmp_path / "board", tmp_path / "instrument"
    for folder in (board, instrument):
        assert prismlink("keys", folder).status == 0
    address = f"ipc://{tmp_path}/a"
    secret = ("--secret-key", instrument / "curve.secret")
    words = ("feed", scene, "--address", address, "--pattern", "pull", "--rate", 0)
    keys = CurveKeys(
        secret=curve_secret(board / "curve.secret"),
        peers=(curve_public(instrument / "curve.public"),),
    )
    endpoint = Endpoint(address=address, bind=True, curve=keys)
    with TileListener(endpoint, pattern="pull") as listener:
        ended = prismlink(*words, *secret, "--board-key", board / "curve.public")
        assert ended.status == 0
        assert listener.recv(5.0) is not None
    assert prismlink(*words, *secret).status == USAGE


# ---------------------------------------------------------------- commands to the board


def ground_with_uplink(folder: Path, bundle: Path, more: str = "") -> Path:
    """The ground's settings, with the board's uplink in the same folder."""
    uplink = f"link: {{uplink: {{address: 'ipc://{folder}/up', apid: 7}}}}\n"
    return settings(folder, "ground", bundle, uplink + more)


@pytest.mark.parametrize(
    ("words", "kind", "value"),
    [
        ("open", Kind.OPEN, None),
        ("close", Kind.CLOSE, None),
        ("suspend", Kind.SUSPEND, None),
        ("resume", Kind.RESUME, None),
        ("rate 512", Kind.RATE, 512.0),
        ("rate plan", Kind.RATE, None),
        ("step 1.5", Kind.STEP, 1.5),
        ("step 0", Kind.STEP, 0.0),
    ],
)
def test_a_command_is_sent(
    *, prismlink: Prismlink, bundle_file: Path, tmp_path: Path,
    words: str, kind: Kind, value: float | None,
) -> None:  # fmt: skip
    """For the board's APID; what was sent, and where to, is said in a line."""
    path = ground_with_uplink(tmp_path, bundle_file)
    with PacketListener(Endpoint(address=f"ipc://{tmp_path}/up", bind=True)) as board:
        ended = prismlink("command", *words.split(), "--settings", path)
        (raw,) = board.recv_many(2, 5.0)

    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{words}: sent to ipc://{tmp_path}/up, not sealed\n"
    command = Command.unpack(raw)
    assert (command.apid, command.kind) == (7, kind)
    if kind in (Kind.RATE, Kind.STEP):
        assert unpack_value(command.body, 0, 1e9, "") == value
    else:
        assert command.body == b""


def test_a_command_is_sealed_beside_its_ground(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """While the ground holds its counters, with a key and counters of its own: never one twice."""
    assert prismlink("keys", tmp_path / "keys").status == 0
    state = tmp_path / "state"
    security = f"security: {{seal_key: keys/seal.key, seal_state: {state}}}\n"
    words = (
        "command",
        "suspend",
        "--settings",
        ground_with_uplink(tmp_path, bundle_file, security),
    )
    grounds = ReservedCounter(state)
    with PacketListener(Endpoint(address=f"ipc://{tmp_path}/up", bind=True)) as board:
        ended = [prismlink(*words) for _ in range(3)]
        raw = [board.recv_many(1, 5.0)[0] for _ in ended]
        operators = ReservedCounter(tmp_path / "state.operator")
        errors_in_one_line(prismlink(*words), CONFIG, "state.operator", "wait until it ends")
        operators.close()
    grounds.close()

    assert {(one.status, one.err) for one in ended} == {(0, "")}
    assert ended[0].out.endswith(", sealed\n")
    key = seal_key(tmp_path / "keys" / "seal.key")
    opener = Opener({OPERATOR_SPI: derived_key(key, OPERATOR_SPI)}, heard={})
    assert [Command.unpack(opener.open(one)).kind for one in raw] == [Kind.SUSPEND] * 3
    for spi in (DOWNLINK_SPI, UPLINK_SPI):
        with pytest.raises(SealError):
            Opener({OPERATOR_SPI: derived_key(key, spi)}, heard={}).open(raw[0])


def test_a_command_shows_its_key(prismlink: Prismlink, bundle_file: Path, tmp_path: Path) -> None:
    """A board that asks for keys takes the command of who has the ground's, and of nobody else."""
    for name in ("board", "ground", "stranger"):
        assert prismlink("keys", tmp_path / name).status == 0

    def security(own: str) -> str:
        peers = "curve_peers: {uplink: [board/curve.public]}"
        return f"security: {{curve_secret_key: {own}/curve.secret, {peers}}}\n"

    keys = CurveKeys(
        secret=curve_secret(tmp_path / "board" / "curve.secret"),
        peers=(curve_public(tmp_path / "ground" / "curve.public"),),
    )
    words = ("command", "suspend", "--settings")
    with PacketListener(Endpoint(address=f"ipc://{tmp_path}/up", bind=True, curve=keys)) as board:
        path = ground_with_uplink(tmp_path, bundle_file, security("ground"))
        assert prismlink(*words, path).status == 0
        assert len(board.recv_many(2, 5.0)) == 1
        path = ground_with_uplink(tmp_path, bundle_file, security("stranger"))
        ended = prismlink(*words, path, "--timeout", 0.5)
        errors_in_one_line(ended, UNAVAILABLE, "security.curve_peers.uplink")
        assert board.recv_many(1, 0.0) == []


def test_a_command_that_nobody_takes_ends_with_69(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """After the time it was given, naming the address and what to look at."""
    words = ("command", "suspend", "--settings", ground_with_uplink(tmp_path, bundle_file))
    for timeout in ("0.25", "0"):
        ended = prismlink(*words, "--timeout", timeout)
        errors_in_one_line(ended, UNAVAILABLE, f"ipc://{tmp_path}/up", f"within {timeout} s")


def test_a_command_without_an_uplink_ends_with_78(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path
) -> None:
    """Nor where the ground's process owns its address: an ipc socket would be taken from it."""
    path = settings(tmp_path, "ground", bundle_file)
    words = ("command", "suspend", "--settings", path)
    errors_in_one_line(prismlink(*words), CONFIG, path, "link.uplink: null")
    own = f"link.uplink={{address: 'ipc://{tmp_path}/up', bind: true}}"
    errors_in_one_line(prismlink(*words, "--set", own), CONFIG, path, "link.uplink.bind: true")
    assert not (tmp_path / "up").exists()


def test_a_full_disk_sends_no_command(
    prismlink: Prismlink, bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a number of its own nothing is sealed: 73, with the file."""
    assert prismlink("keys", tmp_path / "keys").status == 0
    security = f"security: {{seal_key: keys/seal.key, seal_state: {tmp_path}/state}}\n"
    words = (
        "command",
        "suspend",
        "--settings",
        ground_with_uplink(tmp_path, bundle_file, security),
    )
    monkeypatch.setattr(ReservedCounter, "next", full)
    errors_in_one_line(prismlink(*words), OUTPUT, "state.operator", "No space left")


def full(_: ReservedCounter) -> int:
    """A counter whose disk has no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---------------------------------------------------------------- first impressions


def test_every_command_shows_an_example(prismlink: Prismlink) -> None:
    """`--help` says what a command does and shows it done."""
    for words in (
        ["demo"], ["feed"], ["encode"], ["decode"], ["inspect"], ["keys"], ["command"],
        *([side, command] for side in ("flight", "ground") for command in ("run", "check-config")),
    ):  # fmt: skip
        ended = prismlink(*words, "--help")
        assert ended.status == 0
        assert f"Example: prismlink {' '.join(words)}" in re.sub(r"[\s│]+", " ", ended.out)


def test_the_version_is_quick() -> None:
    """Nothing heavy is loaded to say it, nor to show what commands there are."""
    code = (
        "import sys; from daemon.cli import app; app(['--version'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'zmq', 'openvino', 'prometheus_client'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == f"prismlink {version('prismlink')}\n"


def test_an_error_is_one_line_from_the_shell_too(tmp_path: Path) -> None:
    """The installed program ends as `main` says, with nothing on standard output."""
    ended = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "flight", "check-config", str(tmp_path / "no.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (CONFIG, "")
    assert ended.stderr == (
        f"prismlink: {tmp_path}/no.yaml: cannot be read: No such file or directory\n"
    )
