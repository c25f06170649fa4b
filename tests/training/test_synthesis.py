"""Rules of `training.synthesis`: scenes like real ones, alike for a seed, and without an end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codec.enmap_bands import ENMAP_WAVELENGTHS_NM
from codec.tile import Tile, TileInfo
from codec.tile_files import read_tile
from fakes.patches import REAL
from training.errors import ScenesError
from training.hyspecnet import FILL, FLAGS, UNUSABLE_BANDS, USABLE
from training.scenes import Scene
from training.synthesis import (
    GROUND_PERIOD,
    LIGHT_PERIOD,
    Library,
    World,
    at_enmap_bands,
    measure_library,
    statistics,
)

SALTON = REAL.parent / "aviris_salton_sea.npz"


@pytest.fixture(scope="module")
def land() -> Scene:
    """The shipped scene of land."""
    return Scene(name="salton", group="salton", tile=read_tile(SALTON))


@pytest.fixture(scope="module")
def library(land: Scene) -> Library:
    """What it is made of."""
    return measure_library([land])


def mixture(noise: float, seed: int = 0) -> tuple[Tile, np.ndarray]:
    """Three spectra over EnMAP's bands, mixed, with noise; the spectra."""
    rng = np.random.default_rng(seed)
    place = np.linspace(0, 1, 224)
    spectra = np.stack([0.1 + 0.5 * place, 0.6 - 0.4 * place, 0.3 + 0.2 * np.sin(9 * place)])
    shares = rng.dirichlet((0.4, 0.4, 0.4), (60, 60)).transpose(2, 0, 1)
    shares[:, 10:12, 10:12] = np.array([1, 0, 0])[:, None, None]
    shares[:, 20:22, 20:22] = np.array([0, 1, 0])[:, None, None]
    shares[:, 30:32, 30:32] = np.array([0, 0, 1])[:, None, None]
    cube = np.tensordot(spectra.T, shares, 1) + rng.normal(0, noise, (224, 60, 60))
    info = TileInfo(reflectance_scale=1.0, wavelengths_nm=ENMAP_WAVELENGTHS_NM)
    return Tile(samples=cube.astype(np.float32), info=info), spectra


def test_spectra_and_noise_are_found() -> None:
    """The corners of a mixture are among the spectra, and its noise is what was put in."""
    tile, spectra = mixture(noise=0.002)
    found = measure_library([Scene(name="m", group="m", tile=tile)])
    for spectrum in spectra:
        assert np.abs(found.spectra - spectrum).max(axis=1).min() < 0.02
    assert np.median(found.noise) == pytest.approx(0.002, rel=0.3)


def test_a_scene_is_plausible(land: Scene, library: Library) -> None:
    """Eigenvalues, neighboring bands and the spatial spectrum are as of real land."""
    real = statistics(at_enmap_bands(land.tile))
    apart = []
    for seed in range(4):
        samples, _ = World(library, 128, seed, cloudiness=0).lines(0, 128)
        made = statistics(samples[USABLE].astype(np.float32) / 10_000)
        assert made.band_correlation > 0.99
        assert made.spatial_exponent == pytest.approx(real.spatial_exponent, abs=0.8)
        apart.append(np.abs(np.log10(made.eigenvalues[:64] / real.eigenvalues[:64])))
    # They span six orders of magnitude.
    assert np.median(apart) < 0.5
    assert np.max(apart) < 1.5


def test_a_strip_has_no_seam_and_no_end(library: Library) -> None:
    """Pieces go on where the last one ended, past every period; a seed repeats itself."""
    world = World(library, 32, 7, cloudiness=0)
    quiet = Library(spectra=library.spectra, noise=0 * library.noise, sources=())
    still = World(quiet, 32, 7, cloudiness=0)
    for seam in (64, LIGHT_PERIOD, GROUND_PERIOD, 5 * GROUND_PERIOD * LIGHT_PERIOD):
        piece, _ = still.lines(seam - 8, 16)
        steps = np.abs(np.diff(piece[USABLE].astype(float), axis=1)).mean(axis=(0, 2))
        assert steps[7] < 3 * np.delete(steps, 7).mean()
    whole, first, second = (still.lines(*part)[0] for part in ((3, 20), (3, 8), (11, 12)))
    assert np.array_equal(whole, np.concatenate((first, second), axis=1))
    assert np.array_equal(world.lines(5, 9)[0], World(library, 32, 7, cloudiness=0).lines(5, 9)[0])
    assert not np.array_equal(world.lines(0, 9)[0], World(library, 32, 8).lines(0, 9)[0])


def test_no_two_tiles_share_their_noise(library: Library) -> None:
    """Or a network would learn it on one and be tested on the other."""
    one, other = (
        np.diff(World(library, 64, seed, cloudiness=0).lines(0, 64)[0][100].astype(float))
        for seed in (1, 2)
    )
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


def test_what_was_not_measured_is_not_measured_on(land: Scene) -> None:
    """Fill of any kind changes neither spectra nor noise much; a scene of fill alone is named."""
    holed = np.array(land.tile.samples, np.float32)
    holed[~land.tile.valid()] = np.nan
    holed[:, 10:14, 20:30] = np.nan
    tile = replace(land.tile, samples=holed)
    found = measure_library([replace(land, tile=tile)])
    assert np.isfinite(found.spectra).all()
    assert np.allclose(found.noise, measure_library([land]).noise, rtol=0.1)
    holed[:, ::2, ::2] = np.nan
    with pytest.raises(ScenesError, match=r"scene salton: 0 places .* remedy: leave it out"):
        measure_library([replace(land, tile=replace(land.tile, samples=holed))])


def test_samples_and_flags_are_as_the_sensor_has_them(library: Library) -> None:
    """Fill where EnMAP has it, clouds bright and flagged, dead detectors at zero all along."""
    samples, flags = World(library, 48, 3, cloudiness=0.3, dead=0.01).lines(0, LIGHT_PERIOD)
    assert samples.shape == (224, LIGHT_PERIOD, 48)
    assert samples.dtype == np.int16
    assert (samples[list(UNUSABLE_BANDS)] == FILL).all()
    assert (samples[USABLE] > FILL).all()
    cloudy = flags & FLAGS["CLOUD"] != 0
    assert 0.05 < cloudy.mean() < 0.5
    assert np.median(samples[40][cloudy]) > np.median(samples[40][~cloudy])
    dead = (samples[USABLE] == 0).all(axis=1)
    assert 0.005 < dead.mean() < 0.02
