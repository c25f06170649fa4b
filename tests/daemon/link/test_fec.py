"""Rules of `daemon.link.fec`, and what we rely on in the library `raptorq`."""

from __future__ import annotations

import random

import pytest
import raptorq
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.errors import RepairError
from daemon.link.fec import RepairPolicy, recover, repair_symbols
from daemon.link.packet import MAX_FRAME_BYTES, MAX_SEGMENTS, symbol_bytes

EXTREMES = [
    pytest.param(1, 1, id="one byte"),
    pytest.param(9, 2, id="two shortest symbols"),
    pytest.param(MAX_FRAME_BYTES, 129, id="longest frame, longest symbols"),
    pytest.param(MAX_FRAME_BYTES - 3, MAX_SEGMENTS, id="longest frame, most symbols"),
    pytest.param(8 * MAX_SEGMENTS, MAX_SEGMENTS, id="most symbols, shortest"),
]


def cut(frame: bytes, size: int) -> dict[int, bytes]:
    """Source symbols by id, the last as short as it is sent."""
    return {i // size: frame[i : i + size] for i in range(0, len(frame), size)}


@pytest.mark.parametrize(("frame_bytes", "segments"), EXTREMES)
def test_the_code_is_systematic_at_every_extreme(frame_bytes: int, segments: int) -> None:
    """One block, no sub-blocks: symbols are stretches of the frame, repairs count on from them."""
    frame = random.Random(0).randbytes(frame_bytes)
    size = symbol_bytes(frame_bytes, segments)

    packets = raptorq.Encoder.with_defaults(frame, size).get_encoded_packets(2)

    assert [int.from_bytes(p[:4], "big") for p in packets] == list(range(segments + 2))
    assert b"".join(p[4:] for p in packets[:segments])[:frame_bytes] == frame


@pytest.mark.parametrize(("frame_bytes", "segments"), EXTREMES)
def test_a_lost_symbol_is_replaced_at_every_extreme(frame_bytes: int, segments: int) -> None:
    """Any frame that can be sent can be repaired."""
    frame = random.Random(0).randbytes(frame_bytes)
    size = symbol_bytes(frame_bytes, segments)
    symbols = cut(frame, size) | dict(enumerate(repair_symbols(frame, size, 4), segments))
    del symbols[0]

    assert recover(symbols, frame_bytes, size) == frame


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 30), st.randoms(use_true_random=False))
def test_any_symbols_above_the_number_of_segments_give_the_frame(
    frame: bytes, symbols_of_8: int, source: random.Random
) -> None:
    """Which symbols were lost does not matter, only how many: two more always do here."""
    size = 8 * symbols_of_8
    sources = cut(frame, size)
    count = len(sources)
    every = sources | dict(enumerate(repair_symbols(frame, size, count + 2), count))
    kept = source.sample(sorted(every), count + 2)

    assert recover({index: every[index] for index in kept}, len(frame), size) == frame


def test_repair_symbols_alone_give_the_frame() -> None:
    """Not one source symbol is needed."""
    frame = bytes(range(256)) * 10

    assert recover(dict(enumerate(repair_symbols(frame, 256, 11), 10)), len(frame), 256) == frame


def test_too_few_symbols_give_nothing() -> None:
    """Fewer symbols than segments never give a frame."""
    frame = bytes(100)
    symbols = cut(frame, 16) | dict(enumerate(repair_symbols(frame, 16, 3), 7))

    assert recover(dict(list(symbols.items())[:6]), 100, 16) is None
    assert recover({}, 100, 16) is None


@settings(max_examples=200)
@given(
    st.integers(1, 400),
    st.integers(1, 8),
    st.dictionaries(st.integers(0, 2**16 - 1), st.binary(min_size=8, max_size=8), max_size=60),
)
def test_foreign_symbols_never_panic(frame_bytes: int, eights: int, ids: dict[int, bytes]) -> None:
    """Symbols made from anything give some bytes, or nothing; Rust's panic is no `Exception`."""
    frame = recover({index: eights * data for index, data in ids.items()}, frame_bytes, 8 * eights)

    assert frame is None or len(frame) == frame_bytes


@pytest.mark.parametrize(
    ("frame_bytes", "size"),
    [(0, 8), (MAX_FRAME_BYTES + 1, 4096), (10, 0), (10, 12), (10, 65_536), (10, -8),
     (8 * MAX_SEGMENTS + 1, 8)],
)  # fmt: skip
def test_what_the_library_would_panic_on_is_refused(frame_bytes: int, size: int) -> None:
    """Lengths out of range are a typed error before the library sees them."""
    with pytest.raises(RepairError):
        repair_symbols(bytes(frame_bytes), size, 1)
    with pytest.raises(RepairError):
        recover({}, frame_bytes, size)


@pytest.mark.parametrize(
    "symbols",
    [{0: b"x" * 7, 1: b"y" * 8}, {2**16: b"x" * 8, 1: b"y" * 8},
     {-1: b"x" * 8, 1: b"y" * 8}, {0: b"x" * 8, 5: b"y" * 2}],
)  # fmt: skip
def test_a_symbol_that_does_not_fit_is_refused(symbols: dict[int, bytes]) -> None:
    """A symbol of another length or id is named."""
    with pytest.raises(RepairError, match="symbol"):
        recover(symbols, 10, 8)


@pytest.mark.parametrize("count", [-1, 2**16])
def test_a_repair_count_beyond_the_index_is_refused(count: int) -> None:
    """Repair symbols must have room in the packet's 16-bit index."""
    with pytest.raises(RepairError):
        repair_symbols(b"x", 8, count)


@pytest.mark.parametrize(
    ("ratio", "minimum", "segments", "symbols"),
    [(0.0, 0, 30, 0), (0.1, 0, 30, 3), (0.1, 0, 31, 4), (0.1, 2, 1, 3), (0.0, 2, 1, 2)],
)
def test_the_policy_counts(ratio: float, minimum: int, segments: int, symbols: int) -> None:
    """The ratio rounds up, the minimum is added."""
    assert RepairPolicy(ratio=ratio, minimum=minimum).symbols(segments) == symbols


@pytest.mark.parametrize(("ratio", "minimum"), [(-0.1, 0), (4.1, 0), (float("nan"), 0), (0, -1),
                                                (0, 65)])  # fmt: skip
def test_a_policy_out_of_range_is_refused(ratio: float, minimum: int) -> None:
    """A policy that exists can be kept for every frame."""
    with pytest.raises(RepairError):
        RepairPolicy(ratio=ratio, minimum=minimum)


@pytest.mark.parametrize(
    ("loss", "ratio", "minimum"),
    [(0.0, 0.0, 0), (0.02, 0.0255, 1), (0.1, 0.1389, 1), (0.5, 0.3, 1)],
)
def test_repair_follows_the_loss_up_to_what_is_set(loss: float, ratio: float, minimum: int) -> None:
    """Somewhat more than is lost; none where nothing is."""
    policy = RepairPolicy(ratio=0.3, minimum=1).at(loss)
    assert policy.ratio == pytest.approx(ratio, abs=1e-4)
    assert policy.minimum == minimum
    assert RepairPolicy(ratio=0.3).at(1.0).ratio == 0.3
