"""Rules of `codec.backends.torch_backend`: latents depend on their patch, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle
from fakes.bundles import branch_bundle, minmax_bundle

RNG = np.random.default_rng(0)
PATCHES = [
    (RNG.normal(size=shape) * 50).astype(np.float32)
    for shape in ((3, 16, 24), (3, 8, 8), (3, 16, 24), (0, 8, 16), (6, 8, 8))
]


def test_a_batch_is_its_patches() -> None:
    """Many patches of any shapes at once give what each gives alone, bit for bit."""
    backend = TorchBackend(branch_bundle())
    together = backend.analyze(PATCHES)
    assert [latents.shape for latents in together] == [
        *((192, 2, 3), (192, 1, 1), (192, 2, 3), (0, 1, 2), (384, 1, 1)),
    ]
    for latents, patch in zip(together, PATCHES, strict=True):
        assert np.array_equal(latents, backend.analyze([patch])[0])


def test_results_are_kept_apart() -> None:
    """A later call does not overwrite the latents of an earlier one."""
    backend = TorchBackend(branch_bundle())
    first = backend.analyze(PATCHES[:1])[0]
    before = first.copy()
    backend.analyze(PATCHES[2:3])
    assert np.array_equal(first, before)


@pytest.mark.parametrize("bundle", [branch_bundle(), minmax_bundle(3)], ids=["klt", "minmax"])
def test_it_runs_the_bundles_network(bundle: Bundle) -> None:
    """Latents are the analysis network's, in float32."""
    backend = TorchBackend(bundle)
    with torch.inference_mode():
        expected = bundle.analysis()(torch.from_numpy(PATCHES[0][None]))[0].numpy()
    latents = backend.analyze(PATCHES[:1])[0]
    assert latents.dtype == np.float32
    assert np.allclose(latents, expected, rtol=1e-5, atol=1e-4)
    assert (backend.name, backend.precision) == ("torch-cpu", "float32")


def test_nothing_is_nothing() -> None:
    """An empty batch has no latents."""
    assert TorchBackend(branch_bundle()).analyze([]) == []
