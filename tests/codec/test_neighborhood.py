"""Rules of `codec.neighborhood`: what has been coded, and nothing else, chooses a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX, MAX_SCALE
from codec.errors import BundleError
from codec.neighborhood import (
    GROUP_SCALES,
    LOUDNESS_PER_OCTAVE,
    NEIGHBOR_TENSORS,
    PASSES,
    SUM_LEVELS,
    SUM_SHIFT,
    NeighborModel,
    loudness,
    shifted_components,
)
from codec.quantize import SYMBOL_LIMIT
from codec.subbands import SUBBANDS
from fakes.bundles import context_tensors

Images = list[NDArray[np.int32]]
MODEL = NeighborModel(**context_tensors())
SILENT = NeighborModel(
    **{name: np.zeros(shape, dtype) for name, (dtype, shape) in NEIGHBOR_TENSORS.items()}
)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 999))


def extreme(sign: int) -> NeighborModel:
    """Weights and biases as large as their types and checks allow."""
    limits = np.iinfo(np.int16)
    return replace(
        MODEL,
        weights=np.full_like(MODEL.weights, limits.max if sign > 0 else limits.min),
        biases=np.full_like(MODEL.biases, sign << 24),
    )


def heard(count: int, rows: int, cols: int, seed: int) -> Images:
    """Loudness of a patch of random symbols."""
    rng = np.random.default_rng(seed)
    shapes = [(count, *band.shape(rows, cols)) for band in SUBBANDS]
    return [loudness(rng.integers(-3000, 3000, shape).astype(np.int32)) for shape in shapes]


def index_images(model: NeighborModel, groups: NDArray[np.int32], loud: Images) -> Images:
    """Scale index of every symbol; scales of the groups of shape (k, subbands)."""
    chosen = []
    for band, own in enumerate(loud):
        index = np.empty_like(own)
        within = model.within(band, loud)
        before = model.before(band, shifted_components(own, 1), shifted_components(own, 2))
        for number, (row, col) in enumerate(PASSES):
            first = within[number] + model.own(band, number, own)
            index[:, row::2, col::2] = model.indices(band, groups[:, band], first, before[number])
        chosen.append(index)
    return chosen


# ---- the index of one symbol, as docs/wire-format.md says it


BESIDE = ((0, -1), (0, 1), (-1, 0), (1, 0))
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def written_index(
    model: NeighborModel, group: int, loud: Images, band: int, place: tuple[int, int, int]
) -> int:
    """Index of the symbol at a place (k, row, col) in plain integers, neighbor by neighbor."""
    k, row, col = place
    number = PASSES.index((row % 2, col % 2))
    height, width = loud[band].shape[1:]

    def at(image: NDArray[Any], k: int, r: int, c: int) -> int:
        inside = k >= 0 and 0 <= r < image.shape[1] and 0 <= c < image.shape[2]
        return int(image[k, r, c]) if inside else 0

    def total(image: NDArray[Any], k: int, r: int, c: int, offsets: Any) -> int:
        return sum(at(image, k, r + down, c + right) for down, right in offsets)

    def coded(offsets: Any) -> Any:
        """Those in passes before this one."""
        return [
            (down, right)
            for down, right in offsets
            if PASSES.index(((row + down) % 2, (col + right) % 2)) < number
        ]

    own = loud[band]
    values = [0] * 14
    values[0] = total(own, k, row, col, coded(BESIDE[:2]))
    values[1] = total(own, k, row, col, coded(BESIDE[2:]))
    values[2] = total(own, k, row, col, coded(DIAGONAL))
    if band > 3 and 0 not in loud[band - 3].shape:
        above = loud[band - 3]
        r, c = min(row // 2, above.shape[1] - 1), min(col // 2, above.shape[2] - 1)
        values[3], values[4] = at(above, k, r, c), total(above, k, r, c, BESIDE)
    siblings = {1: (), 2: (-1,), 0: (-2, -1)}[band % 3] if band else ()
    for neighbor, sibling in zip((5, 7), siblings, strict=False):
        cut = loud[band + sibling][:, :height, :width]
        values[neighbor] = at(cut, k, row, col)
        values[neighbor + 1] = total(cut, k, row, col, BESIDE)
    values[9] = at(own, k - 1, row, col)
    values[10] = total(own, k - 1, row, col, BESIDE)
    values[11] = total(own, k - 1, row, col, DIAGONAL)
    values[12] = at(own, k - 2, row, col)
    values[13] = total(own, k - 2, row, col, BESIDE)
    weights = model.weights[band, number].tolist()
    biases = model.biases[band, number].tolist()
    sums = [
        bias + sum(w * v for w, v in zip(weights[part], values[part], strict=True))
        for bias, part in zip(biases, (slice(0, 9), slice(9, 14)), strict=True)
    ]
    if not group:
        return 0
    first, second = (min(max(s >> SUM_SHIFT, 0), SUM_LEVELS - 1) for s in sums)
    shift = int(model.shifts[band, min(group, GROUP_SCALES - 1), first, second])
    return min(max(2 * group - 1 + shift, 1), MAX_INDEX)


@given(SIZES, st.sampled_from([MODEL, extreme(1), extreme(-1)]))
def test_every_index_is_as_written(sizes: tuple[int, int, int, int], model: NeighborModel) -> None:
    """Whole images at once choose what the wire format says symbol by symbol; nothing overflows."""
    count, rows, cols, seed = sizes
    loud = heard(count, rows, cols, seed)
    groups = np.random.default_rng(seed).integers(0, 40, (count, len(SUBBANDS)), dtype=np.int32)
    for band, index in enumerate(index_images(model, groups, loud)):
        for place in np.ndindex(*index.shape):
            group = int(groups[place[0], band])
            assert index[place] == written_index(model, group, loud, band, place), (band, place)


@pytest.mark.parametrize("sign", [1, -1])
def test_no_sum_leaves_32_bits(sign: int) -> None:
    """The loudest neighbors under the largest weights and biases sum to what they sum to."""
    model, weight = extreme(sign), int(extreme(sign).weights[0, 0, 0])
    loud = [np.full_like(image, 96) for image in heard(3, 24, 24, 0)]
    band, number = len(SUBBANDS) - 1, 3
    before = model.before(band, loud[band], loud[band])[number]
    first = model.within(band, loud)[number] + model.own(band, number, loud[band])
    assert before.dtype == first.dtype == np.int32
    assert before[1, 2, 2] == (sign << 24) + weight * 96 * (1 + 4 + 4 + 1 + 4)
    assert first[1, 2, 2] == (sign << 24) + weight * 96 * (2 + 2 + 4 + 5 + 5 + 5)


@pytest.mark.parametrize("band", range(len(SUBBANDS)))
@pytest.mark.parametrize("number", range(len(PASSES)))
def test_only_what_is_coded_is_looked_at(band: int, number: int) -> None:
    """Whatever a pass and all after it hold, the indices up to and in that pass are the same."""
    count = 3
    loud, other = heard(count, 13, 11, 1), heard(count, 13, 11, 2)
    groups = np.full((count, len(SUBBANDS)), 20, dtype=np.int32)
    expected = index_images(MODEL, groups, loud)
    for k in range(count):
        changed = [a if b < band else z for b, (a, z) in enumerate(zip(loud, other, strict=True))]
        changed[band] = changed[band].copy()
        changed[band][:k] = loud[band][:k]
        for row, col in PASSES[:number]:
            changed[band][k, row::2, col::2] = loud[band][k, row::2, col::2]
        found = index_images(MODEL, groups, changed)
        for earlier in range(band):
            assert np.array_equal(found[earlier], expected[earlier])
        assert np.array_equal(found[band][:k], expected[band][:k])
        for row, col in PASSES[: number + 1]:
            assert np.array_equal(found[band][k, row::2, col::2], expected[band][k, row::2, col::2])


@given(SIZES)
def test_without_calibration_a_symbol_has_its_groups_table(
    sizes: tuple[int, int, int, int],
) -> None:
    """Contexts of zeros change nothing, whatever the neighbors; a group of zeros stays one."""
    rng = np.random.default_rng(sizes[3])
    groups = rng.integers(0, MAX_SCALE + 1, (sizes[0], len(SUBBANDS)), dtype=np.int32)
    for band, index in enumerate(index_images(SILENT, groups, heard(*sizes))):
        expected = np.maximum(2 * groups[:, band] - 1, 0)[:, None, None]
        assert np.array_equal(index, np.broadcast_to(expected, index.shape))


@pytest.mark.parametrize("shift", [-128, 127])
@pytest.mark.parametrize("group", [0, 1, GROUP_SCALES - 1, GROUP_SCALES, MAX_SCALE])
def test_an_index_stays_in_range(shift: int, group: int) -> None:
    """No map leads out of the tables, or from something to nothing and back."""
    model = replace(MODEL, shifts=np.full_like(MODEL.shifts, shift))
    groups = np.full((2, len(SUBBANDS)), group, dtype=np.int32)
    expected = min(max(2 * group - 1 + shift, 1), MAX_INDEX) if group else 0
    for index in index_images(model, groups, heard(2, 9, 9, 0)):
        assert index.dtype == np.int32
        assert (index == expected).all()


# ---- loudness


def test_no_machine_rounds_a_loudness_otherwise() -> None:
    """The one float logarithm is far from a tie at every magnitude it is taken of."""
    exact = LOUDNESS_PER_OCTAVE * np.log2(1 + np.arange(4096.0))
    assert np.abs(exact % 1 - 0.5).min() > 1e-5
    assert np.array_equal(loudness(np.arange(4096, dtype=np.int32)), np.rint(exact))


def test_loudness_has_no_sign_and_an_end() -> None:
    """The largest symbols of either sign are as loud as 4095."""
    symbols = np.array([0, 1, -1, 4095, -4096, SYMBOL_LIMIT, -SYMBOL_LIMIT, 2**25 + 126], np.int32)
    assert loudness(symbols).tolist() == [0, 8, 8, 96, 96, 96, 96, 96]
    assert loudness(symbols).dtype == np.int32


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("by", [1, 2])
def test_nothing_comes_before_the_first_component(count: int, by: int) -> None:
    """Each component finds the one `by` before it; the first find silence."""
    loud = np.arange(1, count + 1, dtype=np.int32)[:, None, None] * np.ones((1, 2, 3), np.int32)
    expected = [max(0, k + 1 - by) for k in range(count)]
    assert shifted_components(loud, by)[:, 0, 0].tolist() == expected
    assert shifted_components(loud, by).shape == loud.shape


# ---- what is no model


@pytest.mark.parametrize("name", NEIGHBOR_TENSORS)
def test_another_shape_or_type_is_refused(name: str) -> None:
    """Tensors that do not fit are named when the model is made."""
    array = getattr(MODEL, name)
    for wrong in (array[1:], array.astype(np.int64), array[..., None]):
        with pytest.raises(BundleError, match=rf"contexts\.{name} is"):
            replace(MODEL, **{name: wrong})


@pytest.mark.parametrize("value", [(1 << 24) + 1, -(1 << 24) - 1, np.iinfo(np.int32).min])
def test_a_bias_that_could_overflow_is_refused(value: int) -> None:
    """Biases leave room for what is added to them."""
    biases = MODEL.biases.copy()
    biases[3, 2, 1] = value
    with pytest.raises(BundleError, match=r"within 2\^24"):
        replace(MODEL, biases=biases)
