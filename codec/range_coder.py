"""Symbols ↔ bytes: constriction's range coder under the bundle's integer tables.

Symbols of one write that share a scale index are coded together, in ascending order of the index,
so that a write takes a few calls into compiled code; after each such run follow its escapes and
plain low bits. The coder is a queue: what was written first is read first.

Source: constriction (Bamler, arXiv 2201.01741), `stream.queue`; its words are little-endian here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX
from codec.errors import PayloadError
from codec.quantize import SYMBOL_LIMIT
from codec.tables import ALPHABET_LIMIT, TABLE_COUNT, TABLES_PER_OCTAVE, FrequencyTables

ESCAPE: Final = ALPHABET_LIMIT * 2 + 1
WORD: Final = np.dtype("<u4")
LENGTH_BITS: Final = 5
PLAIN_BITS: Final = 16
"""Plain bits go in pieces of at most 16, within the coder's precision of 24."""

_INDEX: Final = np.arange(MAX_INDEX + 1, dtype=np.int32)
LOW_BITS: Final = np.maximum(0, -((TABLE_COUNT - _INDEX) // TABLES_PER_OCTAVE)).astype(np.int32)
"""Low bits of each symbol that go in plain, by scale index."""
TABLE: Final = _INDEX - LOW_BITS * np.int32(TABLES_PER_OCTAVE) - 1
"""Table of each scale index; that of 0, which codes nothing, is −1."""


def _plain_pieces(bits: int) -> list[int]:
    return [min(PLAIN_BITS, bits - done) for done in range(0, bits, PLAIN_BITS)]


class SymbolWriter:
    """Codes symbols; `finish` returns the bytes."""

    def __init__(self, tables: FrequencyTables) -> None:
        self._models = table_models(tables)
        self._coder = stream.queue.RangeEncoder()

    def write(self, symbols: NDArray[np.int32], index: NDArray[np.int32]) -> None:
        """Code symbols, shape (n,) or (n, any), under the scale index of each, or of each row.

        Args:
            symbols: Those of index 0 must be zero and cost nothing.
            index: In [0, MAX_INDEX], shape (n,).
        """
        # Two bytes are sorted by radix, four times as fast.
        order = np.argsort(index.astype(np.uint16), kind="stable")[np.count_nonzero(index == 0) :]
        if not order.size:
            return
        index, symbols = index[order], symbols[order].reshape(order.size, -1)
        shift = LOW_BITS[index]
        values = symbols >> shift[:, None] if shift.any() else symbols
        escaped = np.abs(values) > ALPHABET_LIMIT
        entries = values + np.int32(ALPHABET_LIMIT)
        entries[escaped] = ESCAPE
        first = np.flatnonzero(np.diff(index, prepend=0))
        runs = zip(
            first.tolist(),
            [*first[1:].tolist(), index.size],
            TABLE[index[first]].tolist(),
            shift[first].tolist(),
            np.logical_or.reduceat(escaped.any(axis=1), first).tolist(),
            strict=True,
        )
        for start, stop, table, low_bits, has_escapes in runs:
            self._coder.encode(entries[start:stop].ravel(), self._models[table])
            if has_escapes:
                self._write_escapes(values[start:stop][escaped[start:stop]])
            if low_bits:
                plain = symbols[start:stop] & np.int32((1 << low_bits) - 1)
                self._write_plain(plain.ravel(), low_bits)

    def finish(self) -> bytes:
        """Return everything as bytes."""
        return bytes(self._coder.get_compressed().astype(WORD).tobytes())

    def _write_escapes(self, values: NDArray[np.int32]) -> None:
        """Exponential Golomb: bits of the excess magnitude, signs, and the bits below the highest.

        These go length after length: a handful of calls, however many escapes there are.
        """
        excess = np.abs(values) - np.int32(ALPHABET_LIMIT)
        lengths = np.frexp(excess.astype(np.float64))[1].astype(np.int32)
        self._coder.encode(lengths, uniform(LENGTH_BITS))
        self._coder.encode((values < 0).astype(np.int32), uniform(1))
        for bits in np.unique(lengths).tolist():
            self._write_plain(excess[lengths == bits], bits - 1)

    def _write_plain(self, values: NDArray[np.int32], bits: int) -> None:
        done = 0
        for piece in _plain_pieces(bits):
            part = (values >> done) & np.int32((1 << piece) - 1)
            self._coder.encode(part.astype(np.int32), uniform(piece))
            done += piece


class SymbolReader:
    """Reads back what a `SymbolWriter` wrote, write by write.

    Raises:
        PayloadError: If the bytes are no whole number of words.
    """

    def __init__(self, payload: bytes, tables: FrequencyTables) -> None:
        if len(payload) % WORD.itemsize:
            raise PayloadError(f"{len(payload)} bytes are no whole number of 32-bit words")
        self._models = table_models(tables)
        self._coder = stream.queue.RangeDecoder(
            np.frombuffer(payload, dtype=WORD).astype(np.uint32)
        )

    def read(self, index: NDArray[np.int32], width: int = 1) -> NDArray[np.int32]:
        """Read the symbols of one write, shape (n · width,), given the scale index of each row.

        Raises:
            PayloadError: If the bytes are no symbols, or one is out of range.
        """
        symbols = np.zeros((index.size, width), dtype=np.int32)
        order = np.argsort(index.astype(np.uint16), kind="stable")
        counts = np.bincount(index, minlength=1)
        start = int(counts[0])
        for scale in np.flatnonzero(counts[1:]).tolist():
            rows = order[start : start + int(counts[scale + 1])]
            symbols[rows] = self._read_run(scale + 1, rows.size * width).reshape(rows.size, width)
            start += rows.size
        return symbols.ravel()

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            PayloadError: If bytes are left over.
        """
        if not self._coder.maybe_exhausted():
            raise PayloadError("bytes are left over after the last symbol")

    def _read_run(self, scale: int, count: int) -> NDArray[np.int64] | NDArray[np.int32]:
        entries = self._decode(self._models[TABLE[scale]], count)
        values = entries - np.int32(ALPHABET_LIMIT)
        escaped = entries == ESCAPE
        if escaped.any():
            values[escaped] = self._read_escapes(int(escaped.sum()))
        low_bits = int(LOW_BITS[scale])
        if not low_bits:
            return values
        whole = (values.astype(np.int64) << low_bits) + self._read_plain(count, low_bits)
        if np.abs(whole).max() > SYMBOL_LIMIT:
            raise PayloadError(f"a symbol of {np.abs(whole).max()} is out of range")
        return whole

    def _read_escapes(self, count: int) -> NDArray[np.int32]:
        lengths = self._decode(uniform(LENGTH_BITS), count)
        negative = self._decode(uniform(1), count).astype(bool)
        found = np.unique(lengths).tolist()
        for bits in found:
            if not 0 < bits <= SYMBOL_LIMIT.bit_length():
                raise PayloadError(f"an escape of {bits} bits is out of range")
        magnitude = np.full(count, ALPHABET_LIMIT, dtype=np.int32)
        for bits in found:
            chosen = lengths == bits
            below = self._read_plain(int(chosen.sum()), bits - 1)
            magnitude[chosen] += below + np.int32(1 << (bits - 1))
        return np.where(negative, -magnitude, magnitude)

    def _read_plain(self, count: int, bits: int) -> NDArray[np.int32]:
        values, done = np.zeros(count, dtype=np.int32), 0
        for piece in _plain_pieces(bits):
            values |= self._decode(uniform(piece), count) << np.int32(done)
            done += piece
        return values

    def _decode(self, model: Any, count: int) -> NDArray[np.int32]:
        try:
            decoded: NDArray[np.int32] = self._coder.decode(model, count)
        except AssertionError:  # what constriction raises for bytes that no encoder wrote
            raise PayloadError("the bytes are no range-coded symbols") from None
        return decoded


@lru_cache(maxsize=16)
def table_models(tables: FrequencyTables) -> list[Any]:
    """The coder's own form of the tables; made once per table object (identity, tables are frozen).

    `perfect=False` leaves the rounding of counts to exact integer arithmetic on our exact binary
    fractions, instead of a float search.
    """
    return [
        stream.model.Categorical(tables.probabilities(index), perfect=False)
        for index in range(1, TABLE_COUNT + 1)
    ]


@lru_cache(maxsize=32)
def uniform(bits: int) -> Any:
    """Model of `bits` plain bits."""
    return stream.model.Uniform(1 << bits)
