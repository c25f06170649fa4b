"""Rules of `codec.symbol_coder`: any symbols come back exactly, wherever they are decoded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.backend_names import BackendName
from codec.bundle import Bundle
from codec.context_coder import ContextCoder, untrained_contexts
from codec.contexts import ScaleModel, shortcut_groups
from codec.encoder import Encoder
from codec.errors import PayloadError
from codec.frame import PatchFrame, SideFrame, parse
from codec.quantize import SYMBOL_LIMIT
from codec.shortcut import CHANNELS, Dct, Wavelet
from codec.subbands import to_images, to_symbols
from codec.symbol_coder import SymbolCoder, Symbols
from fakes import cubes
from fakes.bundles import branch_bundle, context_tensors, integer_tables

CONTEXTS = ContextCoder(**context_tensors())
UNTRAINED = ContextCoder(**untrained_contexts())
EXTREME = ContextCoder(
    states=np.where(CONTEXTS.states % 2, 2**31 - 1, 0).astype(np.int32),
    weights=np.where(CONTEXTS.weights % 2, 2**31 - 1, -(2**31)).astype(np.int32),
)
LIMITS = (0, 1, 3, 130, 5000, SYMBOL_LIMIT)
SIZES = st.integers(1, 40)


def coder(contexts: ContextCoder | None = CONTEXTS) -> SymbolCoder:
    """A coder of integers only; without contexts it is that of another transform."""
    groups = shortcut_groups(Dct.GROUPS if contexts is None else Wavelet.GROUPS)
    return SymbolCoder(integer_tables(), ScaleModel(groups=groups), contexts)


def drawn(count: int, rows: int, cols: int, seed: int) -> NDArray[np.int32]:
    """Symbols of a patch: each channel of a magnitude of its own, none beyond the edge."""
    rng = np.random.default_rng(seed)
    shape = count * CHANNELS, -(-rows // 8), -(-cols // 8)
    limits = rng.choice(LIMITS, (shape[0], 1, 1))
    symbols = rng.integers(-limits, limits, shape, endpoint=True, dtype=np.int32)
    return to_symbols(to_images(symbols, rows, cols), rows, cols)


# ---- decode(encode(x)) = x


@given(
    st.integers(1, 5),
    SIZES,
    SIZES,
    st.sampled_from([CONTEXTS, UNTRAINED, EXTREME]),
    st.integers(0, 2**32),
)
def test_round_trip(count: int, rows: int, cols: int, contexts: ContextCoder, seed: int) -> None:
    """Whatever the symbols up to 2²⁴, the size and the contexts, all come back."""
    symbols, made = drawn(count, rows, cols, seed), coder(contexts)
    again = made.decode(made.encode(symbols, rows, cols), len(symbols), rows, cols)
    assert again.dtype == np.int32
    assert np.array_equal(again, symbols)


@given(st.integers(1, 3), SIZES, SIZES, st.integers(0, 2**32))
def test_round_trip_without_contexts(count: int, rows: int, cols: int, seed: int) -> None:
    """Beside another transform every position of every channel comes back."""
    shape = count * CHANNELS, -(-rows // 8), -(-cols // 8)
    rng, made = np.random.default_rng(seed), coder(None)
    limit = rng.choice(LIMITS)
    symbols = rng.integers(-limit, limit, shape, endpoint=True, dtype=np.int32)
    payload = made.encode(symbols, rows, cols)
    assert np.array_equal(made.decode(payload, len(symbols), rows, cols), symbols)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(1, 1), (24, 17)])
def test_the_largest_symbols_come_back(sign: int, size: tuple[int, int]) -> None:
    """All symbols at the limit, under contexts that could not be wronger."""
    filled = np.full((2 * CHANNELS, -(-size[0] // 8), -(-size[1] // 8)), sign * SYMBOL_LIMIT)
    symbols = to_symbols(to_images(filled.astype(np.int32), *size), *size)
    payload = coder(EXTREME).encode(symbols, *size)
    assert np.array_equal(coder(EXTREME).decode(payload, 128, *size), symbols)


@pytest.mark.parametrize("contexts", [CONTEXTS, None])
def test_nothing_is_no_bytes(contexts: ContextCoder | None) -> None:
    """A patch of zeros has no payload, and no payload is a patch of zeros."""
    zeros = np.zeros((2 * CHANNELS, 3, 2), dtype=np.int32)
    assert coder(contexts).encode(zeros, 17, 16) == b""
    assert np.array_equal(coder(contexts).decode(b"", 128, 17, 16), zeros)


# ---- what is coded


@given(st.integers(1, 3), SIZES, SIZES, st.integers(0, 2**32))
def test_what_lies_beyond_the_patch_is_not_coded(
    count: int, rows: int, cols: int, seed: int
) -> None:
    """Coefficients beyond the patch never come back, whatever they hold."""
    rng = np.random.default_rng(seed)
    shape = count * CHANNELS, -(-rows // 8), -(-cols // 8)
    symbols = rng.integers(-9, 9, shape, endpoint=True, dtype=np.int32)
    again = coder().decode(coder().encode(symbols, rows, cols), len(symbols), rows, cols)
    assert np.array_equal(again, to_symbols(to_images(symbols, rows, cols), rows, cols))


# ---- frozen bytes


PAYLOAD = bytes.fromhex(
    "000512e0865e23358e578b5841d432fc003405d7cd9600000000588e6467e9f9b237aaf17bdbf95f91d713d8"
    "82658c770015ef29e7ea2e650a281a4c902ceca2eb12fd68fb73a72a16c8ea098c2e83740ead980f1e930ce6"
    "7fbcca82ec8468be37b390f42cd9c00dc48e8ebfffd694bf94e7b5f0cdf0655ef2229b844469eec4068134a4"
    "fbb282e8e7e3d6769d690d74dcdc9c3018b0ac0061705cdb2cf9f419ff0abf89503ee34d5a82521ddd53547f"
    "4bb21b327ef4fb63c62d56f9bb24ff044de4b333a9a4c94c90c985843230de8a0f0abea6ac45307987807c5e"
    "211e16dfbd752dade11501356aae397bbc2a4404e552ba97d2b595ddbcee70055c94e3b8e4907a586a2955cf"
    "530e6c97192d1d3f62b659653ac852f2fa1db98845412029d0f572aa8c8f28758a47dc9e02fe8292b5bc003a"
    "e7c58f7888aca75fddb18c20"
)


def formula() -> NDArray[np.int32]:
    """Symbols of two components over 13×10 pixels: zeros, small ones, escapes, plain bits."""
    number = np.arange(2 * CHANNELS * 4).reshape(2 * CHANNELS, 2, 2)
    symbols = (number * 7919 % 257 - 128) >> (number // 32 % 8)
    symbols[0] *= 4000
    return to_symbols(to_images(symbols.astype(np.int32), 13, 10), 13, 10)


def test_the_payload_is_frozen() -> None:
    """Order and contexts of `docs/wire-format.md`, byte by byte, for ever."""
    assert coder().encode(formula(), 13, 10) == PAYLOAD
    assert np.array_equal(coder().decode(PAYLOAD, 128, 13, 10), formula())


# ---- damage


@pytest.fixture(scope="module")
def small() -> tuple[bytes, NDArray[np.int32]]:
    """A payload of about a hundred bytes, and its symbols: some escaped, some with plain bits."""
    rng = np.random.default_rng(0)
    symbols = rng.laplace(0, np.where(np.arange(128) % 64, 1, 300)[:, None, None], (128, 2, 2))
    symbols = to_symbols(to_images(symbols.astype(np.int32), 10, 9), 10, 9)
    return coder().encode(symbols, 10, 9), symbols


def test_any_cut_is_reported(small: tuple[bytes, NDArray[np.int32]]) -> None:
    """A payload cut anywhere is refused or decodes to other symbols: never a crash."""
    payload, symbols = small
    for length in range(1, len(payload)):
        try:
            found = coder().decode(payload[:length], 128, 10, 9)
        except PayloadError:
            continue
        assert not np.array_equal(found, symbols)


def test_any_flipped_bit_decodes_or_is_refused(small: tuple[bytes, NDArray[np.int32]]) -> None:
    """Damage the checksum missed gives symbols of the patch's shape or a `PayloadError`."""
    payload, symbols = small
    refused = 0
    for place in range(len(payload)):
        broken = bytearray(payload)
        broken[place] ^= 1 << place % 8
        try:
            found = coder().decode(bytes(broken), 128, 10, 9)
        except PayloadError:
            refused += 1
            continue
        assert found.shape == symbols.shape
    assert refused


