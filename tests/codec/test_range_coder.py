"""Rules of `codec.range_coder`: the same integers, the same bytes, on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX
from codec.errors import PayloadError
from codec.quantize import SYMBOL_LIMIT
from codec.range_coder import SymbolReader, SymbolWriter
from codec.tables import ENTRIES, TABLE_COUNT, FrequencyTables, laplace_tables, scale_of

TABLES = laplace_tables()
FLAT = FrequencyTables(np.full((TABLE_COUNT, ENTRIES), 2**24 // ENTRIES, dtype=np.uint32))
"""Tables of no float's making, for frozen bytes."""

SYMBOLS = np.array(
    [[0, 0, 0, 0], [1, -1, 0, 2], [127, -127, 128, -128], [70_000, -5, 3, SYMBOL_LIMIT]],
    dtype=np.int32,
)
INDEX = np.array([0, 20, 20, 60], dtype=np.int32)
GOLDEN = bytes.fromhex("817f7e80 fe0102fc 80807eff 862c5a88 cb377dfe 00402743")


def coded(symbols: NDArray[Any], index: NDArray[Any], tables: FrequencyTables = TABLES) -> bytes:
    """Bytes of one `write`."""
    writer = SymbolWriter(tables)
    writer.write(symbols, index)
    return writer.finish()


def decoded(
    raw: bytes, index: NDArray[Any], count: int, tables: FrequencyTables = TABLES
) -> NDArray[Any]:
    """Symbols of one `read`."""
    reader = SymbolReader(raw, tables)
    symbols = reader.read(index, count)
    reader.finish()
    return symbols


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """Any symbols under any indices come back: escapes, plain low bits, rows of zeros."""
    rows, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    index = data.draw(arrays(np.int32, rows, elements=st.integers(0, MAX_INDEX)))
    near = st.integers(-300, 300)
    sizes = near | st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    symbols = data.draw(arrays(np.int32, (rows, count), elements=sizes))
    symbols[index == 0] = 0
    assert np.array_equal(decoded(coded(symbols, index), index, count), symbols)


@given(st.lists(st.integers(-200, 200), min_size=1, max_size=8), st.integers(1, MAX_INDEX))
def test_writes_are_read_in_order(values: list[int], scale: int) -> None:
    """Several writes before `finish` are several reads before `finish`."""
    index = np.array([scale], dtype=np.int32)
    writer = SymbolWriter(TABLES)
    for value in values:
        writer.write(np.array([[value]], dtype=np.int32), index)
    reader = SymbolReader(writer.finish(), TABLES)
    read = [reader.read(index, 1) for _ in values]
    reader.finish()
    assert [int(symbols[0, 0]) for symbols in read] == values


def test_the_bytes_are_frozen() -> None:
    """Order of rows, escapes, plain bits and words is version 1's for ever."""
    assert coded(SYMBOLS, INDEX, FLAT) == GOLDEN
    assert np.array_equal(decoded(GOLDEN, INDEX, 4, FLAT), SYMBOLS)


def test_all_zero_rows_cost_nothing() -> None:
    """Rows of index 0 are not in the bytes; a payload of nothing else is empty."""
    zeros = np.zeros((3, 100), dtype=np.int32)
    assert coded(zeros, np.zeros(3, dtype=np.int32)) == b""
    assert not decoded(b"", np.zeros(3, dtype=np.int32), 100).any()


def test_the_rate_is_the_entropy() -> None:
    """Symbols of a table's own law cost their entropy, to half a percent."""
    rng = np.random.default_rng(0)
    probabilities = TABLES.probabilities(29)
    symbols = rng.choice(ENTRIES, size=(1, 40_000), p=probabilities) - 127
    bits = -np.log2(probabilities[symbols + 127]).sum()
    raw = coded(symbols.astype(np.int32), np.array([29], dtype=np.int32))
    assert len(raw) * 8 == pytest.approx(bits, rel=0.005)


def test_low_bits_go_in_plain() -> None:
    """Two octaves beyond the last table cost two bits more per symbol."""
    rng = np.random.default_rng(0)
    lengths = []
    for index in (TABLE_COUNT, TABLE_COUNT + 8):
        symbols = rng.laplace(0, scale_of(index), (1, 20_000)).astype(np.int32)
        lengths.append(len(coded(symbols, np.array([index], dtype=np.int32))))
    assert (lengths[1] - lengths[0]) * 8 / 20_000 == pytest.approx(2, abs=0.05)


@given(st.binary(max_size=40), st.sampled_from([(20,), (1, 41), (137,), (25, 44, 90)]))
@example(b"\xff" * 4, (20,))
@example(b"\xff" * 40, (25, 44, 90))
@example(b"\x00" * 40, (137,))
def test_any_bytes_decode_or_are_refused(raw: bytes, scales: tuple[int, ...]) -> None:
    """Bytes no encoder wrote give symbols in range or a `PayloadError`, never anything else."""
    index = np.array(scales, dtype=np.int32)
    try:
        symbols = decoded(raw, index, 6)
    except PayloadError:
        return
    assert np.abs(symbols.astype(np.int64)).max() <= 2 * SYMBOL_LIMIT + 127


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_half_a_word_is_refused(length: int) -> None:
    """A payload is whole 32-bit words."""
    with pytest.raises(PayloadError, match=f"{length} bytes"):
        SymbolReader(b"\x01" * length, TABLES)


def test_bytes_left_over_are_refused() -> None:
    """A payload longer than its symbols is damaged or not meant for them."""
    raw = coded(SYMBOLS, INDEX)
    with pytest.raises(PayloadError, match="left over"):
        decoded(raw + b"\x01\x02\x03\x04" * 2, INDEX, 4)


def test_an_escape_beyond_the_limit_is_refused() -> None:
    """A symbol no encoder can mean is not handed to the network."""
    wide = np.array([[2**30, 0]], dtype=np.int32)
    index = np.array([5], dtype=np.int32)
    with pytest.raises(PayloadError, match="out of range"):
        decoded(coded(wide, index), index, 2)


def test_a_shifted_symbol_beyond_the_limit_is_refused() -> None:
    """Nor does a shift carry a symbol out of 32 bits in silence."""
    wide = np.array([[2**26]], dtype=np.int32)
    index = np.array([MAX_INDEX], dtype=np.int32)
    with pytest.raises(PayloadError, match="out of range"):
        decoded(coded(wide, index), index, 1)


def test_tables_need_not_be_the_same_object() -> None:
    """Equal tables of two loads of a bundle decode each other's bytes."""
    copy = FrequencyTables(TABLES.counts.copy())
    assert np.array_equal(decoded(coded(SYMBOLS, INDEX), INDEX, 4, copy), SYMBOLS)
