"""Symbols ↔ bytes: constriction's range coder under the bundle's integer tables.

Channels that share a scale index are coded together, in ascending order of the index, so a patch
takes a few dozen calls into compiled code. After all symbols follow the escapes and the plain low
bits. The coder is a queue: what was written first is read first.

Source: constriction (Bamler, arXiv 2201.01741), `stream.queue`; its words are little-endian here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from codec.errors import PayloadError
from codec.quantize import SYMBOL_LIMIT
from codec.tables import ALPHABET_LIMIT, TABLE_COUNT, TABLES_PER_OCTAVE, FrequencyTables

_ESCAPE: Final = ALPHABET_LIMIT * 2 + 1
_LARGEST: Final = 2 * SYMBOL_LIMIT
"""Largest magnitude that is read: differences of two symbols are coded too."""
_WORD: Final = np.dtype("<u4")
_PLAIN_BITS: Final = 16
"""Plain bits go in pieces of at most 16, within the coder's precision of 24."""


def _table_and_shift(index: int) -> tuple[int, int]:
    """Table of a scale index, and how many low bits of each symbol go in plain."""
    shift = max(0, -(-(index - TABLE_COUNT) // TABLES_PER_OCTAVE))
    return index - shift * TABLES_PER_OCTAVE, shift


def _plain_pieces(bits: int) -> list[int]:
    return [min(_PLAIN_BITS, bits - done) for done in range(0, bits, _PLAIN_BITS)]


class SymbolWriter:
    """Collects symbols; `finish` returns the bytes."""

    def __init__(self, tables: FrequencyTables) -> None:
        self._models = _models(tables)
        self._coder = stream.queue.RangeEncoder()
        self._escaped: list[NDArray[np.int64]] = []
        self._plain: list[tuple[NDArray[np.int32], int]] = []

    def write(self, symbols: NDArray[np.int32], index: NDArray[np.int32]) -> None:
        """Code symbols under one scale index per row.

        Args:
            symbols: Shape (channels, n); rows of index 0 must be zero and cost nothing.
            index: Scale index of each row, shape (channels,).
        """
        for scale in _scales(index):
            table, shift = _table_and_shift(scale)
            chosen = symbols[index == scale].ravel()
            if shift:
                self._plain.append((chosen & np.int32((1 << shift) - 1), shift))
                chosen = chosen >> shift
            entries = chosen + np.int32(ALPHABET_LIMIT)
            outside = (entries < 0) | (entries >= _ESCAPE)
            if outside.any():
                self._escaped.append(chosen[outside].astype(np.int64))
                entries[outside] = _ESCAPE
            self._coder.encode(entries, self._models[table - 1])

    def finish(self) -> bytes:
        """Append escapes and plain bits, and return everything as bytes."""
        if self._escaped:
            self._write_escapes(np.concatenate(self._escaped))
        for values, shift in self._plain:
            self._write_plain(values, shift)
        return bytes(self._coder.get_compressed().astype(_WORD).tobytes())

    def _write_escapes(self, values: NDArray[np.int64]) -> None:
        """Exponential Golomb: bits of the excess magnitude, then sign and the bits themselves."""
        excess = np.abs(values) - ALPHABET_LIMIT
        lengths = np.frexp(excess.astype(np.float64))[1].astype(np.int32)
        self._coder.encode(lengths, _uniform(5))
        self._coder.encode((values < 0).astype(np.int32), _uniform(1))
        for value, bits in zip(excess.tolist(), lengths.tolist(), strict=True):
            self._write_plain(np.array([value], dtype=np.int32), bits)

    def _write_plain(self, values: NDArray[np.int32], bits: int) -> None:
        done = 0
        for piece in _plain_pieces(bits):
            part = (values >> done) & np.int32((1 << piece) - 1)
            self._coder.encode(part.astype(np.int32), _uniform(piece))
            done += piece


_Block: TypeAlias = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32], int]
"""Symbols of one `read`, the rows of one scale in them, their raw entries, their shift."""


