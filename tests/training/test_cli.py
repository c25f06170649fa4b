"""Every command end to end, from files to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from safetensors.numpy import load_file
from typer.testing import CliRunner

from codec.bundle import load_bundle
from codec.network import count_macs
from codec.tile_files import read_tile
from daemon.signatures import is_signed, trusted_key
from fakes.bundles import klt_bundle
from training.bundles import stage_of, write_bundle
from training.checkpoint import read_checkpoint
from training.cli import app
from training.hyspecnet import DIFFICULTIES, PARTS, read_patch, read_split

Run = Callable[..., int]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder the commands write to, one after the other."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def given(folder: Path) -> tuple[str | Path, ...]:
    """Scenes and settings, as every command takes them."""
    return ("--scenes", folder / "scenes", "--settings", folder / "training.yaml")


def test_the_whole_way(run: Run, given: tuple[str | Path, ...], runs: Path) -> None:
    """The commands of docs/training.md, and evaluate, follow each other through files."""
    fitted, pruned, calibrated, restored = (
        runs / f"{name}.safetensors" for name in ("fit", "pruned", "calibrated", "restored")
    )
    assert run("fit", *given, "--out", fitted) == 0
    assert run("calibrate", fitted, *given, "--out", calibrated) == 0
    assert run("restore", calibrated, *given, "--out", restored) == 0
    assert run("prune", restored, *given, "--out", pruned) == 0
    assert run("calibrate", pruned, *given, "--out", calibrated) == 0
    assert run("restore", calibrated, *given, "--out", restored) == 0
    assert run("export", restored, *given, "--out", runs / "models") == 0

    assert list((runs / "tensorboard" / "fit-fit").glob("events*"))
    full = load_bundle(runs / "models" / "default.safetensors")
    flight = load_bundle(runs / "models" / "default.flight.safetensors")
    stages = [entry["stage"] for entry in full.provenance["stages"]]
    assert full.name == flight.name
    assert not flight.has_synthesis
    assert stages == [
        *("fit", "calibrate", "restore"),
        *("prune", "tune", "calibrate", "restore"),
    ]
    record = stage_of(full, "prune")
    assert record is not None
    assert record["after"]["params"] < record["before"]["params"]
    assert (record["after"]["macs_encoder"], record["after"]["macs_decoder"]) == count_macs(
        full.network
    )
    assert full.provenance["scenes"]["training"] == ["north_1", "north_2"]
    assert {entry["scene"] for entry in full.scores["held_back"]} == {"south"}

    table = runs / "scores.json"
    model = runs / "models" / "default.safetensors"
    assert (
        run("evaluate", model, fitted, *given, "--linear", "--steps", "32,64", "--json", table) == 0
    )
    scores = json.loads(table.read_text())
    assert len(scores) == 3 * 3 * 2
    assert {score["codec"] for score in scores} == {"linear", "default", "fit"}


def test_the_network_alone_goes_the_same_way(
    run: Run, given: tuple[str | Path, ...], tmp_path: Path
) -> None:
    """Without a shortcut fit, calibrate, prune and evaluate make and score the paper's codec."""
    settings = tmp_path / "sscnet.yaml"
    network = "network: {shortcut: none, components: 8, latent_channels: 32, "
    widths = "encoder_widths: [16, 16, 16, 16], decoder_widths: [16, 16, 16, 16]}"
    text = Path(given[3]).read_text(encoding="utf-8")
    before, _, after = text.partition("network:")
    settings.write_text(
        before + network + widths + "\nfit: &fit" + after.partition("fit: &fit")[2], "utf-8"
    )
    given = (*given[:2], "--settings", settings)
    fitted, pruned, calibrated = (
        tmp_path / f"{name}.safetensors" for name in ("fit", "pruned", "calibrated")
    )
    assert run("fit", *given, "--out", fitted) == 0
    assert run("prune", fitted, *given, "--out", pruned) == 0
    assert run("calibrate", pruned, *given, "--out", calibrated) == 0
    assert run("evaluate", calibrated, *given, "--steps", "0.02,0.05") == 0
    assert load_bundle(calibrated).network.encoder_widths == (8, 8, 8, 8)
    assert run("onnx", calibrated, "--out", tmp_path / "encoder.onnx") == 0
    assert run("onnx", pruned, "--out", tmp_path / "encoder.onnx") == 65
    assert run("export", calibrated, *given, "--out", tmp_path, "--name", "reference") == 0
    shipped = load_bundle(tmp_path / "reference.safetensors")
    assert {entry["scene"] for entry in shipped.scores["held_back"]} == {"south"}


