"""Wavelet latents ↔ bytes, quickly, for boards without time for `codec.context_coder`.

What it costs stands in `codec.speeds`. `codec.quick_coding` says how, and is what runs. Nothing is
trained; the tables are those that network latents are coded under.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX, ScaleModel
from codec.errors import PayloadError
from codec.patch_grid import LATENT_PX
from codec.quantize import best_rounding
from codec.quick_coding import DAMAGED, LOOKAHEAD, SHORT, code_quickly, mean_magnitudes
from codec.range_coder import TABLE
from codec.shortcut import CHANNELS
from codec.subbands import SUBBANDS
from codec.tables import FrequencyTables, scale_of

_ROUNDING: Final = np.append(
    np.float32(0),
    best_rounding(np.array([scale_of(index) for index in range(1, MAX_INDEX + 1)])),
)


class QuickCoder:
    """Codes patches under one bundle's tables.

    Args:
        tables: One per scale.
        scales: Knows the groups.
    """

    def __init__(self, tables: FrequencyTables, scales: ScaleModel) -> None:
        self._scales = scales
        self._groups = scales.groups[[band.first for band in SUBBANDS]].astype(np.int64)
        ends = np.cumsum(tables.counts, axis=1, dtype=np.int64)
        starts = np.pad(ends, ((0, 0), (1, 0))).astype(np.int32)
        self._starts = np.ascontiguousarray(starts[TABLE]).ravel()

    @property
    def tables(self) -> list[NDArray[Any]]:
        """All that coding goes by, as it is in memory."""
        return [self._groups, self._starts]

    def warm_up(self) -> None:
        """Compile now, or load what was compiled before: seconds, once."""
        self.decode(self.encode(np.ones((1, CHANNELS, 1, 1), np.float32), 8, 8, 1.0), 1, 8, 8)

    def encode(self, latents: NDArray[np.float32], rows: int, cols: int, step: float) -> bytes:
        """Round and code a patch.

        Args:
            latents: Shape (components, 64, ⌈rows/8⌉, ⌈cols/8⌉).
            rows: Rows of the patch [px].
            cols: Columns of the patch [px].
            step: Quantizer step, in units of the latents.

        Returns:
            Nothing if every symbol is zero.
        """
        if not latents.size:  # of a tile without components
            return b""
        scale = np.float32(1 / step)
        means = mean_magnitudes(latents.reshape(len(latents) * CHANNELS, -1), scale)
        if not means.any():
            return b""
        scales, room = self._scales.scales_of(self._scales.group_means(means)), latents.size // 2
        symbols = np.zeros((len(latents), CHANNELS, 0, 0), np.int32)
        while True:
            coded = np.empty(room + 64, np.uint8)
            used = self._code(False, latents, scale, symbols, rows, cols, scales, coded)
            if used != SHORT:
                return bytes(coded[:used].tobytes())
            room *= 4

    def decode(self, raw: bytes, components: int, rows: int, cols: int) -> NDArray[np.int32]:
        """Return the symbols, shape (components, 64, ⌈rows/8⌉, ⌈cols/8⌉).

        Raises:
            PayloadError: If bytes are missing or left over, or a symbol is out of range.
        """
        latents = np.zeros((components, CHANNELS, 0, 0), np.float32)
        shape = -(-rows // LATENT_PX), -(-cols // LATENT_PX)
        symbols = np.zeros((components, CHANNELS, *shape), np.int32)
        scales = np.zeros((components, self._scales.count), np.int32)
        if not raw:
            return symbols
        if not components:
            raise PayloadError("symbols of a tile without components")
        coded = np.frombuffer(raw, np.uint8).copy()
        used = self._code(True, latents, np.float32(1), symbols, rows, cols, scales, coded)
        if used == DAMAGED:
            raise PayloadError("a symbol is out of range")
        if used != len(raw) + LOOKAHEAD:
            raise PayloadError(f"{len(raw)} bytes, symbols take {used - LOOKAHEAD}")
        return symbols

    def _code(
        self,
        decoding: bool,
        latents: NDArray[np.float32],
        scale: np.float32,
        symbols: NDArray[np.int32],
        rows: int,
        cols: int,
        scales: NDArray[np.int32],
        coded: NDArray[np.uint8],
    ) -> int:
        corners = [[part.start or 0 for part in band.region(rows, cols)] for band in SUBBANDS]
        sizes = [band.shape(rows, cols) for band in SUBBANDS]
        shapes = np.concatenate((sizes, corners), axis=1).astype(np.int64)
        return code_quickly(
            *(decoding, latents, scale, symbols, shapes, scales, self._groups),
            *(self._starts, _ROUNDING, coded),
        )
