"""Rules of `codec.row_coder`: rows of integers come back on every machine, in fewer bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from codec.errors import PayloadError
from codec.quantize import SYMBOL_LIMIT
from codec.row_coder import pack_rows, unpack_rows
from codec.tables import laplace_tables
from fakes.bundles import flat_tables

TABLES = laplace_tables()
ROWS = np.array([[900, 905, 911, 3], [-20, 14, 200, 0], [0, 1, -1, 0]], dtype=np.int32)
GOLDEN = bytes.fromhex("5f41ea3f deb48dc8 2b35c99b dc17cc71 0201f411")


def smooth(rows: int, bands: int, *, seed: int = 0) -> np.ndarray:
    """Rows that wander, and jump where all of them jump."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 2, (rows, bands))
    steps[:, :: bands // 4] *= 30
    return np.rint(np.cumsum(steps, axis=1)).astype(np.int32)


@given(
    arrays(
        np.int32,
        array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.one_of(
            st.integers(-3, 3), st.integers(-500, 500), st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        ),
    )
)
def test_round_trip(symbols: np.ndarray) -> None:
    """What is packed is what is unpacked, escapes and plain bits among it."""
    assert np.array_equal(unpack_rows(pack_rows(symbols, TABLES), *symbols.shape, TABLES), symbols)


@pytest.mark.parametrize("scale", [0, 1, 100, 30_000, SYMBOL_LIMIT])
def test_any_scale_comes_back(scale: int) -> None:
    """Both ends follow a scale wherever it goes, down to nothing and up to the largest symbol."""
    rng = np.random.default_rng(scale)
    symbols = rng.integers(-scale, scale, (5, 90), endpoint=True, dtype=np.int32)
    symbols[:, 40:60] //= 1000
    assert np.array_equal(unpack_rows(pack_rows(symbols, TABLES), 5, 90, TABLES), symbols)


def test_the_bytes_are_frozen() -> None:
    """Predictors, tables and escapes of frame version 5: this layout for ever."""
    assert pack_rows(ROWS, flat_tables()) == GOLDEN
    assert np.array_equal(unpack_rows(GOLDEN, 3, 4, flat_tables()), ROWS)


def test_no_bands_are_no_bytes() -> None:
    """A tile without a valid band has no side information."""
    assert pack_rows(np.zeros((1, 0), dtype=np.int32), TABLES) == b""
    assert unpack_rows(b"", 1, 0, TABLES).shape == (1, 0)


def test_smooth_rows_are_predicted() -> None:
    """A line costs a fifth of the same values in disorder."""
    line = np.arange(0, 10_000, 50, dtype=np.int32)[None]
    disorder = np.random.default_rng(0).permuted(line, axis=1)
    assert len(pack_rows(line, TABLES)) < len(pack_rows(disorder, TABLES)) / 5


def test_rough_bands_are_learned() -> None:
    """Where all rows jump, a jump costs less than if each jumped where it likes."""
    together = smooth(20, 200)
    apart = np.stack([np.roll(np.diff(row, prepend=0), 7 * k) for k, row in enumerate(together)])
    apart = np.cumsum(apart, axis=1).astype(np.int32)
    assert len(pack_rows(together, TABLES)) < 0.95 * len(pack_rows(apart, TABLES))


def test_any_cut_is_reported_or_decodes_in_range() -> None:
    """Bytes cut within a word are refused; cut between words they cannot leave the range."""
    raw = pack_rows(smooth(3, 40), TABLES)
    for length in range(len(raw)):
        if length % 4:
            with pytest.raises(PayloadError, match="no whole number"):
                unpack_rows(raw[:length], 3, 40, TABLES)


@given(st.binary(max_size=64).map(lambda raw: raw[: len(raw) // 4 * 4]), st.integers(0, 30))
def test_any_bytes_decode_in_range_or_are_refused(raw: bytes, bands: int) -> None:
    """Damage that passed the checksum is a `PayloadError` or symbols in range, nothing else."""
    try:
        symbols = unpack_rows(raw, 2, bands, TABLES)
    except PayloadError:
        return
    assert symbols.shape == (2, bands)
    assert np.abs(symbols).max(initial=0) <= SYMBOL_LIMIT


def test_no_bytes_are_refused() -> None:
    """Nothing at all does not pass for rows of whatever an empty coder makes up."""
    with pytest.raises(PayloadError, match="no bytes for 2 rows"):
        unpack_rows(b"", 2, 3, TABLES)


def test_bytes_left_over_are_refused() -> None:
    """What follows the last row is an error."""
    raw = pack_rows(ROWS, TABLES)
    with pytest.raises(PayloadError, match="left over"):
        unpack_rows(raw + raw, 3, 4, TABLES)
