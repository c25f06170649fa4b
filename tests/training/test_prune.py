"""FasterAI decides what goes; what is left is a plain bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle, make_bundle
from codec.network import SscnetSpec
from fakes.bundles import branch_bundle
from training.bundles import write_bundle
from training.config import PruneSettings, Settings
from training.errors import CheckpointError
from training.loop import initialized
from training.prune import prune
from training.steps import linear_codec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(settings: Settings) -> Bundle:
    """Return a bundle of widths 16."""
    return initialized(linear_codec(settings), 0)


def test_hidden_layers_shrink_and_the_ends_stay(bundle: Bundle) -> None:
    """Widths are multiples as asked; latents and components are what they were."""
    pruned = prune(bundle, PruneSettings(ratio=0.5, round_to=8)).network

    assert pruned.encoder_widths == (8, 8, 8, 8)
    assert pruned.decoder_widths == (8, 8, 8, 8)
    assert (pruned.components, pruned.latent_channels) == (2, 128)


def test_the_smallest_filters_go(bundle: Bundle) -> None:
    """A channel whose weights are far larger than the others' survives, in either branch."""
    names = "analysis.branch.0.weight", "synthesis.branch.0.weight"
    tensors = {k: v.copy() for k, v in bundle.tensors.items()}
    for name in names:
        tensors[name][5] *= 100
    marked = make_bundle(
        bundle.network, bundle.conditioner, default_step=bundle.default_step, tensors=tensors
    )

    pruned = prune(marked, PruneSettings(ratio=0.5, round_to=8))

    for name in names:
        assert any(np.array_equal(tensors[name][5], row) for row in pruned.tensors[name])


def test_pruning_nothing_is_refused(bundle: Bundle) -> None:
    """A ratio that rounding swallows is named, not reported as a success."""
    with pytest.raises(CheckpointError, match=r"prune\.ratio"):
        prune(bundle, PruneSettings(ratio=0.05, round_to=16, restorer_round_to=16))


def test_a_pruned_bundle_needs_no_fasterai(bundle: Bundle, tmp_path: Path) -> None:
    """On board there is neither FasterAI nor fastai nor torchvision."""
    path = tmp_path / "pruned.safetensors"
    write_bundle(prune(bundle, PruneSettings(ratio=0.5, round_to=8)), path)
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fasterai", "fastai", "torchvision", "torch_pruning", "training"):
            raise ImportError(f"{name} is not on board")
sys.meta_path.insert(0, Hidden())
from pathlib import Path
from codec.bundle import load_bundle
bundle = load_bundle(Path(sys.argv[1]))
bundle.analysis(), bundle.synthesis()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr


def test_the_input_is_left_alone() -> None:
    """Pruning makes a new bundle; the one it started from still loads and has its name."""
    bundle = branch_bundle()
    name, widths = bundle.name, bundle.network.encoder_widths

    pruned = prune(bundle, PruneSettings(ratio=0.4, round_to=1))

    assert bundle.name == name
    assert isinstance(pruned.network, SscnetSpec)
    assert all(w < v for w, v in zip(pruned.network.encoder_widths, widths, strict=True))
