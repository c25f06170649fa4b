"""Rules of `codec.backends.openvino_backend`: the same network, in int8 where ranges are known."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.backends.openvino_backend import OpenvinoBackend
from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle, make_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder, make_backend
from codec.network import branch_input
from codec.shortcut import Wavelet
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle

RNG = np.random.default_rng(0)
PATCHES = [
    (RNG.normal(size=shape) * 20).astype(np.float32)
    for shape in ((3, 16, 24), (3, 8, 8), (0, 8, 8), (3, 16, 24), (6, 8, 8))
]


def calibrated(bundle: Bundle) -> Bundle:
    """The bundle with the ranges its encoder sees on the patches of this test."""
    largest = np.zeros(5, dtype=np.float32)
    branch = bundle.analysis().branch
    convolutions = [i for i, layer in enumerate(branch) if isinstance(layer, torch.nn.Conv2d)]
    for patch in PATCHES:
        spec = bundle.network
        x = branch_input(torch.from_numpy(patch[None]), spec.components, spec.squash)
        for i, layer in enumerate(branch):
            if i in convolutions:
                at = convolutions.index(i)
                largest[at] = max(largest[at], x.abs().max().item())
            x = layer(x)
    return make_bundle(
        bundle.network,
        bundle.conditioner,
        default_step=bundle.default_step,
        tensors={**bundle.tensors, "analysis_ranges": largest},
    )


def test_nothing_is_reported_home() -> None:
    """OpenVINO is loaded without the package through which it reports to its makers."""
    assert sys.modules.get("openvino_telemetry", sys) is None
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


@pytest.mark.parametrize("bundle", [branch_bundle(), minmax_bundle(3)], ids=["klt", "minmax"])
def test_float32_is_the_same_network(bundle: Bundle) -> None:
    """Without ranges OpenVINO and PyTorch agree to rounding."""
    backend, patches = OpenvinoBackend(bundle, threads=1), PATCHES
    if bundle.network.shortcut == "none":
        patches = [patch for patch in patches if len(patch) == 3]
    assert (backend.name, backend.precision) == ("openvino-cpu", "float32")
    expected = TorchBackend(bundle).analyze(patches)
    for latents, reference in zip(backend.analyze(patches), expected, strict=True):
        assert latents.shape == reference.shape
        assert np.allclose(latents, reference, rtol=1e-4, atol=1e-4)


def shortcut_of(patch: NDArray[Any]) -> NDArray[Any]:
    """Latents of a patch without the branch."""
    latents: NDArray[Any] = Wavelet.forward(torch.from_numpy(patch[None]))[0].numpy()
    return latents


def test_int8_is_close() -> None:
    """With ranges the branch runs in int8: within a tenth of float32, and not the same."""
    bundle = calibrated(branch_bundle())
    backend = OpenvinoBackend(bundle, threads=1)
    assert backend.precision == "int8"
    exact = TorchBackend(bundle).analyze(PATCHES[:1])[0]
    error = backend.analyze(PATCHES[:1])[0] - exact
    branch = exact - shortcut_of(PATCHES[0])
    assert 0 < np.square(error).mean() < 0.01 * np.square(branch).mean()


def test_a_batch_is_its_patches() -> None:
    """Many patches at once give what each gives alone, bit for bit, in int8 and threads too."""
    bundle = calibrated(branch_bundle())
    backend = OpenvinoBackend(bundle, threads=1)
    together = OpenvinoBackend(bundle, threads=1, streams=3).analyze(PATCHES)
    for latents, patch in zip(together, PATCHES, strict=True):
        assert np.array_equal(latents, backend.analyze([patch])[0])


def test_symbols_decode_whatever_ran_the_network() -> None:
    """A tile encoded by either backend decodes on the ground, to about the same samples."""
    bundle, tile = calibrated(branch_bundle()), cubes.tile(rows=40, cols=24)
    decoder = Decoder(bundle)
    decoded = [
        decoder.decode(Encoder(bundle, backend=name, threads=1).encode(tile)).samples
        for name in ("openvino", "torch-cpu")
    ]
    difference = decoded[0].astype(np.float64) - decoded[1]
    assert np.sqrt(np.square(difference).mean()) < 0.5 * bundle.default_step


def test_an_untrained_branch_stands_in_int8() -> None:
    """A layer of zeros has no range of its own; it stays zero instead of dividing by it."""
    bundle = calibrated(klt_bundle())
    latents = OpenvinoBackend(bundle, threads=1).analyze(PATCHES[:1])[0]
    assert np.allclose(latents, shortcut_of(PATCHES[0]), atol=1e-3)


def test_auto_takes_int8_where_there_are_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without CUDA "auto" is OpenVINO for a calibrated bundle, PyTorch otherwise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_backend(branch_bundle(calibrated=True), "auto", 1).name == "openvino-cpu"
    assert make_backend(branch_bundle(), "auto", 1).name == "torch-cpu"
