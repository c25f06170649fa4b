"""Training of the contexts: the coder codes the training scenes and keeps what it learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.context_coder import ContextCoder, forget, untrained_contexts
from codec.contexts import ScaleModel
from codec.subbands import SUBBANDS, to_images
from training.coded import CodedPatch
from training.config import ContextSettings


def trained_contexts(
    scales: ScaleModel, patches: Sequence[CodedPatch], settings: ContextSettings
) -> dict[str, NDArray[Any]]:
    """Code patches in an order drawn at random, one after another.

    Returns:
        Tensors of a bundle.
    """
    tensors = untrained_contexts()
    coder, bands = ContextCoder(**tensors), scales.groups[[band.first for band in SUBBANDS]]
    for number in np.random.default_rng(settings.seed).permutation(len(patches)):
        patch = patches[number]
        found = np.ascontiguousarray(scales.scales(patch.symbols)[:, bands])
        size = patch.rows, patch.cols
        errors = None if patch.errors is None else to_images(patch.errors, *size)
        coder.learn(to_images(patch.symbols, *size), found, errors, settings.trust)
    forget(tensors["states"], settings.kept)
    return {f"contexts.{name}": array for name, array in tensors.items()}
