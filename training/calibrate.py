"""Calibration: scales, tables and int8 ranges, measured on what the codec really codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.contexts import LEVELS_PER_OCTAVE, ScaleModel
from codec.encoder import AnalysisBackend, Encoder
from codec.network import branch_input
from codec.quantize import quantize
from codec.tables import (
    ALPHABET_LIMIT,
    ENTRIES,
    PRECISION_BITS,
    SMALLEST_OCTAVE,
    TABLE_COUNT,
    TABLES_PER_OCTAVE,
    laplace_tables,
    normalize,
)
from training.bundles import changed
from training.config import CalibrateSettings
from training.scenes import Scene

_FIRST_TABLE_EIGHTHS: Final = LEVELS_PER_OCTAVE // TABLES_PER_OCTAVE - SMALLEST_OCTAVE * (
    LEVELS_PER_OCTAVE
)
"""What `ScaleModel.predict` has to reach for mean magnitude 1 [1/8 octave]: tables count from 1 at
the smallest octave."""

_ROUND_UP_EIGHTHS: Final = 0.5
"""`predict` floors to quarter octaves: half an eighth more makes it round without a bias."""

_SILENT_EIGHTHS: Final = -(LEVELS_PER_OCTAVE * 24)
"""Prediction for a group that is zero in most patches: below every table, whatever the level."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedPatch:
    """One patch on its way into the range coder.

    Attributes:
        components: What the network sees, shape (components, rows, cols).
        levels: Level of each component [1/8 octave], shape (components,).
        symbols: Shape (64 · components, positions).
    """

    components: NDArray[np.float32]
    levels: NDArray[np.int32]
    symbols: NDArray[np.int32]


class _Recorder:
    """Runs a backend and keeps what went in and what came out."""

    def __init__(self, backend: AnalysisBackend) -> None:
        self.name, self.precision, self._backend = backend.name, backend.precision, backend
        self.seen: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the network, see `AnalysisBackend`."""
        latents = self._backend.analyze(patches)
        self.seen += zip(patches, latents, strict=True)
        return latents


def coded_patches(
    bundle: Bundle, scenes: Iterable[Scene], octaves: Sequence[float]
) -> Iterator[CodedPatch]:
    """Encode scenes at some steps with the real encoder; patches without a component are none."""
    for octave in octaves:
        encoder = Encoder(bundle, step=bundle.default_step * 2.0**octave, backend="torch-cpu")
        plain = encoder.backend
        for scene in scenes:
            encoder.backend = recorder = _Recorder(plain)
            jobs = encoder.open(scene.tile).patches
            encoder.encode_batch(jobs)
            for job, (components, latents) in zip(jobs, recorder.seen, strict=True):
                if not len(latents):
                    continue
                symbols = quantize(latents, job.conditioning.latent_step)
                yield CodedPatch(
                    components=components,
                    levels=job.conditioning.levels,
                    symbols=symbols.reshape(len(latents), -1),
                )


def calibrate(bundle: Bundle, scenes: Sequence[Scene], settings: CalibrateSettings) -> Bundle:
    """Measure scales, tables and ranges on training scenes.

    Args:
        bundle: The trained model.
        scenes: Training scenes.
        settings: How.

    Returns:
        A new model with the same networks.
    """
    patches = list(coded_patches(bundle, scenes, settings.octaves))
    offsets = measure_offsets(bundle, patches)
    scales = ScaleModel(offsets=offsets, groups=bundle.scales.groups)
    return changed(
        bundle,
        tensors={
            "scales.offsets": offsets,
            "tables.counts": measure_tables(
                scales,
                patches,
                law_share=settings.law_share,
                prior_symbols=settings.prior_symbols,
            ),
            "analysis_ranges": measure_ranges(bundle, patches, settings.range_quantile),
        },
    )


def measure_offsets(bundle: Bundle, patches: Iterable[CodedPatch]) -> NDArray[np.int16]:
    """Measure how large each group's symbols are beside its component's level.

    A group's offset is the median over patches, in which patches that are all zero count as
    smaller than any other. All channels of a group share it: they are the phases of one subband.

    Returns:
        Shape (components sent · channels per component,), as `ScaleModel.offsets`.
    """
    groups = bundle.scales.groups
    rows, count = bundle.conditioner.components, int(groups.max()) + 1
    found: list[list[NDArray[np.float64]]] = [[] for _ in range(rows)]
    for patch in patches:
        magnitude = np.abs(patch.symbols).mean(axis=1).reshape(len(patch.levels), -1)
        for row, (level, channels) in enumerate(zip(patch.levels, magnitude, strict=True)):
            means = np.bincount(groups, channels, count) / np.bincount(groups, minlength=count)
            with np.errstate(divide="ignore"):
                eighths = np.log2(means) * LEVELS_PER_OCTAVE
            found[row].append(eighths - level + _FIRST_TABLE_EIGHTHS)
    offsets = np.full((rows, count), np.nan)
    for row, values in enumerate(found):
        if values:
            offsets[row] = np.median(np.stack(values), axis=0, overwrite_input=False)
        else:  # no scene has so many components: as the one before
            offsets[row] = offsets[row - 1] if row else _SILENT_EIGHTHS
    limited = np.maximum(np.rint(offsets + _ROUND_UP_EIGHTHS), _SILENT_EIGHTHS)
    return np.ascontiguousarray(limited[:, groups].ravel(), dtype=np.int16)


def measure_tables(
    scales: ScaleModel,
    patches: Iterable[CodedPatch],
    *,
    law_share: float,
    prior_symbols: float,
) -> NDArray[np.uint32]:
    """Count the symbols each table codes, mixed with the analytic law.

    Args:
        scales: Chooses the tables.
        patches: What is coded.
        law_share: Least share of the analytic law.
        prior_symbols: Its weight beyond that, in symbols.

    Returns:
        Shape (TABLE_COUNT, ENTRIES), as `FrequencyTables.counts`; even in the symbol.
    """
    counts = np.zeros((TABLE_COUNT + 1, ENTRIES))
    for patch in patches:
        predicted = scales.predict(patch.levels, 0)
        deltas = scales.deltas(patch.symbols, predicted, patch.levels.size)
        index = scales.indices(deltas, predicted, patch.levels.size)
        for table in np.unique(index[(index > 0) & (index <= TABLE_COUNT)]):
            symbols = patch.symbols[index == table].ravel()
            entries = np.where(
                np.abs(symbols) > ALPHABET_LIMIT, ENTRIES - 1, symbols + ALPHABET_LIMIT
            )
            counts[table] += np.bincount(entries, minlength=ENTRIES)
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
            branch(branch_input(components, spec.components, spec.squash))
    for hook in hooks:
        hook.remove()
    return ranges