def test_baselines_stand_beside_a_bundle(
    run: Run, tmp_path: Path, given: tuple[str | Path, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """With --baselines the other codecs' scores are in the table and in the JSON."""
    settings = tmp_path / "training.yaml"
    tiny = "{components: [2], steps: [64], reversible_steps: [], band_steps: [64], distances: [5]}"
    report = f"report: {{baselines: {tiny}}}\n"
    settings.write_text(Path(given[3]).read_text() + report, encoding="utf-8")
    write_bundle(klt_bundle(), tmp_path / "x.safetensors")
    out = ("--json", tmp_path / "scores.json", "--baselines", tmp_path / "kept.json")
    given = (*given[:2], "--settings", settings, "--held-back", "--steps", "32,64")

    assert run("evaluate", tmp_path / "x.safetensors", *given, *out) == 0

    codecs = {score["codec"] for score in json.loads((tmp_path / "scores.json").read_text())}
    assert {"prismlink", "klt2-j2k", "j2k-band", "jxl-lossless"} <= codecs
    assert "against klt-j2k" in capfd.readouterr().err


def test_a_killed_fit_ends_the_same(
    run: Run, given: tuple[str | Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After SIGKILL in the middle of an epoch --resume gives the weights of a whole training."""
    settings = tmp_path / "training.yaml"
    longer = "epochs: 6\n  checkpoint_minutes: 0\n  crops_per_epoch: 40"
    text = Path(given[3]).read_text(encoding="utf-8")
    settings.write_text(text.replace("epochs: 2\n  crops_per_epoch: 8", longer), encoding="utf-8")
    given = (*given[:2], "--settings", settings)
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    place = killed.with_suffix(".checkpoint.safetensors")
    command = [sys.executable, "-m", "training.cli", "fit", *map(str, given), "--out", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 120
        while not place.exists() or read_checkpoint(place)[0].batches != 3:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline_s
        process.kill()
    cut = read_checkpoint(place)[0].progress.epoch
    assert cut < 6

    assert run("fit", *given, "--out", killed, "--resume") == 0
    said = capfd.readouterr().err
    assert f"going on after epoch {cut}, batch " in said
    assert f"epoch {cut + 1}:" in said
    assert "epoch 0:" not in said
    assert run("fit", *given, "--out", whole) == 0
    for name in ("killed", "killed.checkpoint"):
        one = load_file(tmp_path / f"{name}.safetensors")
        other = load_file(tmp_path / f"{name.replace('killed', 'whole')}.safetensors")
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one), name


def test_a_checkpoint_of_something_else_is_refused(
    run: Run, given: tuple[str | Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A resumed fit does not go on from another network, nor from what is no checkpoint."""
    out, place = tmp_path / "fit.safetensors", tmp_path / "fit.checkpoint.safetensors"
    settings = tmp_path / "training.yaml"
    text = Path(given[3]).read_text(encoding="utf-8")
    settings.write_text(text.replace("components: 2", "components: 3"), encoding="utf-8")
    assert run("fit", *given, "--out", out) == 0
    other = (*given[:2], "--settings", settings)
    assert run("fit", *other, "--out", out, "--resume") == 65
    assert "no checkpoint of this fit: other network; remedy" in capfd.readouterr().err
    settings.write_text(text.replace("batch_crops: 4", "batch_crops: 2"), encoding="utf-8")
    assert run("fit", *other, "--out", out, "--resume") == 65
    assert "no checkpoint of this fit: other fit; remedy" in capfd.readouterr().err

    for damaged in (b"", place.read_bytes()[:-9], out.read_bytes()):
        place.write_bytes(damaged)
        assert run("fit", *given, "--out", out, "--resume") == 65
        assert "fit.checkpoint.safetensors: no checkpoint" in capfd.readouterr().err


def test_what_is_exported_is_signed(
    run: Run, given: tuple[str | Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever has the public key can tell that both files are ours; the model knows an answer."""
    key, path = Ed25519PrivateKey.generate(), tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_bundle(klt_bundle(), tmp_path / "x.safetensors")
    export = ("export", tmp_path / "x.safetensors", *given, "--out", tmp_path / "models")
    assert run(*export, "--sign", path) == 0
    for name in ("default", "default.flight"):
        shipped = tmp_path / "models" / f"{name}.safetensors"
        signature = shipped.with_name(f"{name}.safetensors.sig").read_bytes()
        key.public_key().verify(signature, shipped.read_bytes())
        assert load_bundle(shipped).known_answer

    capfd.readouterr()
    other = X25519PrivateKey.generate()
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert run(*export, "--sign", path) == 78
    assert "not of Ed25519; remedy: name another" in capfd.readouterr().err
    path.write_bytes(b"no key")
    assert run(*export, "--sign", path) == 78
    assert "no private key" in capfd.readouterr().err
    assert run(*export, "--sign", tmp_path / "absent.pem") == 78
    assert "remedy: openssl genpkey" in capfd.readouterr().err


def test_a_bundle_is_signed_as_the_manual_says(
    run: Run, tmp_path: Path, requires_tool: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Keys of openssl; what daemons read of them takes the signature."""
    private, public = tmp_path / "models.key", tmp_path / "models.pem"
    openssl = requires_tool("openssl")
    for words in (
        ("genpkey", "-algorithm", "ed25519", "-out", private),
        ("pkey", "-in", private, "-pubout", "-out", public),
    ):
        subprocess.run((openssl, *words), check=True, capture_output=True)
    bundle = tmp_path / "x.safetensors"
    write_bundle(klt_bundle(), bundle)
    assert run("sign", bundle, "--key", private) == 0
    signature = bundle.with_name("x.safetensors.sig").read_bytes()
    assert is_signed(bundle.read_bytes(), signature, [trusted_key(public)])

    assert run("sign", tmp_path / "absent.safetensors", "--key", private) == 65
    assert "absent.safetensors: No such file" in capfd.readouterr().err


def test_what_is_synthesized_is_trained_on(
    run: Run,
    given: tuple[str | Path, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A tree has tiles, layers and splits as HySpecNet-11k has; a strip is one scene.

    Nothing is made of scenes that the settings hold back.
    """
    tree = tmp_path / "tree"
    assert run("synthesize", *given[:2], "--out", tree, "--tiles", "3") == 0
    counts = {
        difficulty: [len(read_split(tree, difficulty, part)) for part in PARTS]
        for difficulty in DIFFICULTIES
    }
    assert counts == {"easy": [34, 9, 5], "hard": [16, 16, 16]}
    patch = read_patch(read_split(tree, "easy", "train")[0], usable_only=True)
    assert patch.samples.shape == (202, 128, 128)
    tiles = [{files.tile for files in read_split(tree, "hard", part)} for part in PARTS]
    assert not tiles[0] & tiles[1]
    assert not tiles[1] & tiles[2]
    assert run("convert", tree, "--out", tmp_path / "store") == 0
    assert run("convert", tree, "--out", tmp_path / "store", "--verify") == 0
    samples = np.lib.format.open_memmap(tmp_path / "store" / "samples.npy", mode="r+")
    samples[0, 0, 0, 0] ^= 1
    samples.flush()
    assert run("convert", tree, "--out", tmp_path / "store", "--verify") == 66

    strip = tmp_path / "strip.npy"
    assert run("synthesize", *given, "--out", strip, "--strip", "300", "--cols", "40") == 0
    assert "spectra of 2 scenes" in capfd.readouterr().err
    assert read_tile(strip).samples.shape == (224, 300, 40)
    assert (tmp_path / "strip.npy-statistics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        pytest.param(["fit", "--scenes", "nowhere"], 66, "nowhere", id="no scenes"),
        pytest.param(
            ["fit", "--scenes", ".", "--settings", "no.yaml"], 78, "no.yaml", id="no settings"
        ),
        pytest.param(
            ["evaluate", "none.safetensors", "--scenes", "SCENES"],
            65,
            "no such bundle",
            id="bundle",
        ),
        pytest.param(
            ["evaluate", "x", "--scenes", "SCENES", "--steps", "1,zero"], 78, "1,zero", id="steps"
        ),
        pytest.param(
            ["evaluate", "x", "--scenes", "SCENES", "--backend", "gpu"], 78, "gpu", id="backend"
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(
    *,
    run: Run,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    complaint: str,
) -> None:
    """The line names what is wrong; there is no traceback."""
    given = [str(folder / "scenes") if a == "SCENES" else a for a in arguments]

    assert run(*given) == code

    said = capfd.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["fit", "prune", "calibrate", "export", "evaluate", "report"])
def test_help_shows_an_example(command: str) -> None:
    """Each command tells how it is called."""
    result = CliRunner().invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert f"Example: prismlink-train {command}" in result.output
