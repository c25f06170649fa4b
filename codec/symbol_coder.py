"""A patch's symbols ↔ the payload of its frame.

    length of the scales, in words u16 │ scales of the groups │ symbols

Beside the wavelet symbols are coded under contexts, see `codec.context_coder`; under any other
transform each under the table of its group's scale. What is coded quickly is another payload, see
`codec.quick_coder`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.context_coder import ContextCoder
from codec.contexts import MAX_SCALE, ScaleModel, scale_index
from codec.errors import PayloadError
from codec.patch_grid import LATENT_PX
from codec.quick_coder import QuickCoder
from codec.range_coder import WORD, SymbolReader, SymbolWriter
from codec.row_coder import pack_rows, unpack_rows
from codec.shortcut import CHANNELS
from codec.subbands import SUBBANDS, to_images, to_symbols
from codec.tables import FrequencyTables

Symbols = NDArray[np.int32]

_LENGTH_BYTES = 2


class SymbolCoder:
    """Codes patches under one bundle's tables and contexts.

    Args:
        tables: One per scale.
        scales: Knows the groups.
        contexts: None where channels are no wavelet subbands.
    """

    def __init__(
        self, tables: FrequencyTables, scales: ScaleModel, contexts: ContextCoder | None
    ) -> None:
        self._tables, self._scales, self._contexts = tables, scales, contexts
        if contexts is not None:
            self._quick = QuickCoder(tables, scales)
            contexts.warm_up()  # here, and not under the first patch
            self._quick.warm_up()

    @property
    def tables(self) -> list[NDArray[Any]]:
        """All that coding goes by, as it is in memory."""
        tables: list[NDArray[Any]] = [self._tables.counts, self._scales.groups]
        if self._contexts is not None:
            tables += [self._contexts.states, self._contexts.weights, *self._quick.tables]
        return tables

    def encode(
        self, symbols: Symbols, rows: int, cols: int, errors: Symbols | None = None
    ) -> bytes:
        """Code a patch.

        Args:
            symbols: Shape (channels, ⌈rows/8⌉, ⌈cols/8⌉).
            rows: Rows of the patch [px]; there are no coefficients beyond them.
            cols: Columns of the patch [px].
            errors: What the latents exceed their symbols by [1/256 step], same shape: where it pays
                small symbols are then rounded anew, see `codec.context_mixing`.

        Returns:
            Nothing if every symbol is zero.
        """
        if not symbols.any():
            return b""
        scales = self._scales.scales(symbols)
        packed = pack_rows(_as_rows(scales), self._tables)
        if self._contexts is not None:
            left = None if errors is None else to_images(errors, rows, cols)
            images = to_images(symbols, rows, cols)
            coded = self._contexts.encode(images, self.by_band(scales), left)
        else:
            writer = SymbolWriter(self._tables)
            writer.write(symbols.reshape(len(symbols), -1), self._indices(scales))
            coded = writer.finish()
        return (len(packed) // WORD.itemsize).to_bytes(_LENGTH_BYTES) + packed + coded

    def encode_quickly(
        self, latents: NDArray[np.float32], rows: int, cols: int, step: float
    ) -> bytes:
        """Round and code a patch of wavelet latents.

        Args:
            latents: Shape (channels, ⌈rows/8⌉, ⌈cols/8⌉).
            rows: Rows of the patch [px].
            cols: Columns of the patch [px].
            step: Quantizer step, in units of the latents.

        Returns:
            Nothing if every symbol is zero.
        """
        components = latents.reshape(-1, CHANNELS, *latents.shape[1:])
        return self._quick.encode(components, rows, cols, step)

    def decode_quickly(self, payload: bytes, channels: int, rows: int, cols: int) -> Symbols:
        """Inverse of `encode_quickly`.

        Raises:
            PayloadError: If the bytes do not decode.
        """
        if self._contexts is None:
            raise PayloadError("symbols are coded quickly, but the model has no wavelet")
        symbols = self._quick.decode(payload, channels // CHANNELS, rows, cols)
        return symbols.reshape(channels, *symbols.shape[2:])

    def decode(self, payload: bytes, channels: int, rows: int, cols: int) -> Symbols:
        """Inverse of `encode`.

        Raises:
            PayloadError: If the bytes do not decode.
        """
        latent = -(-rows // LATENT_PX), -(-cols // LATENT_PX)
        if not payload:
            return np.zeros((channels, *latent), dtype=np.int32)
        if not channels:
            raise PayloadError("symbols of a tile without components")
        start = _LENGTH_BYTES + WORD.itemsize * int.from_bytes(payload[:_LENGTH_BYTES])
        if start > len(payload):
            raise PayloadError(f"scales of {start} bytes in a payload of {len(payload)}")
        shape = channels // self._scales.groups.size, self._scales.count
        rows_of = unpack_rows(payload[_LENGTH_BYTES:start], *_rows_shape(shape), self._tables)
        scales = rows_of.T if shape[0] > 1 else rows_of
        if scales.min() < 0 or scales.max() > MAX_SCALE:
            raise PayloadError(f"the scale of a group is out of range: {np.abs(scales).max()}")
        if self._contexts is not None:
            shapes = [band.shape(rows, cols) for band in SUBBANDS]
            images = self._contexts.decode(payload[start:], shapes, self.by_band(scales))
            return to_symbols(images, rows, cols)
        reader = SymbolReader(payload[start:], self._tables)
        symbols = reader.read(self._indices(scales), latent[0] * latent[1])
        reader.finish()
        return symbols.reshape(-1, *latent)

    def by_band(self, scales: NDArray[np.int32]) -> NDArray[np.int32]:
        """Scale of each subband of each component, shape (components, subbands)."""
        bands = self._scales.groups[[band.first for band in SUBBANDS]]
        return np.ascontiguousarray(scales[:, bands])

    def _indices(self, scales: NDArray[np.int32]) -> NDArray[np.int32]:
        """Scale index of every channel's symbols."""
        return scale_index(scales)[:, self._scales.groups].ravel()


def _rows_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """A row for each group, along the components; for all groups of the only one."""
    return shape[::-1] if shape[0] > 1 else shape


def _as_rows(scales: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.ascontiguousarray(scales.T) if len(scales) > 1 else scales
