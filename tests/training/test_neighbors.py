"""Contexts are trained to tell what neighbors tell, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.neighborhood import NeighborModel
from codec.subbands import to_images, to_symbols
from codec.symbol_coder import SymbolCoder
from fakes.bundles import klt_bundle
from training.coded import CodedPatch
from training.config import NeighborSettings
from training.neighbors import fit_neighbors

SETTINGS = NeighborSettings(batches=200, batch_symbols=1024, patch_symbols=20_000)
BUNDLE = klt_bundle()


def made_patch(seed: int, *, spots: bool) -> CodedPatch:
    """Draw two components: alike everywhere, or loud in one corner of every subband."""
    rng = np.random.default_rng(seed)
    images = to_images(np.ones((128, 12, 12), dtype=np.int32), 96, 96)
    drawn: list[NDArray[np.int32]] = []
    for image in images:
        row, col = np.indices(image.shape[1:]) / np.array(image.shape[1:])[:, None, None]
        loud = np.where((row < 0.4) & (col < 0.5), 12.0, 0.2) if spots else 2.0
        drawn.append(np.rint(rng.laplace(size=image.shape) * loud).astype(np.int32))
    symbols = to_symbols(drawn, 96, 96)
    components = np.zeros((2, 96, 96), dtype=np.float32)
    return CodedPatch(components=components, symbols=symbols, rows=96, cols=96)


def size(patch: CodedPatch, neighbors: NeighborModel | None) -> int:
    """Bytes of a patch under some contexts."""
    coder = SymbolCoder(BUNDLE.tables, BUNDLE.scales, neighbors)
    return len(coder.encode(patch.symbols, patch.rows, patch.cols))


@pytest.fixture(scope="module")
def trained() -> NeighborModel:
    """Return contexts trained on spots."""
    return fit_neighbors(BUNDLE.scales, [made_patch(s, spots=True) for s in range(3)], SETTINGS)


def test_neighbors_tell_where_it_is_loud(trained: NeighborModel) -> None:
    """A patch of the same kind, not trained on, takes a fifth fewer bytes than by group alone."""
    patch = made_patch(9, spots=True)
    assert size(patch, trained) < 0.8 * size(patch, BUNDLE.neighbors)


def test_where_nothing_is_told_little_is_lost() -> None:
    """Symbols without neighborly ties cost what they cost by group, within two percent."""
    patches = [made_patch(s, spots=False) for s in range(3)]
    model = fit_neighbors(BUNDLE.scales, patches, SETTINGS)
    patch = made_patch(9, spots=False)
    assert size(patch, model) < 1.02 * size(patch, BUNDLE.neighbors)


def test_a_seed_decides(trained: NeighborModel) -> None:
    """The same patches and settings give the same integers."""
    again = fit_neighbors(BUNDLE.scales, [made_patch(s, spots=True) for s in range(3)], SETTINGS)
    for name in ("weights", "biases", "shifts"):
        assert np.array_equal(getattr(again, name), getattr(trained, name))
