"""The paper's network as it ships: one more bundle for the same encoder and decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.quality import measure
from codec.tile_files import find_scenes, read_tile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference() -> Bundle:
    """Return it."""
    return load_bundle(ROOT / "deploy" / "models" / "reference.safetensors")


def test_it_is_the_papers_network_pruned(reference: Bundle) -> None:
    """For EnMAP's bands, its latents as published, its hidden layers at least a third narrower."""
    network = reference.network
    assert (network.components, network.latent_channels, network.shortcut) == (224, 1024, "none")
    for width, published in zip(
        (*network.encoder_widths, *network.decoder_widths),
        (256, 256, 256, 512, 512, 256, 256, 256),
        strict=True,
    ):
        assert width <= published * 2 / 3
    stages = [entry["stage"] for entry in reference.provenance["stages"]]
    assert stages[:2] == ["fit", "prune"]
    assert not reference.provenance["commit"].endswith("+")


def test_it_codes_a_real_patch_in_int8(reference: Bundle) -> None:
    """As a daemon on a CPU would, in fewer bits than the paper's nominal 2.53."""
    (path,) = find_scenes(ROOT / "tests" / "data" / "hyspecnet-11k")
    tile = read_tile(path)
    encoder = Encoder(reference)
    frames = encoder.encode(tile)
    assert encoder.backend.precision == "int8"
    assert 8 * sum(map(len, frames)) / np.count_nonzero(tile.valid()) < 0.5
    assert (
        measure(tile, Decoder(reference).decode(frames)).psnr_db > 41
    )  # negative reflectance is clipped
