"""A patch's symbols ↔ the payload of its frame.

    length of the scales, in words u16 │ scales of the groups │ symbols

Beside the wavelet each symbol's table follows from its group's scale and its neighbors, see
`codec.neighborhood`; under any other transform from its group's scale alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.contexts import MAX_SCALE, ScaleModel, scale_index
from codec.errors import PayloadError
from codec.neighborhood import PASSES, NeighborModel, loudness, shifted_components
from codec.patch_grid import LATENT_PX
from codec.range_coder import WORD, SymbolReader, SymbolWriter
from codec.row_coder import pack_rows, unpack_rows
from codec.subbands import SUBBANDS, to_images, to_symbols
from codec.tables import FrequencyTables

Symbols = NDArray[np.int32]

_LENGTH_BYTES = 2


class SymbolCoder:
    """Codes patches under one bundle's tables.

    Args:
        tables: One per scale.
        scales: Knows the groups.
        neighbors: Refines a group's scale to each symbol; None where channels are no wavelet
            subbands.
    """

    def __init__(
        self, tables: FrequencyTables, scales: ScaleModel, neighbors: NeighborModel | None
    ) -> None:
        self._tables, self._scales, self._neighbors = tables, scales, neighbors

    def encode(self, symbols: Symbols, rows: int, cols: int) -> bytes:
        """Code a patch.

        Args:
            symbols: Shape (channels, ⌈rows/8⌉, ⌈cols/8⌉).
            rows: Rows of the patch [px]; there are no coefficients beyond them.
            cols: Columns of the patch [px].

        Returns:
            Nothing if every symbol is zero.
        """
        if not symbols.any():
            return b""
        scales, written = self.choose(symbols, rows, cols)
        packed = pack_rows(_as_rows(scales), self._tables)
        writer = SymbolWriter(self._tables)
        for coded, index, step in written:
            writer.write(coded, index, step)
        return (len(packed) // WORD.itemsize).to_bytes(_LENGTH_BYTES) + packed + writer.finish()

    def choose(
        self, symbols: Symbols, rows: int, cols: int
    ) -> tuple[Symbols, list[tuple[Symbols, NDArray[np.int32], NDArray[np.int64]]]]:
        """Choose the scale of everything; arguments as of `encode`.

        Returns:
            Scales of the groups, shape (components, groups); then symbols, scale indices and steps
            in the order of coding.
        """
        scales = self._scales.scales(symbols)
        if self._neighbors is None:
            index = scale_index(scales)[:, self._scales.groups].ravel()
            flat = symbols.reshape(index.size, -1)
            each = np.repeat(index, flat.shape[1])
            return scales, [(flat.ravel(), each, np.zeros(each.size, dtype=np.int64))]
        images = to_images(symbols, rows, cols)
        chosen = _index_images(images, self._neighbors, self._by_band(scales))
        return scales, [_in_order(*pair) for pair in zip(images, chosen, strict=True)]

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
        reader = SymbolReader(payload[start:], self._tables)
        if self._neighbors is None:
            index = scale_index(scales)[:, self._scales.groups].ravel()
            symbols = reader.read(np.repeat(index, latent[0] * latent[1])).reshape(-1, *latent)
        else:
            images = _decode_images(reader, self._neighbors, self._by_band(scales), rows, cols)
            symbols = to_symbols(images, rows, cols)
        reader.finish()
        return symbols

    def _by_band(self, scales: NDArray[np.int32]) -> NDArray[np.int32]:
        """Scale of each subband of each component, shape (components, subbands)."""
        return scales[:, self._scales.groups[[band.first for band in SUBBANDS]]]


def _rows_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """A row for each group, along the components; for all groups of the only one."""
    return shape[::-1] if shape[0] > 1 else shape


def _as_rows(scales: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.ascontiguousarray(scales.T) if len(scales) > 1 else scales


def _index_images(
    images: list[Symbols], model: NeighborModel, scales: NDArray[np.int32]
) -> list[NDArray[np.int32]]:
    """Scale index of every symbol, as images like those of the symbols."""
    loud, chosen = [loudness(image) for image in images], []
    for band, heard in enumerate(loud):
        index = np.zeros_like(heard)
        coded = np.flatnonzero(scales[:, band])  # groups of zeros ask for no context
        within = model.within(band, [other[coded] for other in loud])
        previous, second = (shifted_components(heard, by)[coded] for by in (1, 2))
        before = model.before(band, previous, second)
        for number, (row, col) in enumerate(PASSES):
            first = within[number] + model.own(band, number, heard[coded])
            found = model.indices(band, scales[coded, band], first, before[number])
            index[coded, row::2, col::2] = found
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
    scales: NDArray[np.int32],
    rows: int,
    cols: int,
) -> list[Symbols]:
    """Read every subband, in the order of `_in_order`."""
    count = len(scales)
    images = [np.zeros((count, *b.shape(rows, cols)), dtype=np.int32) for b in SUBBANDS]
    loud = [np.zeros_like(image) for image in images]
    for band, (image, heard) in enumerate(zip(images, loud, strict=True)):
        groups, nothing = scales[:, band], np.zeros_like(image[:1])
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
