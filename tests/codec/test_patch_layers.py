"""What is known of patches, and which samples are valid: what came and was measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from codec.errors import TileError
from fakes import cubes
from fakes.layers import with_holes


def test_a_sample_is_valid_if_it_came_and_was_measured() -> None:
    """Fill in a patch that came is not; nor is anything of a patch that did not come."""
    tile, layers = with_holes(cubes.tile(bands=3, rows=130, cols=140, nodata=-1.0), (1, 0))
    tile.samples[2, 5, 7] = -1
    expected = np.ones((3, 130, 140), dtype=np.bool_)
    expected[2, 5, 7] = expected[:, 128:, :128] = False

    np.testing.assert_array_equal(layers.valid(tile), expected)


def test_a_hole_that_no_value_marks_is_not_valid() -> None:
    """Zero is a sample like any other where no fill value is named; only the layers tell."""
    tile, layers = with_holes(cubes.tile(bands=1, rows=8, cols=140, dtype="uint16"), (0, 1))

    assert tile.samples[:, :, 128:].max() == 0
    assert tile.valid().all()
    assert layers.valid(tile).sum() == 8 * 128


def test_what_does_not_fit_is_refused() -> None:
    """Arrays of another grid, and tiles of another size."""
    _, layers = with_holes(cubes.tile(bands=1, rows=8, cols=140), (0, 1))
    with pytest.raises(TileError, match=r"step is of shape \(2, 2\)"):
        replace(layers, step=np.full((2, 2), math.nan, np.float32))
    with pytest.raises(TileError, match="on a grid of"):
        layers.valid(cubes.tile(bands=1, rows=8, cols=141))
