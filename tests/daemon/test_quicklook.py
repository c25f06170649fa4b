"""Rules of `daemon.quicklook`: the picture shows what was measured, of any tile."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from daemon.errors import OutputError
from daemon.quicklook import (
    HATCH,
    MARGIN_PX,
    color_bands,
    render,
    rms_error,
    write_quicklook,
)

DATA = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(5)
TILE = Tile(
    samples=(RNG.random((4, 32, 48)) * 3000).astype(np.int16),
    info=TileInfo(nodata=-32768.0, wavelengths_nm=(470.0, 550.0, 640.0, 900.0)),
)


def changed(tile: Tile, by: int) -> Tile:
    """The tile with every valid sample raised."""
    samples = np.where(tile.valid(), tile.samples + by, tile.samples)
    return replace(tile, samples=samples.astype(tile.samples.dtype))


def test_the_demo_scenes(tmp_path: Path) -> None:
    """Both shipped scenes give a PNG that is there whole, three panels wide."""
    for path in (*find_scenes(DATA / "hyspecnet-11k"), DATA / "aviris_salton_sea.npz"):
        tile = read_tile(path)
        target = tmp_path / "made" / "a.png"

        write_quicklook(tile, changed(tile, 9), target, note="0.2 bits per sample")

        with Image.open(target) as picture:
            picture.load()
            assert picture.width > 2.5 * picture.height
        assert [p.name for p in target.parent.iterdir()] == ["a.png"]


def test_equal_tiles_look_equal() -> None:
    """Before and after share one stretch: equal samples are equal pixels."""
    picture = np.asarray(render(TILE, TILE))
    width = 48 * 8
    panels = [
        picture[MARGIN_PX : MARGIN_PX + 32 * 8, left : left + width]
        for left in (MARGIN_PX, 2 * MARGIN_PX + width)
    ]
    np.testing.assert_array_equal(*panels)


@pytest.mark.parametrize(
    ("wavelengths_nm", "lost", "bands", "is_true_color"),
    [
        ((470.0, 550.0, 640.0, 900.0), [], (2, 1, 0), True),
        ((560.0, 550.0, 640.0, 470.0), [1], (2, 0, 3), True),
        ((470.0, 550.0, 900.0, 1000.0), [], (3, 2, 1), False),
        ((), [], (3, 2, 1), False),
        ((), [0, 1, 2], (3, 3, 3), False),
        ((), [0, 1, 2, 3], (0, 0, 0), False),
    ],
)
def test_the_bands_shown(
    wavelengths_nm: tuple[float, ...],
    lost: list[int],
    bands: tuple[int, int, int],
    is_true_color: bool,
) -> None:
    """The valid bands nearest red, green and blue; else some, which are not called true."""
    samples = TILE.samples.copy()
    samples[lost] = -32768
    tile = Tile(samples=samples, info=replace(TILE.info, wavelengths_nm=wavelengths_nm))
    assert color_bands(tile) == (bands, is_true_color)


def test_the_error_is_in_reflectance() -> None:
    """The error of a pixel is the RMS over the bands valid on both sides, over the scale."""
    before, after = TILE.samples.copy(), TILE.samples.copy()
    after[0] += 30
    after[1] -= 40
    before[2] = after[3] = -32768
    after[:, 5, 5] = -32768

    error, known = rms_error(replace(TILE, samples=before), replace(TILE, samples=after))

    assert error[0, 0] == pytest.approx(np.sqrt((30**2 + 40**2) / 2) / 10_000)
    assert not known[5, 5]
    assert int(known.sum()) == 32 * 48 - 1


def test_lost_pixels_are_hatched() -> None:
    """A lost patch is stripes, in the picture and in the error, and never passes for black."""
    samples = TILE.samples.copy()
    samples[:, :16, :16] = -32768
    picture = np.asarray(render(TILE, replace(TILE, samples=samples)))

    left = 2 * MARGIN_PX + 48 * 8
    corner = picture[MARGIN_PX : MARGIN_PX + 16 * 8, left : left + 16 * 8].reshape(-1, 3)
    assert {tuple(int(v) for v in pixel) for pixel in corner} == set(HATCH)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 50), (2, 500, 3)])
def test_any_tile_has_a_picture(dtype: str, shape: tuple[int, int, int]) -> None:
    """One pixel, one line, flat samples or none valid: there is a picture, and no warning."""
    flat = Tile(samples=np.full(shape, 7, dtype), info=TileInfo())
    empty = Tile(samples=flat.samples, info=TileInfo(nodata=7.0))
    for tile in (flat, empty):
        assert render(tile, tile).size[0] > 600


def test_nan_has_no_color() -> None:
    """NaN in a band that is shown is drawn, not warned about."""
    samples = TILE.samples.astype(np.float32)
    samples[2, 3, 3], samples[:, 4, 4] = np.nan, np.nan
    tile = Tile(samples=samples, info=TileInfo(wavelengths_nm=TILE.info.wavelengths_nm))
    assert render(tile, tile).mode == "RGB"


def test_errors_name_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that cannot be written and a missing Pillow are one line each."""
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png"):
        write_quicklook(TILE, TILE, tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(OutputError, match=r"pip install prismlink\[ground\]"):
        render(TILE, TILE)
