"""The paper's network as it ships: one more bundle for the same encoder and decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.quality import measure
from codec.tile_files import find_scenes, read_tile
from training.bundles import size_of

ROOT = Path(__file__).resolve().parents[2]
ENDS = "encoder", "decoder"


@pytest.fixture(scope="module")
def reference() -> Bundle:
    """Return it."""
    return load_bundle(ROOT / "deploy" / "models" / "reference.safetensors")


def test_it_is_the_papers_network_pruned(reference: Bundle) -> None:
    """For EnMAP's bands, its latents as published, 45 % fewer weights and half the operations.

    What flies has lost more than two thirds of its own.
    """
    network = reference.network
    assert (network.components, network.latent_channels, network.shortcut) == (224, 1024, "none")
    published = replace(
        network, encoder_widths=(256, 256, 256, 512), decoder_widths=(512, 256, 256, 256)
    )
    before, after = size_of(published), size_of(network)
    assert after["params"] <= 0.55 * before["params"]
    encoders, decoders = ([size[f"macs_{end}"] for size in (before, after)] for end in ENDS)
    assert encoders[1] + decoders[1] <= 0.5 * (encoders[0] + decoders[0])
    assert encoders[1] <= encoders[0] / 3
    stages = [entry["stage"] for entry in reference.provenance["stages"]]
    assert stages[:2] == ["fit", "prune"]
    assert not reference.provenance["commit"].endswith("+")


def test_it_codes_a_real_patch_in_int8(reference: Bundle) -> None:
    """As a daemon on a CPU would: far below the paper's nominal 2.53 bits, and as in float32."""
    (path,) = find_scenes(ROOT / "tests" / "data" / "hyspecnet-11k")
    tile, decoder = read_tile(path), Decoder(reference)
    psnr_db = {}
    for backend in ("openvino", "torch-cpu"):
        encoder = Encoder(reference, backend=backend)
        frames = encoder.encode(tile)
        assert 8 * sum(map(len, frames)) / np.count_nonzero(tile.valid()) < 0.5
        psnr_db[encoder.backend.precision] = measure(tile, decoder.decode(frames)).psnr_db
    assert psnr_db["int8"] > 40  # negative reflectance is clipped
    assert psnr_db["int8"] > psnr_db["float32"] - 0.15
