"""Rules of `prismlink-train reproduce`: the paper start to end, on any data, and latents kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import load_bundle
from fakes.patches import SHAPE, add_patch
from training.bundles import stage_of
from training.config import load_settings
from training.hyspecnet import PARTS

Run = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
scenes: {{validation: [south]}}
network:
  shortcut: none
  components: {bands}
  latent_channels: 16
  encoder_widths: [16, 16, 16, 16]
  decoder_widths: [16, 16, 16, 16]
  default_step: 0.02
fit: &fit {{epochs: 2, crops_per_epoch: 16, batch_crops: 4, crop_px: 16, learning_rate: 0.005}}
prune: {{ratio: 0.5, schedule: {schedule}, round_to: 8, tune: *fit}}
calibrate: {{octaves: [0.0]}}
"""
FIELDS = (
    *("params_before", "params_after", "macs_before", "macs_after"),
    *("latent_channels_before", "latent_channels_after", "psnr_db_before", "psnr_db_after"),
    *("bpppc_measured", "settings"),
)
"""Of `reproduce --json`, as the design names them."""


def settings_file(folder: Path, bands: int, schedule: str = "agp") -> Path:
    """Write settings for a network of few channels."""
    path = folder / "reproduce.yaml"
    path.write_text(SETTINGS.format(bands=bands, schedule=schedule), encoding="utf-8")
    return path


@pytest.mark.parametrize("schedule", ["agp", "iterative"])
def test_scenes_are_enough(folder: Path, tmp_path: Path, run: Run, schedule: str) -> None:
    """The network shrinks while it learns, keeps its latents, and is measured in real bytes."""
    settings, out = settings_file(tmp_path, 6, schedule), tmp_path / "run"
    table = out / "numbers.json"
    given = (folder / "scenes", "--settings", settings, "--out", out, "--json", table)
    assert run("reproduce", *given) == 0

    found = json.loads(table.read_text())
    assert set(FIELDS) <= found.keys()
    assert found["params_after"] < 0.6 * found["params_before"]
    assert found["macs_after"] < 0.6 * found["macs_before"]
    assert found["latent_channels_after"] == found["latent_channels_before"] == 16
    assert found["bpppc_measured"] > 0
    assert found["scenes"] == {"training": ["north_1", "north_2"], "validation": ["south"]}
    pruned = load_bundle(out / "pruned.safetensors")
    assert pruned.network.encoder_widths == pruned.network.decoder_widths == (8, 8, 8, 8)
    record = stage_of(pruned, "prune")
    assert record is not None
    assert record["settings"]["schedule"] == schedule
    assert record["after"]["params"] == found["params_after"]

    epochs = [epoch for epoch, _ in found["curve"]["fit"]["cost/held back"]]
    assert epochs == [0, 1, 2]
    assert [epoch for epoch, _ in found["curve"]["prune"]["cost/training"]] == [1, 2]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")

    assert run("reproduce", *given, "--resume") == 0
    assert json.loads(table.read_text())["psnr_db_before"] == found["psnr_db_before"]


def test_a_tree_is_converted_first(tmp_path: Path, run: Run) -> None:
    """HySpecNet-11k as it is unpacked takes one path; a store made of it gives the same."""
    tree, out = tmp_path / "tree", tmp_path / "run"
    rng, rows = np.random.default_rng(0), []
    for number in range(3):
        files = add_patch(tree, number, rng.random(SHAPE, np.float32))
        rows.append(f"{files.path}/{files.name}-DATA.npy\n")
    (tree / "splits" / "easy").mkdir(parents=True)
    for part, row in zip(PARTS, rows, strict=True):
        (tree / "splits" / "easy" / f"{part}.csv").write_text(row)
    given = ("--settings", settings_file(tmp_path, 202), "--json", tmp_path / "numbers.json")
    assert run("reproduce", tree, *given, "--out", out) == 0
    first = json.loads((tmp_path / "numbers.json").read_text())
    assert first["scenes"]["test"] == ["HySpecNet-11k easy/test, 1 patches"]

    assert run("convert", tree, "--out", tmp_path / "store") == 0
    assert run("reproduce", tmp_path / "store", *given, "--out", tmp_path / "again") == 0
    again = json.loads((tmp_path / "numbers.json").read_text())
    assert again["psnr_db_after"] == pytest.approx(first["psnr_db_after"], abs=0.02)
    assert again["params_after"] == first["params_after"]

    wrong = ("--settings", settings_file(tmp_path, 100), "--out", out)
    assert run("reproduce", tree, *wrong) == 78
    assert run("reproduce", tmp_path / "store", *wrong) == 66


def test_quality_over_operations(folder: Path, tmp_path: Path, run: Run) -> None:
    """Each point has at most the operations asked for; all are kept, and drawn."""
    settings, out = settings_file(tmp_path, 6), tmp_path / "run"
    assert run("reproduce", folder / "scenes", "--settings", settings, "--out", out) == 0
    given = (out / "fit.safetensors", folder / "scenes", "--settings", settings, "--out", out)
    assert run("pareto", *given, "--fewer", "0.3,0.6") == 0
    points = json.loads((out / "pareto.json").read_text())
    assert [point["fewer_macs"] for point in points] == [0, 0.3, 0.6]
    for point in points:
        assert point["macs"] <= (1 - point["fewer_macs"]) * points[0]["macs"]
        assert point["bpppc_measured"] > 0
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert load_bundle(out / "fewer-60.safetensors").network.latent_channels == 16
    for wrong in ("0.5,0.3", "1", "x", ""):
        assert run("pareto", *given, "--fewer", wrong) == 78
    before = (out / "pareto.json").read_text()
    assert run("pareto", *given, "--fewer", "0.3,0.999") == 65  # known before anything is trained
    assert (out / "pareto.json").read_text() == before
    other = ("--settings", settings_file(tmp_path, 5))
    assert run("pareto", *given[:2], *other, "--out", out) == 78


def test_another_network_is_refused(folder: Path, tmp_path: Path, run: Run) -> None:
    """The paper has no shortcut, and prunes while it tunes."""
    scenes = folder / "scenes"
    assert run("reproduce", scenes, "--settings", folder / "training.yaml") == 78
    once = settings_file(tmp_path, 6, "one_shot")
    assert run("reproduce", scenes, "--settings", once, "--out", tmp_path / "run") == 78
    shipped = ROOT / "deploy" / "models" / "default.safetensors"
    assert run("pareto", shipped, scenes, "--settings", settings_file(tmp_path, 6)) == 78


def test_the_settings_are_the_papers() -> None:
    """Layers, latents, bands, epochs, rate of learning and clipping are as published."""
    settings = load_settings(ROOT / "deploy" / "reproduce.yaml")
    network = settings.network
    assert (network.components, network.latent_channels) == (202, 1024)
    assert network.encoder_widths == (256, 256, 256, 512)
    assert network.decoder_widths == (512, 256, 256, 256)
    assert (settings.fit.epochs, settings.prune.tune.epochs) == (5, 3)
    for stage in (settings.fit, settings.prune.tune):
        assert (stage.learning_rate, stage.gradient_norm) == (1e-4, 1.0)