@settings(max_examples=60)
@given(
    st.builds(
        lambda words, raw: words.to_bytes(2) + raw,
        st.integers(0, 8) | st.integers(0, 65_535),
        st.binary(max_size=400),
    )
    | st.binary(max_size=9),
    st.integers(0, 4),
    SIZES,
    SIZES,
    st.sampled_from([CONTEXTS, EXTREME, None]),
)
def test_any_bytes_decode_or_are_refused(
    raw: bytes, count: int, rows: int, cols: int, contexts: ContextCoder | None
) -> None:
    """Bytes no encoder wrote give symbols in range or a `PayloadError`."""
    try:
        found = coder(contexts).decode(raw, count * CHANNELS, rows, cols)
    except PayloadError:
        return
    assert found.shape == (count * CHANNELS, -(-rows // 8), -(-cols // 8))
    assert np.abs(found.astype(np.int64)).max(initial=0) <= 2 * SYMBOL_LIMIT + 127


def test_bytes_left_over_are_refused(small: tuple[bytes, NDArray[np.int32]]) -> None:
    """A payload longer than its symbols is damaged or not meant for them."""
    with pytest.raises(PayloadError, match="left over"):
        coder().decode(small[0] + b"\x01\x02\x03\x04" * 2, 128, 10, 9)


# ---- the same symbols everywhere


@pytest.fixture
def threads() -> Iterator[None]:
    """Put PyTorch's thread count back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_contexts(bundle: Bundle) -> Bundle:
    """The bundle with contexts that matter; its digests do not, nothing is written."""
    contexts = {f"contexts.{name}": array for name, array in context_tensors().items()}
    return replace(bundle, tensors={**bundle.tensors, **contexts})


def symbols_of(frames: list[bytes], bundle: Bundle) -> list[NDArray[np.int32]]:
    """What the ground decodes of each patch, before any float."""
    side, *patches = map(parse, frames)
    assert isinstance(side, SideFrame)
    made = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
    found = []
    for patch in patches:
        assert isinstance(patch, PatchFrame)
        shape = side.grid.extent(patch.patch_row, patch.patch_col).shape
        found.append(made.decode(patch.payload, len(side.levels) * CHANNELS, *shape))
    return found


class Watched(SymbolCoder):
    """Keeps the symbols that go in."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.tables, bundle.scales, bundle.contexts)
        self.seen: list[NDArray[np.int32]] = []

    def encode(self, symbols: Symbols, rows: int, cols: int, _: Symbols | None = None) -> bytes:
        """Keep what lies within the patch, and code it as it is."""
        self.seen.append(to_symbols(to_images(symbols, rows, cols), rows, cols))
        return super().encode(symbols, rows, cols)


@pytest.mark.parametrize("backend", ["torch-cpu", "openvino"])
@pytest.mark.usefixtures("threads")
def test_symbols_do_not_depend_on_threads_or_backend(backend: BackendName) -> None:
    """Decoded symbols are the encoder's, whatever ran its network, with one thread or two."""
    bundle = with_contexts(branch_bundle(calibrated=True))
    encoder = Encoder(bundle, step=4.0, backend=backend, threads=1)
    encoder.coder = watched = Watched(bundle)
    frames = encoder.encode(cubes.tile(rows=141, cols=30, noise_dn=60.0))
    assert np.abs(watched.seen[0]).max() > 127
    for count in (1, 2):
        torch.set_num_threads(count)
        for found, symbols in zip(symbols_of(frames, bundle), watched.seen, strict=True):
            assert np.array_equal(found, symbols)


SCRIPT = """
import sys
import numpy as np
from test_symbol_coder import coder
symbols = coder().decode(sys.stdin.buffer.read(), 192, 40, 37)
sys.stdout.buffer.write(symbols.astype("<i4").tobytes())
"""


@pytest.mark.parametrize("count", ["1", "2"])
def test_symbols_do_not_depend_on_the_process(count: str) -> None:
    """Another process, of its own thread count and hash seed, decodes the same symbols."""
    symbols = drawn(3, 40, 37, 5)
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=coder().encode(symbols, 40, 37),
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": count, "PYTHONHASHSEED": count},
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == symbols.astype("<i4").tobytes()
