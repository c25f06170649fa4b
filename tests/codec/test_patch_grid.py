"""Rules of `codec.patch_grid`: every pixel belongs to exactly one patch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import TileError
from codec.patch_grid import PatchGrid, PatchLattice


@pytest.mark.parametrize(
    ("rows", "cols", "shape", "last"),
    [
        pytest.param(128, 128, (1, 1), (128, 128), id="exact"),
        pytest.param(129, 128, (2, 1), (1, 128), id="one row over"),
        pytest.param(1, 1, (1, 1), (1, 1), id="one pixel"),
        pytest.param(300, 1000, (3, 8), (44, 104), id="EnMAP's swath"),
    ],
)
def test_the_grid_covers_the_tile(
    rows: int, cols: int, shape: tuple[int, int], last: tuple[int, int]
) -> None:
    """Patches are whole but for the last row and column, which hold the rest."""
    grid = PatchGrid(tile_rows=rows, tile_cols=cols)
    assert grid.shape == shape
    assert len(grid) == shape[0] * shape[1]
    assert grid.extent(shape[0] - 1, shape[1] - 1).shape == last


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16, 24]))
def test_every_pixel_is_in_one_patch(rows: int, cols: int, patch_px: int) -> None:
    """Whatever the tile's size, no pixel is missed and none is coded twice."""
    grid = PatchGrid(tile_rows=rows, tile_cols=cols, patch_px=patch_px)
    seen = np.zeros((rows, cols), dtype=int)
    for row, col in grid:
        seen[grid.extent(row, col).slices] += 1
    assert (seen == 1).all()


def test_patches_are_counted_row_by_row() -> None:
    """The order of patches is the order of reading."""
    assert list(PatchGrid(tile_rows=9, tile_cols=17, patch_px=8)) == [
        *((0, 0), (0, 1), (0, 2)),
        *((1, 0), (1, 1), (1, 2)),
    ]


@pytest.mark.parametrize("field", ["tile_rows", "tile_cols", "patch_px"])
def test_no_length_is_zero(field: str) -> None:
    """A zero length is named, with its value."""
    lengths = {"tile_rows": 8, "tile_cols": 8, "patch_px": 8, field: 0}
    with pytest.raises(TileError, match=f"{field} must be positive, got 0"):
        PatchGrid(**lengths)


def test_a_patch_is_whole_latent_positions() -> None:
    """A patch edge that three halvings do not divide is refused."""
    with pytest.raises(TileError, match="multiple of 8, got 12"):
        PatchGrid(tile_rows=8, tile_cols=8, patch_px=12)


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_a_patch_outside_the_grid_is_refused(position: tuple[int, int]) -> None:
    """A position from a damaged frame never becomes a negative index."""
    grid = PatchGrid(tile_rows=9, tile_cols=17, patch_px=8)
    with pytest.raises(TileError, match="in a grid of 2×3"):
        grid.extent(*position)


def test_edges_are_where_patches_begin() -> None:
    """And where the last one ends."""
    grid = PatchGrid(tile_rows=300, tile_cols=128)
    assert (grid.row_edges, grid.col_edges) == ((0, 128, 256, 300), (0, 128))


def test_a_lattice_has_patches_between_its_edges() -> None:
    """Edges ascend from zero."""
    assert PatchLattice(row_edges=(0, 128, 130, 258), col_edges=(0, 7)).shape == (3, 1)
    for edges in ((), (0,), (1, 2), (0, 3, 3), (0, 3, 2)):
        with pytest.raises(TileError, match="col_edges must ascend from 0"):
            PatchLattice(row_edges=(0, 1), col_edges=edges)
