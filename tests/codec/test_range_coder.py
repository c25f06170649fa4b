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
from fakes.bundles import flat_tables

TABLES = laplace_tables()
FLAT = flat_tables()

SYMBOLS = np.array(
    [0, 0, 1, -1, 0, 2, 127, -127, 128, -128, 70_000, -5, 3, SYMBOL_LIMIT], dtype=np.int32
)
INDEX = np.array([0, 0, 20, 41, 20, 20, 41, 20, 20, 20, 60, 60, 20, 60], dtype=np.int32)
GOLDEN = bytes.fromhex("00817f8008827efef9f1dcd5384df8f02e3ebc1f00004079")


def coded(symbols: NDArray[Any], index: NDArray[Any], tables: FrequencyTables = TABLES) -> bytes:
    """Bytes of one `write`."""
    writer = SymbolWriter(tables)
    writer.write(symbols, index)
    return writer.finish()


def decoded(raw: bytes, index: NDArray[Any], tables: FrequencyTables = TABLES) -> NDArray[Any]:
    """Symbols of one `read`."""
    reader = SymbolReader(raw, tables)
    read = reader.read(index)
    reader.finish()
    return read


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """Any symbols under any indices come back: escapes, plain low bits, zeros."""
    count = data.draw(st.integers(1, 30))
    index = data.draw(arrays(np.int32, count, elements=st.integers(0, MAX_INDEX)))
    sizes = st.integers(-300, 300) | st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    symbols = data.draw(arrays(np.int32, count, elements=sizes))
    symbols[index == 0] = 0
    assert np.array_equal(decoded(coded(symbols, index), index), symbols)


@given(st.lists(st.integers(-200, 200), min_size=1, max_size=8), st.integers(1, MAX_INDEX))
def test_writes_are_read_in_order(values: list[int], scale: int) -> None:
    """What was written first is read first, and before anything more is known."""
    index, symbols = np.full(len(values), scale, dtype=np.int32), np.array(values, dtype=np.int32)
    writer = SymbolWriter(TABLES)
    for value in symbols:
        writer.write(value[None], index[:1])
    raw = writer.finish()
    reader = SymbolReader(raw, TABLES)
    assert [int(reader.read(index[:1])[0]) for _ in values] == values
    reader.finish()


def test_the_bytes_are_frozen() -> None:
    """Order of indices, symbols, escapes, plain bits and words is that of the format."""
    assert coded(SYMBOLS, INDEX, FLAT) == GOLDEN
    assert np.array_equal(decoded(GOLDEN, INDEX, FLAT), SYMBOLS)


def test_index_zero_costs_nothing() -> None:
    """Symbols of index 0 are not in the bytes; a payload of nothing else is empty."""
    zeros = np.zeros(100, dtype=np.int32)
    assert coded(zeros, zeros) == b""
    assert not decoded(b"", zeros).any()
    some = np.array([0, 5, 0, -3], dtype=np.int32), np.array([0, 9, 0, 9], dtype=np.int32)
    assert coded(*some) == coded(some[0][1::2], some[1][1::2])


def test_the_rate_is_the_entropy() -> None:
    """Symbols of a table's own law cost their entropy, to half a percent."""
    rng = np.random.default_rng(0)
    probabilities = TABLES.probabilities(29)
    symbols = rng.choice(ENTRIES, size=40_000, p=probabilities) - 127
    bits = -np.log2(probabilities[symbols + 127]).sum()
    raw = coded(symbols.astype(np.int32), np.full(40_000, 29, dtype=np.int32))
    assert len(raw) * 8 == pytest.approx(bits, rel=0.005)


def test_low_bits_go_in_plain() -> None:
    """Two octaves beyond the last table cost two bits more per symbol."""
    rng = np.random.default_rng(0)
    lengths = []
    for index in (TABLE_COUNT, TABLE_COUNT + 8):
        symbols = rng.laplace(0, scale_of(index), 20_000).astype(np.int32)
        lengths.append(len(coded(symbols, np.full(20_000, index, dtype=np.int32))))
    assert (lengths[1] - lengths[0]) * 8 / 20_000 == pytest.approx(2, abs=0.05)


@given(st.binary(max_size=40), st.sampled_from([(20,), (1, 41), (137,), (25, 44, 90)]))
@example(b"\xff" * 4, (20,))
@example(b"\xff" * 40, (25, 44, 90))
@example(b"\x00" * 40, (137,))
def test_any_bytes_decode_or_are_refused(raw: bytes, scales: tuple[int, ...]) -> None:
    """Bytes no encoder wrote give symbols in range or a `PayloadError`, never anything else."""
    index = np.repeat(np.array(scales, dtype=np.int32), 6)
    try:
        symbols = decoded(raw, index)
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
        decoded(raw + b"\x01\x02\x03\x04" * 2, INDEX)


def test_an_escape_beyond_the_limit_is_refused() -> None:
    """A symbol no encoder can mean is not handed to the network."""
    wide, index = np.array([2**30, 0], dtype=np.int32), np.array([5, 5], dtype=np.int32)
    with pytest.raises(PayloadError, match="out of range"):
        decoded(coded(wide, index), index)


def test_a_shifted_symbol_beyond_the_limit_is_refused() -> None:
    """Nor does a shift carry a symbol out of 32 bits in silence."""
    wide, index = np.array([2**26], dtype=np.int32), np.array([MAX_INDEX], dtype=np.int32)
    with pytest.raises(PayloadError, match="out of range"):
        decoded(coded(wide, index), index)


def test_tables_need_not_be_the_same_object() -> None:
    """Equal tables of two loads of a bundle decode each other's bytes."""
    copy = FrequencyTables(TABLES.counts.copy())
    raw = coded(SYMBOLS, INDEX)
    assert np.array_equal(decoded(raw, INDEX, copy), SYMBOLS)
