"""Rules of `codec.contexts`: what a group is, and how large the encoder says it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from codec.contexts import MAX_INDEX, MAX_SCALE, ScaleModel, scale_index, shortcut_groups
from codec.errors import BundleError
from codec.quantize import SYMBOL_LIMIT
from codec.shortcut import Wavelet
from codec.tables import scale_of

GROUPS = np.array([1, 0, 2, 2], dtype=np.int16)
MODEL = ScaleModel(groups=GROUPS)


@given(
    arrays(
        np.int32,
        st.tuples(st.integers(1, 3).map(lambda k: 4 * k), st.integers(1, 5)),
        elements=st.sampled_from([0, 0, 0, 1, -1, 100, SYMBOL_LIMIT, -SYMBOL_LIMIT]),
    )
)
def test_a_scale_of_zero_is_a_group_of_zeros(symbols: NDArray[Any]) -> None:
    """No symbol falls into a group that is not coded, and every scale has a table."""
    scales = MODEL.scales(symbols)
    assert scales.shape == (len(symbols) // 4, 3)
    assert scales.dtype == np.int32
    assert 0 <= scales.min(initial=0) <= scales.max(initial=0) <= MAX_SCALE
    per_channel = scales[:, GROUPS].ravel()
    assert not symbols[per_channel == 0].any()
    assert symbols.reshape(len(symbols), -1)[per_channel > 0].any() == symbols.any()


@pytest.mark.parametrize("scale", [1, 2, 13, 21, 30])
def test_a_scale_is_its_mean_magnitude(scale: int) -> None:
    """Half octaves from 1/64 up: the index of a scale is that of the table made for its mean."""
    mean = scale_of(int(scale_index(np.array([scale], dtype=np.int32))[0]))
    assert mean == 2.0 ** ((scale - 1) / 2 - 6)
    symbols = np.zeros((4, 256), dtype=np.int32)
    symbols[1, 0] = round(mean * 256)
    assert MODEL.scales(symbols).tolist() == [[scale, 0, 0]]


def test_tiny_means_have_the_first_scale() -> None:
    """A mean below the smallest table's is not "all zero": its symbols must be coded."""
    symbols = np.zeros((1, 1 << 20), dtype=np.int32)
    symbols[0, 0] = 1
    one_group = ScaleModel(groups=np.zeros(1, dtype=np.int16))
    assert one_group.scales(symbols).tolist() == [[1]]


def test_indices_of_scales_stay_in_range() -> None:
    """Every scale is an index, ascending, and the largest is the last there is."""
    index = scale_index(np.arange(MAX_SCALE + 1, dtype=np.int32))
    assert index.dtype == np.int32
    assert index[:4].tolist() == [0, 1, 3, 5]
    assert index.max() == MAX_INDEX


def test_means_are_over_all_channels_of_a_group() -> None:
    """Each channel is told how large its group is, not how large it is itself."""
    model = ScaleModel(groups=np.array([0, 1, 1], dtype=np.int16))
    symbols = np.array([[4, -4], [1, -1], [0, 3], [0, 0], [2, 2], [0, 0]], dtype=np.int32)
    assert model.means(symbols).tolist() == [[4, 1.25], [0, 1]]
    assert model.channel_means(symbols).tolist() == [4, 1.25, 1.25, 0, 1, 1]


def test_groups_are_in_any_order() -> None:
    """A group is where the model says, not where its channels come first."""
    symbols = np.array([[8, 8], [1, 1], [2, 2], [2, 2]], dtype=np.int32)
    assert MODEL.count == 3
    assert MODEL.means(symbols).tolist() == [[1, 8, 2]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        pytest.param(GROUPS.astype(np.int32), "groups are int32", id="type"),
        pytest.param(GROUPS[:0], "groups are", id="no groups"),
        pytest.param(GROUPS[None], "groups are", id="two axes"),
        pytest.param(GROUPS * 2, "without a gap", id="gap"),
        pytest.param(GROUPS - 1, "without a gap", id="negative"),
    ],
)
def test_a_damaged_model_is_refused(groups: NDArray[Any], message: str) -> None:
    """A model whose arithmetic could fail in flight does not exist."""
    with pytest.raises(BundleError, match=message):
        ScaleModel(groups=groups)


def test_shortcut_groups_are_64() -> None:
    """A shortcut has one group per channel of a component."""
    assert shortcut_groups(Wavelet.GROUPS).dtype == np.int16
    with pytest.raises(BundleError, match="3 groups for 64 channels"):
        shortcut_groups((0, 1, 2))
