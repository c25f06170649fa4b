"""Rules of `codec.contexts`: both ends choose the same table for every channel, in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codec.contexts import (
    DELTA_TABLE,
    MAX_INDEX,
    MAX_OFFSET,
    ScaleModel,
    shortcut_groups,
)
from codec.errors import BundleError
from codec.shortcut import Wavelet
from codec.tables import ALPHABET_LIMIT, scale_of

GROUPS = np.array([1, 0, 2, 2], dtype=np.int16)
OFFSETS = np.array([50, 40, 30, 20, 48, 38, 28, 18], dtype=np.int16)
MODEL = ScaleModel(offsets=OFFSETS, groups=GROUPS)

levels_of = arrays(np.int32, st.integers(1, 4), elements=st.integers(-128, 255))


def test_the_prediction_is_integer_arithmetic() -> None:
    """Half a table step per eighth of an octave, rounded down, for every channel."""
    predicted = MODEL.predict(np.array([8, -3], dtype=np.int32), step_offset=5)
    assert predicted.dtype == np.int32
    assert predicted.tolist() == [26, 21, 16, 11, 20, 15, 10, 5]


def test_components_beyond_the_described_take_the_last() -> None:
    """A tile may send more components than the bundle describes."""
    predicted = MODEL.predict(np.zeros(4, dtype=np.int32), 0).reshape(4, 4)
    assert np.array_equal(predicted[2], predicted[1])
    assert np.array_equal(predicted[3], predicted[1])


@given(
    levels_of,
    st.integers(-128, 127),
    arrays(np.int16, 8, elements=st.integers(-MAX_OFFSET, MAX_OFFSET)),
    st.data(),
)
def test_a_row_of_index_zero_is_all_zero(
    levels: NDArray[Any], step_offset: int, offsets: NDArray[Any], data: st.DataObject
) -> None:
    """However wrong the prediction, no symbol falls into a channel that is not coded."""
    model = ScaleModel(offsets=offsets, groups=GROUPS)
    shape = (levels.size * 4, 3)
    sizes = st.sampled_from([0, 0, 0, 1, -1, 100, 2**24])
    symbols = data.draw(arrays(np.int32, shape, elements=sizes))
    predicted = model.predict(levels, step_offset)
    deltas = model.deltas(symbols, predicted, levels.size)
    index = model.indices(deltas, predicted, levels.size)
    assert np.abs(deltas).max() <= ALPHABET_LIMIT
    assert 0 <= index.min() <= index.max() <= MAX_INDEX
    assert not symbols[index == 0].any()


@given(levels_of, arrays(np.int32, 12, elements=st.integers(-ALPHABET_LIMIT, ALPHABET_LIMIT + 1)))
def test_any_delta_gives_an_index(levels: NDArray[Any], deltas: NDArray[Any]) -> None:
    """Deltas from a hostile frame never lead outside the tables."""
    predicted = MODEL.predict(levels, 0)
    index = MODEL.indices(deltas[: MODEL.group_count(levels.size)], predicted, levels.size)
    assert index.shape == (levels.size * 4,)
    assert 0 <= index.min() <= index.max() <= MAX_INDEX


def test_a_good_prediction_costs_no_delta() -> None:
    """Where magnitudes are as predicted, every delta is zero."""
    levels = np.array([20], dtype=np.int32)
    predicted = MODEL.predict(levels, 0)
    magnitude = np.array([round(scale_of(int(index)) * 1000) for index in predicted])
    symbols = np.repeat(magnitude[:, None], 2, axis=1).astype(np.int32)
    # A thousand times as large: ten octaves, forty tables, in every group.
    assert (MODEL.deltas(symbols, predicted, 1) == 40).all()


def test_an_all_zero_group_is_index_zero() -> None:
    """A group without a symbol costs its delta and nothing else."""
    levels = np.array([20], dtype=np.int32)
    symbols = np.array([[5, 5], [0, 0], [7, 7], [7, 7]], dtype=np.int32)
    predicted = MODEL.predict(levels, 0)
    index = MODEL.indices(MODEL.deltas(symbols, predicted, 1), predicted, 1)
    assert (index == 0).tolist() == [False, True, False, False]


def test_deltas_have_a_table_of_mean_one() -> None:
    """Deltas are small; the table that codes them expects so."""
    assert scale_of(DELTA_TABLE) == 1


def test_groups_of_components_are_apart() -> None:
    """Each component has groups of its own, in any order within the component."""
    assert MODEL.channel_groups(2).tolist() == [1, 0, 2, 2, 4, 3, 5, 5]
    assert MODEL.group_count(2) == 6
    assert MODEL.group_count(0) == MODEL.channel_groups(0).size == 0


@pytest.mark.parametrize(
    ("offsets", "groups", "message"),
    [
        pytest.param(OFFSETS.astype(np.int32), GROUPS, "offsets are int32", id="type"),
        pytest.param(OFFSETS[:0], GROUPS, "offsets are", id="no offsets"),
        pytest.param(OFFSETS[:7], GROUPS, "7 offsets for 4 groups", id="half a component"),
        pytest.param(OFFSETS, GROUPS[:0], "groups are", id="no groups"),
        pytest.param(OFFSETS, GROUPS[None], "groups are", id="two axes"),
        pytest.param(OFFSETS, GROUPS * 2, "without a gap", id="gap"),
        pytest.param(OFFSETS, GROUPS - 1, "without a gap", id="negative"),
        pytest.param(OFFSETS * 100, GROUPS, "eighths of an octave", id="overflow"),
    ],
)
def test_a_damaged_model_is_refused(
    offsets: NDArray[Any], groups: NDArray[Any], message: str
) -> None:
    """A model whose arithmetic could fail in flight does not exist."""
    with pytest.raises(BundleError, match=message):
        ScaleModel(offsets=offsets, groups=groups)


def test_shortcut_groups_are_64() -> None:
    """A shortcut has one group per channel of a component."""
    assert shortcut_groups(Wavelet.GROUPS).dtype == np.int16
    with pytest.raises(BundleError, match="3 groups for 64 channels"):
        shortcut_groups((0, 1, 2))


def test_group_means_are_over_all_channels_of_a_group() -> None:
    """Each channel is told how large its group is, not how large it is itself."""
    model = ScaleModel(
        offsets=np.zeros(3, dtype=np.int16), groups=np.array([0, 1, 1], dtype=np.int16)
    )
    symbols = np.array([[4, -4], [1, -1], [0, 3], [0, 0], [2, 2], [0, 0]], dtype=np.int32)
    assert model.group_means(symbols, 2).tolist() == [4, 1.25, 1.25, 0, 1, 1]
