"""Wavelet symbols ↔ bytes under contexts that training started and each patch goes on to adapt.

A patch starts from the states and weights in the bundle and forgets what it learned, so any frame
decodes alone, and what symbols decode to depends on no other frame. `codec.context_mixing` says
what the contexts are, and is what runs.

Source: binary contexts with trained starts, Marpe, Schwarz & Wiegand, IEEE TCSVT 13(7), 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.context_mixing import (
    BANDS,
    CONTEXTS,
    COUNT_MASK,
    DAMAGED,
    SHORT,
    SLOTS,
    STATE_COUNT,
    code_subbands,
)
from codec.errors import BundleError, PayloadError

TRUST: Final = 127
"""Decisions after which a chance moves no slower. 255 cost 0.1 % more bytes, 1023 0.3 %."""

Images = Sequence[NDArray[np.int32]]
"""One per subband, shape (components, h, w)."""
Errors = Images
_NO_ERRORS: Final = np.zeros(0, np.int16)

CONTEXT_TENSORS: Final = {
    "states": ("int32", (STATE_COUNT,)),
    "weights": ("int32", (BANDS * (SLOTS + 1), CONTEXTS + 1)),
}
"""Type and shape of each tensor "contexts.…" of a bundle."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextCoder:
    """Codes patches from one start.

    Attributes:
        states: Of the contexts, shape (STATE_COUNT,), int32, not negative.
        weights: Of the mix [2⁻¹⁶], shape (BANDS · SLOTS, CONTEXTS + 1), int32; the last is a bias.

    Raises:
        BundleError: If a type or shape does not fit.
    """

    states: NDArray[np.int32]
    weights: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, (dtype, shape) in CONTEXT_TENSORS.items():
            array = getattr(self, name)
            if array.dtype.name != dtype or array.shape != shape:
                raise BundleError(f"contexts.{name} is {array.dtype} {array.shape}")
        if self.states.min() < 0:
            raise BundleError("contexts.states must not be negative")

    def warm_up(self) -> None:
        """Compile now, or load what was compiled before: seconds, once."""
        nothing = np.zeros((0, 1, 1), np.int32)
        self.encode([nothing] * BANDS, np.zeros((0, BANDS), np.int32))

    def encode(
        self, images: Images, scales: NDArray[np.int32], errors: Errors | None = None
    ) -> bytes:
        """Code a patch.

        Args:
            images: Magnitudes up to `SYMBOL_LIMIT`.
            scales: Of the groups, shape (components, subbands); where one is 0 all symbols are.
            errors: What latents exceed their symbols by [1/256 step], like `images`: magnitudes up
                to 2 are then rounded anew, to what is best in rate and distortion.
        """
        symbols, shapes = _flat(images)
        left = _flat_errors(errors)
        room = 2 * symbols.size + 64
        while True:
            coded = np.empty(room, np.uint8)
            start = self.states.copy(), self.weights.copy()
            used = code_subbands(False, symbols, left, shapes, scales, *start, coded, TRUST)
            if used != SHORT:
                return bytes(coded[:used].tobytes())
            room *= 4

    def decode(
        self, raw: bytes, shapes: Sequence[tuple[int, int]], scales: NDArray[np.int32]
    ) -> list[NDArray[np.int32]]:
        """Inverse of `encode`.

        Args:
            raw: What it returned.
            shapes: Height and width of each subband.
            scales: As of `encode`.

        Raises:
            PayloadError: If bytes are missing or left over, or a symbol is out of range.
        """
        images = [np.zeros((len(scales), *shape), dtype=np.int32) for shape in shapes]
        symbols, sizes = _flat(images)
        coded = np.frombuffer(raw, np.uint8).copy()
        start = self.states.copy(), self.weights.copy()
        used = code_subbands(True, symbols, _NO_ERRORS, sizes, scales, *start, coded, TRUST)
        if used == DAMAGED:
            raise PayloadError("a symbol is out of range")
        if used < len(raw):
            raise PayloadError("bytes are left over after the last symbol")
        if used > len(raw) + 4:
            raise PayloadError(f"{len(raw)} bytes end before the last symbol")
        parts = np.split(symbols, np.cumsum([image.size for image in images])[:-1])
        return [part.reshape(image.shape) for part, image in zip(parts, images, strict=True)]

    def learn(
        self, images: Images, scales: NDArray[np.int32], errors: Errors | None, trust: int
    ) -> None:
        """Code a patch and keep what is learned, in the arrays given; for training only.

        Args:
            images: As of `encode`.
            scales: As of `encode`.
            errors: As of `encode`.
            trust: In place of `TRUST`.
        """
        symbols, shapes = _flat(images)
        left = _flat_errors(errors)
        start, nowhere = (self.states, self.weights), np.empty(0, np.uint8)
        code_subbands(False, symbols, left, shapes, scales, *start, nowhere, trust)


def untrained_contexts() -> dict[str, NDArray[Any]]:
    """Tensors that know nothing: even chances never tried, equal weights."""
    weights = np.full((BANDS * (SLOTS + 1), CONTEXTS + 1), 65536 * 3 // 10, dtype=np.int32)
    weights[:, CONTEXTS] = 0
    return {"states": np.full(STATE_COUNT, 1 << 30, dtype=np.int32), "weights": weights}


def forget(states: NDArray[np.int32], kept: int) -> None:
    """Let each state count as if it had seen so many decisions at most, in place."""
    states -= np.maximum((states & COUNT_MASK) - kept, 0)


def _flat_errors(errors: Errors | None) -> NDArray[np.int16]:
    """Errors one after another, as the compiled part takes them; without any, an empty array."""
    return _NO_ERRORS if errors is None else _flat(errors)[0].astype(np.int16)


def _flat(images: Images) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Subbands one after another, and the shapes they have."""
    symbols = np.concatenate([image.ravel() for image in images])
    return symbols, np.array([image.shape for image in images], dtype=np.int64)
