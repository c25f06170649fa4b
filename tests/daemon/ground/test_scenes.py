"""Where tiles of a scene sit, and what is no scene."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SceneError, ScenePlaceError, SceneSizeError, SceneUnlikeError
from daemon.ground.scenes import is_scene_stem, place, scene_stem
from daemon.ground.tile_products import TileProduct
from daemon.ground.web.tile_view import is_file_name

NORTH_UP = (30.0, 0.0, 600_000.0, 0.0, -30.0, 5_000_000.0)
GIB = 1 << 30


def product(row: int, col: int, height: int = 128, width: int = 200, **told: Any) -> TileProduct:
    """What is told of a tile, whole, of three bands."""
    fields: dict[str, Any] = {
        "path": Path(f"r{row}c{col}.npy"), "digest": f"{row} {col}", "sensor": "s", "scene": "x",
        "tile_row": row, "tile_col": col, "sequence": 0, "dtype": "int16",
        "shape": (3, height, width), "patch_px": 128, "transform": None,
        "quality": {"complete": True, "model": "ab"}, "patches": list,
    }  # fmt: skip
    return TileProduct(**(fields | told))


def on_ground(row_px: float, col_px: float) -> tuple[float, ...]:
    """The transform of a tile whose corner is there."""
    a, b, c, d, e, f = NORTH_UP
    return a, b, c + a * col_px, d, e, f + e * row_px


def places(*tiles: TileProduct, max_bytes: int = GIB) -> dict[tuple[int, int], tuple[int, int]]:
    """First pixel of each tile, by its position."""
    return {
        tile.product.place: (tile.row, tile.col) for tile in place(list(tiles), max_bytes).tiles
    }


def test_rows_and_columns_lie_side_by_side() -> None:
    """Without a place on the ground; counted from the first that is there."""
    assert places(
        product(3, 7), product(3, 8, width=72), product(4, 7, 60), product(4, 8, 60, width=72)
    ) == {(3, 7): (0, 0), (3, 8): (0, 200), (4, 7): (128, 0), (4, 8): (128, 200)}


def test_a_row_that_is_missing_is_as_high_as_the_highest() -> None:
    """Until it comes; positions of which there is no tile are named."""
    scene = place([product(0, 0, 100), product(2, 0), product(5, 0, 7)], GIB)

    assert [tile.row for tile in scene.tiles] == [0, 228, 612]
    assert scene.missing == ((1, 0), (3, 0), (4, 0))
    assert scene.shape == (3, 619, 200)
    assert not scene.complete


def test_a_place_on_the_ground_wins() -> None:
    """Whatever the numbers of tiles say: a scene may be flown from south to north."""
    tiles = [product(n, 0, transform=on_ground(128 * (2 - n) + 9, 0.001)) for n in range(3)]
    assert places(*tiles) == {(0, 0): (256, 0), (1, 0): (128, 0), (2, 0): (0, 0)}


def test_a_grid_of_pixels_may_be_rotated() -> None:
    """As tiles of a swath across track lie."""
    a, b, d, e = 20.0, 10.0, 10.0, -20.0
    tiles = [
        product(row, col, transform=(a, b, 7 + a * x + b * y, d, e, 9 + d * x + e * y))
        for row, col, y, x in ((0, 0, 0, 0), (0, 1, 0, 200), (1, 0, 128, 0))
    ]
    assert places(*tiles) == {(0, 0): (0, 0), (0, 1): (0, 200), (1, 0): (128, 0)}


def test_patches_end_where_tiles_do() -> None:
    """So that each patch of a tile is one of the scene; gaps are cut into patches as well."""
    grid = place([product(0, 0, 130), product(2, 0, 130)], GIB).grid

    assert grid.row_edges == (0, 128, 130, 258, 260, 388, 390)
    assert grid.col_edges == (0, 128, 200)
    assert grid.shape == (6, 2)


@pytest.mark.parametrize("complete", [True, False])
def test_a_scene_is_complete_if_all_tiles_are(complete: bool) -> None:
    """All positions are there, and all patches came."""
    last = product(1, 0, quality={"complete": complete, "model": "ab"})
    assert place([product(0, 0), last], GIB).complete == complete


def test_a_scene_with_a_gap_is_not_complete() -> None:
    """Though no position is missing: its patches did not come."""
    tiles = [product(n, 0, transform=on_ground(129 * n, 0)) for n in range(2)]
    assert place(tiles, GIB).missing == ()
    assert not place(tiles, GIB).complete


UNFIT = {
    "type": (SceneUnlikeError, product(0, 0), product(1, 0, dtype="uint16")),
    "bands": (SceneUnlikeError, product(0, 0), product(1, 0, shape=(4, 128, 200))),
    "patches": (SceneUnlikeError, product(0, 0), product(1, 0, patch_px=64)),
    "place on the ground": (SceneUnlikeError, product(0, 0), product(1, 0, transform=NORTH_UP)),
    "heights of a row": (ScenePlaceError, product(0, 0), product(0, 1, 64)),
    "widths of a column": (ScenePlaceError, product(0, 0), product(1, 0, width=64)),
    "overlap": (
        ScenePlaceError,
        product(0, 0, transform=on_ground(0, 0)),
        product(1, 0, transform=on_ground(127, 0)),
    ),
    "same place": (
        ScenePlaceError,
        product(0, 0, transform=NORTH_UP),
        product(1, 0, transform=NORTH_UP),
    ),
    "between pixels": (
        ScenePlaceError,
        product(0, 0, transform=on_ground(0, 0)),
        product(1, 0, transform=on_ground(128.4, 0)),
    ),
    "size of pixels": (
        ScenePlaceError,
        product(0, 0, transform=NORTH_UP),
        product(1, 0, transform=(10.0, *NORTH_UP[1:])),
    ),
    "no pixels": (
        ScenePlaceError,
        product(0, 0, transform=(0.0,) * 6),
        product(1, 0, transform=(0.0,) * 6),
    ),
    "far apart": (SceneSizeError, product(0, 0), product(2**32 - 1, 0)),
    "farther than numbers reach": (
        ScenePlaceError,
        product(0, 0, transform=(1.0, 0.0, 1e308, 0.0, -1.0, 0.0)),
        product(0, 1, transform=(1.0, 0.0, -1e308, 0.0, -1.0, 0.0)),
    ),
    "larger pixels than numbers reach": (
        ScenePlaceError,
        product(0, 0, transform=(1e200, 0.0, 0.0, 0.0, -1e200, 0.0)),
        product(0, 1, transform=(1e200, 0.0, 2e202, 0.0, -1e200, 0.0)),
    ),
    "too many patches": (
        SceneSizeError,
        product(0, 0, patch_px=8, shape=(1, 8, 8), transform=on_ground(0, 0)),
        product(1, 0, patch_px=8, shape=(1, 8, 8), transform=on_ground(4096, 4096)),
    ),
    "too many positions": (
        SceneSizeError, product(0, 0, 1, 1), product(300, 300, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_refused(case: str) -> None:
    """With the reason; the tiles stay as they are."""
    error, *tiles = UNFIT[case]
    with pytest.raises(error) as told:
        place(tiles, GIB)
    assert isinstance(told.value, SceneError)
    assert str(told.value)


def test_a_scene_that_is_too_large_is_refused() -> None:
    """At the setting's limit it is none yet."""
    tiles = [product(0, 0), product(1, 0)]
    size_bytes = 3 * 256 * 200 * 2
    assert place(tiles, size_bytes).shape == (3, 256, 200)
    with pytest.raises(SceneSizeError, match=f"{size_bytes} bytes"):
        place(tiles, size_bytes - 1)


@given(st.text(max_size=200), st.text(max_size=20))
def test_every_name_is_a_plain_file_name(scene: str, sensor: str) -> None:
    """As those of tiles are, and none is a tile's."""
    stem = scene_stem(sensor, scene)
    assert is_file_name(f"{stem}.quality.json")
    assert not re.search(r"_r\d+c\d+_\d+_[0-9a-f]{8}$", stem)
    assert is_scene_stem(stem)
    assert not is_scene_stem(f"{stem}_r000c000_000000_81648ac4")


def test_names_that_would_be_equal_are_kept_apart() -> None:
    """Of two scenes, or two sensors of a scene."""
    assert len({scene_stem(*one) for one in (("", "a b"), ("", "a_b"), ("s", "a b"))}) == 3


def test_tiles_are_in_the_order_of_their_places() -> None:
    """Whatever order they are told in: the product is the same."""
    tiles = [product(row, col) for row in range(2) for col in range(2)]
    assert place(tiles, GIB) == place(tiles[::-1], GIB)
    assert replace(place(tiles, GIB).tiles[0], row=0).product.place == (0, 0)
