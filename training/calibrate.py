"""Calibration: contexts, tables and int8 ranges, measured on what the codec really codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.contexts import ScaleModel, scale_index
from codec.network import branch_input
from codec.shortcut import mirrored
from codec.tables import (
    ALPHABET_LIMIT,
    ENTRIES,
    PRECISION_BITS,
    TABLE_COUNT,
    laplace_tables,
    normalize,
)
from training.bundles import changed
from training.coded import CodedPatch, coded_patches
from training.config import CalibrateSettings
from training.contexts import trained_contexts
from training.scenes import Scene


def calibrate(bundle: Bundle, scenes: Sequence[Scene], settings: CalibrateSettings) -> Bundle:
    """Measure contexts, tables and ranges on training scenes.

    Args:
        bundle: The trained model.
        scenes: Training scenes.
        settings: How.

    Returns:
        A new model with the same networks.
    """
    patches = list(coded_patches(bundle, scenes, settings.octaves))
    if bundle.contexts is not None:
        found = trained_contexts(bundle.scales, patches, settings.contexts)
    else:
        counts = measure_tables(
            bundle.scales,
            patches,
            law_share=settings.law_share,
            prior_symbols=settings.prior_symbols,
        )
        found = {"tables.counts": counts}
    ranges = measure_ranges(bundle, patches, settings.range_quantile)
    return changed(bundle, tensors={**found, "analysis_ranges": ranges})


def measure_tables(
    scales: ScaleModel,
    patches: Iterable[CodedPatch],
    *,
    law_share: float,
    prior_symbols: float,
) -> NDArray[np.uint32]:
    """Count the symbols each table codes, mixed with the analytic law.

    Args:
        scales: Choose the tables.
        patches: What is coded.
        law_share: Least share of the analytic law.
        prior_symbols: Its weight beyond that, in symbols.

    Returns:
        Shape (TABLE_COUNT, ENTRIES), as `FrequencyTables.counts`; even in the symbol.
    """
    counts = np.zeros((TABLE_COUNT + 1, ENTRIES))
    for patch in patches:
        index = scale_index(scales.scales(patch.symbols))[:, scales.groups].ravel()
        coded = patch.symbols.reshape(index.size, -1)
        fits = (index > 0) & (index <= TABLE_COUNT)
        entries = coded[fits] + ALPHABET_LIMIT
        entries[np.abs(coded[fits]) > ALPHABET_LIMIT] = ENTRIES - 1
        places = index[fits, None] * ENTRIES + entries
        counts += np.bincount(places.ravel(), minlength=counts.size).reshape(counts.shape)
    counts = counts[1:]
    counts[:, :-1] = (counts[:, :-1] + counts[:, -2::-1]) / 2
    law = laplace_tables().counts / 2.0**PRECISION_BITS
    prior = prior_symbols + counts.sum(axis=1, keepdims=True) * law_share / (1 - law_share)
    weights = counts + prior * law
    return np.stack([normalize(row) for row in weights])


def measure_ranges(
    bundle: Bundle, patches: Iterable[CodedPatch], quantile: float
) -> NDArray[np.float32]:
    """Measure the magnitudes at the input of each encoder convolution.

    Args:
        bundle: The model.
        patches: What it sees.
        quantile: Share of the magnitudes a range covers, per patch.

    Returns:
        Largest over the patches, one per convolution, shape (5,).
    """
    branch, spec = bundle.analysis().branch, bundle.network
    convolutions = [m for m in branch if isinstance(m, nn.Conv2d)]
    ranges = np.zeros(len(convolutions), dtype=np.float32)

    def watch(position: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            magnitude = inputs[0].abs().flatten()
            rank = max(1, round(quantile * magnitude.numel()))
            value = magnitude.kthvalue(rank).values
            ranges[position] = max(ranges[position], float(value))

        return hook

    hooks = [m.register_forward_pre_hook(watch(i)) for i, m in enumerate(convolutions)]
    with torch.inference_mode():
        for patch in patches:
            components = torch.from_numpy(patch.components)[None]
            branch(mirrored(branch_input(components, spec.components, spec.squash)))
    for hook in hooks:
        hook.remove()
    return ranges
