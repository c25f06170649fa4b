"""Rules of `codec.quick_coder`: any symbols come back exactly, and rounding pays for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.contexts import ScaleModel, shortcut_groups
from codec.errors import PayloadError
from codec.quick_coder import QuickCoder
from codec.quick_coding import code_quickly, mean_magnitudes
from codec.shortcut import CHANNELS, Wavelet
from codec.subbands import to_images, to_symbols
from codec.tables import laplace_tables
from fakes import quick_decoder
from fakes.bundles import integer_tables

GROUPS = ScaleModel(groups=shortcut_groups(Wavelet.GROUPS))
CODER = QuickCoder(integer_tables(), GROUPS)
LIMITS = (0, 1, 3, 130, 5000, 2**22)
SIZES = st.integers(1, 40)
GOLDEN_FILES = Path(__file__).parents[1] / "golden"
GOLDEN = "f4bd398bb9798d898395692497d0f7a2b0f16782"


def drawn(count: int, rows: int, cols: int, seed: int) -> NDArray[np.int32]:
    """Symbols of a patch: each channel of a magnitude of its own, none beyond the edge."""
    rng = np.random.default_rng(seed)
    shape = count * CHANNELS, -(-rows // 8), -(-cols // 8)
    limits = rng.choice(LIMITS, (shape[0], 1, 1))
    symbols = rng.integers(-limits, limits, shape, endpoint=True, dtype=np.int32)
    return to_symbols(to_images(symbols, rows, cols), rows, cols).reshape(
        count, CHANNELS, *shape[1:]
    )


def encoded(symbols: NDArray[np.int32], rows: int, cols: int) -> bytes:
    """Code latents that are whole numbers of steps: nothing is left to rounding."""
    return CODER.encode(symbols.astype(np.float32) * np.float32(0.5), rows, cols, 0.5)


@given(st.integers(1, 5), SIZES, SIZES, st.integers(0, 2**32))
def test_round_trip(count: int, rows: int, cols: int, seed: int) -> None:
    """Whatever the symbols and the size, all come back."""
    symbols = drawn(count, rows, cols, seed)
    again = CODER.decode(encoded(symbols, rows, cols), count, rows, cols)
    assert again.dtype == np.int32
    assert np.array_equal(again, symbols)


@pytest.mark.parametrize(("rows", "cols"), [(16, 24), (9, 17), (1, 5)])
def test_the_page_says_what_is_done(rows: int, cols: int) -> None:
    """A decoder in plain Python, from `docs/wire-format.md` alone, gives the same symbols."""
    for seed in range(3):
        symbols = drawn(3, rows, cols, seed)
        again = quick_decoder.decode(encoded(symbols, rows, cols), integer_tables(), 3, rows, cols)
        assert np.array_equal(again.reshape(symbols.shape), symbols)


def test_nothing_is_no_bytes() -> None:
    """A patch of zeros has no payload, and no payload is a patch of zeros."""
    for count in (0, 2):
        zeros = np.zeros((count, CHANNELS, 3, 2), np.int32)
        assert encoded(zeros, 17, 16) == b""
        assert np.array_equal(CODER.decode(b"", count, 17, 16), zeros)
    with pytest.raises(PayloadError, match="without components"):
        CODER.decode(b"\0\0", 0, 17, 16)


def test_symbols_larger_than_any_are_the_largest() -> None:
    """Garbage in (NaN, infinity) is a large symbol, and bytes that do not fit at first do."""
    latents = np.full((1, CHANNELS, 2, 2), np.inf, np.float32)
    latents[0, ::2], latents[0, 1] = -np.inf, np.nan
    symbols = CODER.decode(CODER.encode(latents, 16, 16, 1.0), 1, 16, 16)
    assert (np.abs(symbols) == 2**24).all()
    assert (symbols[0, ::2] < 0).all()


def test_the_bytes_are_frozen() -> None:
    """The same symbols give the same bytes in every release, on every machine."""
    symbols = np.zeros((2, CHANNELS, 1, 1), np.int32)
    symbols[0, :4, 0, 0] = 300, -1, 2, 0
    symbols[1, 0, 0, 0] = -1
    raw = encoded(symbols, 8, 8)
    assert raw.hex() == GOLDEN
    assert np.array_equal(CODER.decode(raw, 2, 8, 8), symbols)


@given(st.binary(min_size=1, max_size=200), SIZES, SIZES)
def test_any_bytes_are_symbols_or_damage(raw: bytes, rows: int, cols: int) -> None:
    """Whatever arrives, decoding ends, in symbols within their range or by its own error."""
    try:
        symbols = CODER.decode(raw, 2, rows, cols)
    except PayloadError:
        return
    assert np.abs(symbols).max() <= 2**24


def hostile() -> list[bytes]:
    """Payloads that no encoder makes; their checksums would be right."""
    lines = (GOLDEN_FILES / "hostile_quick.hex").read_text().splitlines()
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("raw", hostile())
def test_what_no_encoder_makes_is_refused(raw: bytes) -> None:
    """A symbol too large before sound ones; codes beyond the range, which once led out of it."""
    with pytest.raises(PayloadError):
        QuickCoder(laplace_tables(), GROUPS).decode(raw, 8, 8, 8)


@given(SIZES, SIZES, st.integers(0, 2**32))
def test_bytes_left_over_are_told(rows: int, cols: int, seed: int) -> None:
    """A byte behind the last symbol is damage."""
    if raw := encoded(drawn(2, rows, cols, seed), rows, cols):
        with pytest.raises(PayloadError):
            CODER.decode(raw + b"\0", 2, rows, cols)


def test_rounding_follows_what_is_around() -> None:
    """Amid silence a latent in doubt becomes 0, amid noise 1: bits are worth more there."""
    coder = QuickCoder(laplace_tables(), GROUPS)
    rng, latents = np.random.default_rng(0), np.zeros((1, CHANNELS, 16, 16), np.float32)
    latents[0, 16:, :, :8] = rng.laplace(0, 4, (48, 16, 8))
    latents[0, 16:, ::3, 12] = 0.7
    latents[0, 16:, ::3, 3] = 0.7
    symbols = coder.decode(coder.encode(latents, 128, 128, 1.0), 1, 128, 128)
    assert symbols[0, 16:, ::3, 3].mean() > 0.9
    assert symbols[0, 16:, ::3, 12].mean() < 0.2


def test_after_the_warm_up_nothing_is_compiled() -> None:
    """What comes under the first patch would be seconds late."""
    CODER.warm_up()
    before = [len(f.signatures) for f in (code_quickly, mean_magnitudes)]  # type: ignore[attr-defined]
    symbols = drawn(3, 40, 33, 0)
    CODER.decode(encoded(symbols, 40, 33), 3, 40, 33)
    assert [len(f.signatures) for f in (code_quickly, mean_magnitudes)] == before == [1, 1]  # type: ignore[attr-defined]
