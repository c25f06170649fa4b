"""A patch's symbols ↔ the payload of its frame.

First come the scales of the groups (a subband of a component), as differences from what the tile's
side information predicts, then the symbols. Beside the wavelet each symbol's table follows from its
neighbors, see `codec.neighborhood`; under any other transform it is its group's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.contexts import DELTA_TABLE, ScaleModel
from codec.errors import PayloadError
from codec.neighborhood import PASSES, NeighborModel, loudness, shifted_components
from codec.patch_grid import LATENT_PX
from codec.range_coder import SymbolReader, SymbolWriter
from codec.subbands import SUBBANDS, to_images, to_symbols
from codec.tables import FrequencyTables

Symbols = NDArray[np.int32]


class SymbolCoder:
    """Codes patches under one bundle's tables.

    Args:
        tables: One per scale.
        scales: Predicts the scale of each group.
        neighbors: Refines it to each symbol; None where channels are no wavelet subbands.
    """

    def __init__(
        self, tables: FrequencyTables, scales: ScaleModel, neighbors: NeighborModel | None
    ) -> None:
        self._tables, self._scales, self._neighbors = tables, scales, neighbors

    def encode(
        self, symbols: Symbols, levels: NDArray[np.int32], step_offset: int, rows: int, cols: int
    ) -> bytes:
        """Code a patch.

        Args:
            symbols: Shape (channels, ⌈rows/8⌉, ⌈cols/8⌉).
            levels: Level of each component [1/8 octave].
            step_offset: How much coarser the patch's step is than the tile's [1/8 octave].
            rows: Rows of the patch [px]; coefficients beyond them are not coded.
            cols: Columns of the patch [px].

        Returns:
            Nothing if every symbol is zero.
        """
        if not symbols.any():
            return b""
        deltas, written = self.choose(symbols, levels, step_offset, rows, cols)
        writer = SymbolWriter(self._tables)
        writer.write(deltas, np.full(deltas.size, DELTA_TABLE, dtype=np.int32))
        for coded, index, step in written:
            writer.write(coded, index, step)
        return writer.finish()

    def choose(
        self, symbols: Symbols, levels: NDArray[np.int32], step_offset: int, rows: int, cols: int
    ) -> tuple[Symbols, list[tuple[Symbols, NDArray[np.int32], NDArray[np.int64]]]]:
        """Choose the scale of everything; arguments as of `encode`.

        Returns:
            The deltas of the groups; then symbols, scale indices and steps in the order of coding.
        """
        flat = symbols.reshape(len(symbols), -1)
        predicted = self._scales.predict(levels, step_offset)
        deltas = self._scales.deltas(flat, predicted, levels.size)
        index = self._scales.indices(deltas, predicted, levels.size)
        if self._neighbors is None:
            each = np.repeat(index, flat.shape[1])
            return deltas, [(flat.ravel(), each, np.zeros(each.size, dtype=np.int64))]
        images = to_images(symbols, rows, cols)
        chosen = _index_images(images, self._neighbors, index.reshape(levels.size, -1))
        return deltas, [_in_order(*pair) for pair in zip(images, chosen, strict=True)]

    def decode(
        self, payload: bytes, levels: NDArray[np.int32], step_offset: int, rows: int, cols: int
    ) -> Symbols:
        """Inverse of `encode`.

        Raises:
            PayloadError: If the bytes do not decode.
        """
        latent = -(-rows // LATENT_PX), -(-cols // LATENT_PX)
        predicted = self._scales.predict(levels, step_offset)
        if not payload:
            return np.zeros((predicted.size, *latent), dtype=np.int32)
        if not levels.size:
            raise PayloadError("symbols of a tile without components")
        reader = SymbolReader(payload, self._tables)
        groups = self._scales.group_count(levels.size)
        deltas = reader.read(np.full(groups, DELTA_TABLE, dtype=np.int32))
        index = self._scales.indices(deltas, predicted, levels.size)
        if self._neighbors is None:
            positions = latent[0] * latent[1]
            symbols = reader.read(np.repeat(index, positions)).reshape(-1, *latent)
        else:
            groups_of = index.reshape(levels.size, -1)
            images = _decode_images(reader, self._neighbors, groups_of, rows, cols)
            symbols = to_symbols(images, rows, cols)
        reader.finish()
        return symbols


def _index_images(
    images: list[Symbols], model: NeighborModel, group_index: NDArray[np.int32]
) -> list[NDArray[np.int32]]:
    """Scale index of every symbol, as images like those of the symbols."""
    loud, chosen = [loudness(image) for image in images], []
    for band, heard in enumerate(loud):
        groups = group_index[:, SUBBANDS[band].first]
        within = model.within(band, loud)
        before = model.before(band, shifted_components(heard, 1), shifted_components(heard, 2))
        index = np.empty_like(heard)
        for number, (row, col) in enumerate(PASSES):
            first = within[number] + model.own(band, number, heard)
            index[:, row::2, col::2] = model.indices(band, groups, first, before[number])
        chosen.append(index)
    return chosen


def _in_order(
    image: Symbols, index: NDArray[np.int32]
) -> tuple[Symbols, NDArray[np.int32], NDArray[np.int64]]:
    """Symbols, scale indices and steps of one subband: components in turn, pass by pass."""
    count = len(image)
    symbols, indices = (
        np.concatenate([x[:, row::2, col::2].reshape(count, -1) for row, col in PASSES], axis=1)
        for x in (image, index)
    )
    sizes = [index[0, row::2, col::2].size for row, col in PASSES] if count else [0] * len(PASSES)
    steps = np.repeat(np.arange(len(PASSES)), sizes) + len(PASSES) * np.arange(count)[:, None]
    return symbols.ravel(), indices.ravel(), steps.ravel()


def _decode_images(
    reader: SymbolReader,
    model: NeighborModel,
    group_index: NDArray[np.int32],
    rows: int,
    cols: int,
) -> list[Symbols]:
    """Read every subband, in the order of `_in_order`."""
    count = len(group_index)
    images = [np.zeros((count, *b.shape(rows, cols)), dtype=np.int32) for b in SUBBANDS]
    loud = [np.zeros_like(image) for image in images]
    for band, (image, heard) in enumerate(zip(images, loud, strict=True)):
        groups, nothing = group_index[:, SUBBANDS[band].first], np.zeros_like(image[:1])
        within = model.within(band, loud)
        for k in np.flatnonzero(groups).tolist():
            one = slice(k, k + 1)
            previous = heard[k - 1 : k] if k > 0 else nothing
            second = heard[k - 2 : k - 1] if k > 1 else nothing
            before = model.before(band, previous, second)
            for number, (row, col) in enumerate(PASSES):
                first = within[number][one] + model.own(band, number, heard[one])
                index = model.indices(band, groups[one], first, before[number])
                read = reader.read(index.ravel()).reshape(index.shape)
                image[one, row::2, col::2] = read
                heard[one, row::2, col::2] = loudness(read)
    return images
