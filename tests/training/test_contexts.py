"""Rules of `training.contexts`: what is learned is reproducible, and pays."""

from __future__ import annotations

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.context_coder import ContextCoder
from codec.context_mixing import COUNT_MASK
from codec.symbol_coder import SymbolCoder
from fakes.bundles import klt_bundle
from training.coded import CodedPatch, coded_patches
from training.config import ContextSettings
from training.contexts import trained_contexts
from training.scenes import Split


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Return the linear codec."""
    return klt_bundle(step=16.0)


@pytest.fixture
def patches(bundle: Bundle, split: Split) -> list[CodedPatch]:
    """Return what it codes of the training scenes."""
    return list(coded_patches(bundle, split.training, (-1.0, 0.0)))


def test_the_same_seed_gives_the_same_contexts(bundle: Bundle, patches: list[CodedPatch]) -> None:
    """Training is integers in an order of the seed's: a rerun names the same model."""
    first, again, other = (
        trained_contexts(bundle.scales, patches, ContextSettings(seed=seed)) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_what_is_kept_is_bounded(bundle: Bundle, patches: list[CodedPatch]) -> None:
    """No chance counts for more decisions than the settings say."""
    tensors = trained_contexts(bundle.scales, patches, ContextSettings(kept=7))
    assert (tensors["contexts.states"] & COUNT_MASK).max() == 7


def test_training_saves_bytes(bundle: Bundle, patches: list[CodedPatch]) -> None:
    """Patches cost less under contexts that were trained on them than under untrained ones."""
    tensors = trained_contexts(bundle.scales, patches, ContextSettings())
    named = {name.removeprefix("contexts."): array for name, array in tensors.items()}
    trained = SymbolCoder(bundle.tables, bundle.scales, ContextCoder(**named))
    plain = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
    sizes = [
        sum(len(coder.encode(p.symbols, p.rows, p.cols)) for p in patches)
        for coder in (trained, plain)
    ]
    assert sizes[0] < 0.95 * sizes[1]