class SymbolReader:
    """Reads back what a `SymbolWriter` wrote.

    Symbols of several `read` calls are complete only after `finish`, which fills in escapes and
    plain bits; call `read` with the same indices in the same order as `write` was.

    Raises:
        PayloadError: If the bytes are no whole number of words.
    """

    def __init__(self, payload: bytes, tables: FrequencyTables) -> None:
        if len(payload) % _WORD.itemsize:
            raise PayloadError(f"{len(payload)} bytes are no whole number of 32-bit words")
        self._models = _models(tables)
        self._coder = stream.queue.RangeDecoder(
            np.frombuffer(payload, dtype=_WORD).astype(np.uint32)
        )
        self._pending: list[_Block] = []

    def read(self, index: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """Read `count` symbols for each scale index; shape (channels, count), see `finish`."""
        symbols = np.zeros((index.size, count), dtype=np.int32)
        for scale in _scales(index):
            table, shift = _table_and_shift(scale)
            rows = index == scale
            entries = self._decode(self._models[table - 1], int(rows.sum()) * count)
            self._pending.append((symbols, rows, entries, shift))
            symbols[rows] = (entries - np.int32(ALPHABET_LIMIT)).reshape(-1, count)
        return symbols

    def finish(self) -> None:
        """Fill in escapes and plain bits.

        Raises:
            PayloadError: If a symbol is out of range, or bytes are left over.
        """
        escapes = [entries == _ESCAPE for _, _, entries, _ in self._pending]
        if total := sum(int(e.sum()) for e in escapes):
            self._fill_escapes(escapes, self._read_escapes(total))
        for symbols, rows, entries, shift in self._pending:
            if shift:
                high = symbols[rows].astype(np.int64) << shift
                whole = high + self._read_plain(entries.size, shift).reshape(high.shape)
                if np.abs(whole).max() > _LARGEST:
                    raise PayloadError(f"a symbol of {np.abs(whole).max()} is out of range")
                symbols[rows] = whole
        if not self._coder.maybe_exhausted():
            raise PayloadError("bytes are left over after the last symbol")

    def _fill_escapes(
        self, escapes: Sequence[NDArray[np.bool_]], values: NDArray[np.int64]
    ) -> None:
        start = 0
        for (symbols, rows, _, _), escaped in zip(self._pending, escapes, strict=True):
            stop = start + int(escaped.sum())
            block = symbols[rows].ravel()
            block[escaped] = values[start:stop]
            symbols[rows] = block.reshape(-1, symbols.shape[1])
            start = stop

    def _read_escapes(self, count: int) -> NDArray[np.int64]:
        lengths = self._decode(_uniform(5), count)
        negative = self._decode(_uniform(1), count).astype(bool)
        if lengths.max() > SYMBOL_LIMIT.bit_length():
            raise PayloadError(f"an escape of {lengths.max()} bits is out of range")
        excess = [int(self._read_plain(1, bits)[0]) if bits else 0 for bits in lengths.tolist()]
        magnitude = np.array(excess, dtype=np.int64) + ALPHABET_LIMIT
        return np.where(negative, -magnitude, magnitude)

    def _read_plain(self, count: int, bits: int) -> NDArray[np.int32]:
        values, done = np.zeros(count, dtype=np.int32), 0
        for piece in _plain_pieces(bits):
            values |= self._decode(_uniform(piece), count) << np.int32(done)
            done += piece
        return values

    def _decode(self, model: Any, count: int) -> NDArray[np.int32]:
        try:
            decoded: NDArray[np.int32] = self._coder.decode(model, count)
        except AssertionError:  # what constriction raises for bytes that no encoder wrote
            raise PayloadError("the bytes are no range-coded symbols") from None
        return decoded


def _scales(index: NDArray[np.int32]) -> list[int]:
    """Scale indices that occur, ascending, without "all zero"."""
    return [scale for scale in np.unique(index).tolist() if scale > 0]


@lru_cache(maxsize=16)
def _models(tables: FrequencyTables) -> list[Any]:
    """The coder's own form of the tables; made once per table object (identity, tables are frozen).

    `perfect=False` leaves the rounding of counts to exact integer arithmetic on our exact binary
    fractions, instead of a float search.
    """
    return [
        stream.model.Categorical(tables.probabilities(index), perfect=False)
        for index in range(1, TABLE_COUNT + 1)
    ]


@lru_cache(maxsize=32)
def _uniform(bits: int) -> Any:
    """Model of `bits` plain bits."""
    return stream.model.Uniform(1 << bits)
