"""The picture of a tile: pixels that differ, their spectra in reflectance, and a sound PNG."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.tile import Tile, TileInfo
from daemon.errors import OutputError
from daemon.spectra import PIXELS, choose_pixels, spectrum, with_gaps, write_spectra
from fakes import cubes

CENTERS = tuple(float(nm) for nm in range(420, 920, 50))


def two_halves() -> Tile:
    """Bright on the left, dark on the right, fill in between."""
    samples = np.full((10, 40, 40), 1000, dtype=np.int16)
    samples[:, :, 20:] = 100
    samples[:, :, 18:22] = -1
    return Tile(samples=samples, info=TileInfo(nodata=-1.0, wavelengths_nm=CENTERS))


def test_pixels_differ_and_are_measured() -> None:
    """The first two are of the two kinds there are; none is fill; none are neighbors."""
    tile = two_halves()
    chosen = choose_pixels(tile)

    assert len(chosen) == PIXELS
    assert {tile.samples[0, row, col] for row, col in chosen[:2]} == {1000, 100}
    assert all(tile.valid()[:, row, col].all() for row, col in chosen)
    apart = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in chosen for b in chosen if a is not b]
    assert min(apart) > 4


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 30), (2, 3)])
def test_small_tiles_have_few_pixels(rows: int, cols: int) -> None:
    """As many as there are, at most."""
    chosen = choose_pixels(cubes.tile(bands=4, rows=rows, cols=cols))
    assert 1 <= len(set(chosen)) == len(chosen) <= min(PIXELS, rows * cols)


def test_a_tile_of_fill_has_none() -> None:
    """There is nothing to show."""
    assert choose_pixels(cubes.tile(bands=3, rows=4, cols=4, nodata=-1.0, fill_pixels=1.0)) == []


def test_a_spectrum_is_reflectance() -> None:
    """Whatever the samples' scale; NaN where nothing was measured."""
    tile = two_halves()
    samples = tile.samples.copy()
    samples[3, 5, 5] = -1
    found = spectrum(replace(tile, samples=samples), 5, 5)

    assert np.isnan(found).tolist() == [False] * 3 + [True] + [False] * 6
    assert found[0] == 0.1


def test_a_line_ends_where_bands_were_left_out() -> None:
    """And where another detector begins; nowhere else, be the steps as usual as they may."""
    x = np.array([420.0, 430.0, 441.0, 460.0, 1760.0, 1939.0, 1950.0, 1945.0, 1955.0])
    broken, values = with_gaps(x, np.ones(9))
    assert np.isnan(broken).tolist() == np.isnan(values).tolist()
    runs = np.split(broken, np.flatnonzero(np.isnan(broken)))
    assert [run[~np.isnan(run)].tolist() for run in runs] == [
        [420.0, 430.0, 441.0, 460.0], [1760.0], [1939.0, 1950.0], [1945.0, 1955.0]
    ]  # fmt: skip
    for even in ([500.0], [1.0, 2.0, 3.0], [490.0, 560.0, 665.0, 842.0]):
        assert with_gaps(np.array(even), np.ones(len(even)))[0].tolist() == even


@pytest.mark.parametrize("tile", [
    pytest.param(cubes.tile(rows=30, cols=50, bands=10, wavelengths_nm=CENTERS), id="visible"),
    pytest.param(
        cubes.tile(rows=30, cols=50, bands=4, wavelengths_nm=(450.0, 500.0, 550.0, 2200.0)),
        id="a band by itself",
    ),
    pytest.param(cubes.tile(dtype="float32", mean_dn=0.2, noise_dn=0.001), id="no wavelengths"),
    pytest.param(
        cubes.tile(bands=3, rows=9, cols=9, nodata=-1.0, fill_pixels=1.0), id="nothing valid"
    ),
])  # fmt: skip
def test_the_picture_is_a_png(tile: Tile, tmp_path: Path) -> None:
    """Of one size, not of one color, whatever is known of the tile."""
    write_spectra(tile, tmp_path / "x.png", "title")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (1440, 600)
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board has none."""

    def refuse(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(OutputError, match=r"pip install prismlink\[ground\]"):
        write_spectra(two_halves(), tmp_path / "x.png", "title")
