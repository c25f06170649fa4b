"""A folder of tiny scenes, settings to match, and the command line to run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes.cubes import tile
from training.cli import main
from training.config import Settings, load_settings
from training.scenes import Split, load_scenes, split_scenes

SETTINGS = """
scenes:
  groups: {north: ["north_*"]}
  validation: [south]
network:
  components: 2
  sent_components: 4
  encoder_widths: [16, 16, 16, 16]
  decoder_widths: [16, 16, 16, 16]
  default_step: 64
fit: &fit
  epochs: 2
  crops_per_epoch: 8
  batch_crops: 4
  crop_px: 16
  octaves: [0.0]
  precision: float32
prune:
  ratio: 0.5
  round_to: 8
  restorer_round_to: 8
  tune:
    <<: *fit
    epochs: 1
restore:
  epochs: 3
  batches_per_epoch: 40
  batch_rows: 256
  learning_rate: 0.01
  octaves: [0.0]
calibrate:
  octaves: [-1.0, 0.0]
  contexts: {kept: 60}
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks this small are slower on two threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes and the settings file beside them."""
    root = tmp_path_factory.mktemp("training")
    (root / "scenes").mkdir()
    for seed, name in enumerate(("north_1", "north_2", "south")):
        cube = tile(bands=8, rows=24, cols=40, seed=seed, noise_dn=30.0)
        np.savez(
            root / "scenes" / f"{name}.npz",
            cube=cube.samples,
            reflectance_scale=10_000,
            sensor="fake",
        )
    (root / "training.yaml").write_text(SETTINGS, encoding="utf-8")
    return root


@pytest.fixture
def settings(folder: Path) -> Settings:
    """Return the settings as read."""
    return load_settings(folder / "training.yaml")


@pytest.fixture
def split(folder: Path, settings: Settings) -> Split:
    """Return the scenes as split."""
    return split_scenes(load_scenes(folder / "scenes", settings.scenes), settings.scenes)


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `prismlink-train` with arguments; returns the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["prismlink-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return call
