"""What the codec really codes: patches as the real encoder leaves them for the range coder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.encoder import AnalysisBackend, Encoder
from codec.symbol_coder import SymbolCoder, Symbols
from training.scenes import Scene


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedPatch:
    """One patch on its way into the range coder.

    Attributes:
        components: What the network sees, shape (components, rows, cols).
        symbols: Shape (64 · components, rows/8, cols/8).
        errors: What latents exceed them by [1/256 step], same shape; None of a network alone.
        rows: Rows of the patch [px].
        cols: Columns of the patch [px].
    """

    components: NDArray[np.float32]
    symbols: NDArray[np.int32]
    errors: NDArray[np.int32] | None
    rows: int
    cols: int


class _WatchedBackend:
    """Keeps what goes in."""

    device = None

    def __init__(self, backend: AnalysisBackend) -> None:
        self.name, self.precision, self._backend = backend.name, backend.precision, backend
        self.weights = backend.weights
        self.seen: list[NDArray[np.float32]] = []

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.seen += patches
        return self._backend.analyze(patches)


class _WatchedCoder(SymbolCoder):
    """Keeps what goes in, and codes nothing."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.tables, bundle.scales, bundle.contexts)
        self.seen: list[tuple[Symbols, int, int, Symbols | None]] = []

    def encode(
        self, symbols: Symbols, rows: int, cols: int, errors: Symbols | None = None
    ) -> bytes:
        self.seen.append((symbols, rows, cols, errors))
        return b""


def coded_patches(
    bundle: Bundle, scenes: Iterable[Scene], octaves: Sequence[float]
) -> Iterator[CodedPatch]:
    """Encode scenes at some steps with the real encoder; patches without a symbol are none."""
    for octave in octaves:
        encoder = Encoder(bundle, step=bundle.default_step * 2.0**octave, backend="torch-cpu")
        encoder.backend = backend = _WatchedBackend(encoder.backend)
        encoder.coder = coder = _WatchedCoder(bundle)
        for scene in scenes:
            encoder.encode(scene.tile)
        for components, (symbols, rows, cols, errors) in zip(backend.seen, coder.seen, strict=True):
            if symbols.any():
                yield CodedPatch(
                    components=components, symbols=symbols, errors=errors, rows=rows, cols=cols
                )
