"""Fake bundles: tiny networks, seeded, so that a test of the whole path takes milliseconds."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.bundle import Bundle, make_bundle, untrained_bundle
from codec.conditioning import ConditionerSpec
from codec.context_coder import CONTEXT_TENSORS
from codec.network import SscnetSpec
from codec.tables import ALPHABET_LIMIT, ENTRIES, PRECISION_BITS, TABLE_COUNT, FrequencyTables

WIDTHS = (6, 5, 4, 7)


def shortcut_spec(shortcut: str = "wavelet", components: int = 2, **fields: Any) -> SscnetSpec:
    """A branch over `components` beside a shortcut."""
    given: dict[str, Any] = {
        "components": components,
        "latent_channels": 64 * components,
        "encoder_widths": WIDTHS,
        "decoder_widths": WIDTHS,
        "shortcut": shortcut,
        "output": "linear",
        "squash": 8.0,
    }
    return SscnetSpec(**(given | fields))


@functools.cache
def klt_bundle(shortcut: str = "wavelet", *, step: float = 32.0, components: int = 6) -> Bundle:
    """The linear codec: an untrained branch over two of up to `components` components."""
    return untrained_bundle(
        shortcut_spec(shortcut),
        ConditionerSpec(kind="klt", components=components),
        default_step=step,
    )


@functools.cache
def minmax_bundle(bands: int = 5, *, clip: bool = False) -> Bundle:
    """The paper's codec over `bands` bands, untrained."""
    return untrained_bundle(
        SscnetSpec(
            components=bands, latent_channels=20, encoder_widths=WIDTHS, decoder_widths=WIDTHS
        ),
        ConditionerSpec(kind="minmax", components=bands, clip=clip),
        default_step=0.01,
    )


@functools.cache
def branch_bundle(*, seed: int = 0, calibrated: bool = False) -> Bundle:
    """A codec whose branch does something: random weights in its last layers too.

    With `calibrated` the bundle has int8 ranges that hold any input, squashed to ±8.
    """
    rng = np.random.default_rng(seed)
    bundle = klt_bundle()
    tensors = {
        name: array
        if array.any() or not name.endswith("weight")
        else rng.normal(0, 0.05, array.shape).astype(np.float32)
        for name, array in bundle.tensors.items()
    }
    if calibrated:
        tensors["analysis_ranges"] = np.array([8, 4, 2, 1, 1], dtype=np.float32)
    return make_bundle(
        bundle.network, bundle.conditioner, default_step=bundle.default_step, tensors=tensors
    )


def flat_tables() -> FrequencyTables:
    """Tables under which all symbols are equally likely."""
    return FrequencyTables(
        np.full((TABLE_COUNT, ENTRIES), (1 << PRECISION_BITS) // ENTRIES, dtype=np.uint32)
    )


def integer_tables() -> FrequencyTables:
    """Tables of no float's making: halves at every few magnitudes, wider from table to table."""
    magnitude = np.abs(np.arange(-ALPHABET_LIMIT, ALPHABET_LIMIT + 2))
    widths = 1 + np.arange(TABLE_COUNT)[:, None] // 3
    weights = (1 << 12) >> np.minimum(12, magnitude // widths)
    whole = 1 << PRECISION_BITS
    counts = 1 + weights * (whole - ENTRIES) // weights.sum(axis=1, keepdims=True)
    counts[:, ALPHABET_LIMIT] += whole - counts.sum(axis=1)
    return FrequencyTables(counts.astype(np.uint32))


def context_tensors() -> dict[str, NDArray[Any]]:
    """Contexts of any chance, some trusted, some not, and weights of both signs, by formula."""
    states, weights = (
        np.arange(np.prod(shape)).reshape(shape) for _, shape in CONTEXT_TENSORS.values()
    )
    return {
        "states": (states * 7919 % (1 << 21) << 10 | states * 31 % 200).astype(np.int32),
        "weights": (weights * 37 % 61 * 1000 - 8000).astype(np.int32),
    }


@functools.cache
def frozen_bundle() -> Bundle:
    """A codec of integers only: no weight, contexts and tables by formula. Its name is frozen."""
    bundle = klt_bundle()
    weights = {
        name: np.zeros_like(array)
        for name, array in bundle.tensors.items()
        if name.startswith(("analysis.", "synthesis."))
    }
    contexts = {f"contexts.{name}": array for name, array in context_tensors().items()}
    return make_bundle(
        bundle.network,
        bundle.conditioner,
        default_step=64.0,
        tensors={**weights, **contexts, "tables.counts": integer_tables().counts},
    )
