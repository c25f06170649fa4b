"""Rules of `training.bands`: by wavelength where it is known, evenly where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.tile import Tile, TileInfo
from training.bands import spread, wavelengths_of
from training.hyspecnet import USABLE


def measured(bands: int, wavelengths_nm: tuple[float, ...] = ()) -> Tile:
    """A tile of one pixel, everything of it measured."""
    info = TileInfo(reflectance_scale=1.0, wavelengths_nm=wavelengths_nm)
    return Tile(samples=np.ones((bands, 1, 1), np.float32), info=info)


@pytest.mark.parametrize("bands", [202, 224])
@pytest.mark.parametrize("descending", [False, True])
def test_known_wavelengths_meet(bands: int, descending: bool) -> None:
    """What is linear in wavelength stays what it is, whatever the order of the bands."""
    centers = np.linspace(400, 2460, 80)[:: -1 if descending else 1]
    found = spread(centers / 5000, measured(80, tuple(centers)), bands)
    wanted = wavelengths_of(bands)
    assert wanted is not None
    assert np.allclose(found, np.clip(wanted, 400, 2460) / 5000, atol=1e-4)


def test_other_numbers_are_spread_evenly() -> None:
    """The first stays the first, the last the last; EnMAP has its wavelengths, others none."""
    values = np.arange(7.0)[:, None] * np.ones((1, 3))
    found = spread(values, measured(7, tuple(np.linspace(500, 900, 7))), 13)
    assert np.allclose(found[:, 0], np.linspace(0, 6, 13))
    assert found.shape == (13, 3)
    assert wavelengths_of(13) is None
    assert np.array_equal(wavelengths_of(202), np.array(ENMAP_WAVELENGTHS_NM)[USABLE])
    assert (spread(np.array([0.5]), measured(1), 4) == 0.5).all()


def test_bands_that_are_fill_take_no_part() -> None:
    """Their neighbors stand for them."""
    samples = np.stack([np.full((2, 2), v, np.int16) for v in (1000, -32768, 3000, 4000)])
    info = TileInfo(nodata=-32768.0, wavelengths_nm=(500.0, 1000.0, 1500.0, 2000.0))
    tile = Tile(samples=samples, info=info)
    found = spread(samples[[0, 2, 3]].astype(np.float32), tile, 224)
    at_1000 = int(np.argmin(np.abs(np.array(ENMAP_WAVELENGTHS_NM) - 1000)))
    assert found[at_1000] == pytest.approx(2000, rel=0.01)
