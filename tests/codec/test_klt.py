"""Rules of `codec.klt`: the fit, and what both ends build of it."""

from __future__ import annotations

import numpy as np
import pytest

from codec.conditioning import ConditionerSpec, Conditioning
from codec.errors import TileError
from codec.klt import EFFORTS, Effort, fit_klt
from codec.klt_side import KltSide
from codec.tables import laplace_tables
from codec.tile import Tile, TileInfo
from fakes import cubes

TABLES = laplace_tables()
SPEC = ConditionerSpec(kind="klt", components=6)


def fit(
    tile: Tile,
    *,
    step: float = 16.0,
    spec: ConditionerSpec = SPEC,
    effort: Effort = EFFORTS[0],
) -> KltSide:
    """Fit to a whole tile in units of 10⁻⁴ reflectance."""
    valid = tile.valid()
    bands = np.flatnonzero(valid.any(axis=(1, 2)))
    return fit_klt(
        spec,
        tile.samples,
        bands=bands,
        valid=None if valid[bands].all() else valid[bands],
        sample_unit=1.0,
        step=step,
        effort=effort,
    )


def conditioning(
    tile: Tile,
    *,
    step: float = 16.0,
    spec: ConditionerSpec = SPEC,
    effort: Effort = EFFORTS[0],
) -> Conditioning:
    """What both ends build from the fit."""
    bands = np.flatnonzero(tile.valid().any(axis=(1, 2)))
    pixels = tile.samples[0].size
    return fit(tile, step=step, spec=spec, effort=effort).conditioning(bands, pixels, step, 1.0)


def test_the_basis_is_orthonormal() -> None:
    """After quantization the basis is orthonormal again: noise keeps its size both ways."""
    basis = conditioning(cubes.tile()).basis
    assert basis is not None
    assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)


def test_leading_components_hold_the_scene() -> None:
    """Four materials and a mean are told by six components to within the noise."""
    tile = cubes.tile(bands=40, noise_dn=4.0)
    way = conditioning(tile)
    restored = way.restore(way.condition(tile.samples, None))
    assert np.sqrt(np.square(restored - tile.samples).mean()) < 6.0


def test_levels_are_standard_deviations() -> None:
    """Level k is the logarithm of component k's standard deviation over the step."""
    tile = cubes.tile(bands=12, rows=40, cols=40)
    way = conditioning(tile)
    sigma = way.condition(tile.samples, None).reshape(way.levels.size, -1).std(axis=1)
    assert np.allclose(way.levels / 8, np.log2(sigma), atol=0.1)
    assert (np.diff(way.levels) <= 0).all()


def test_a_coarser_step_sends_fewer_components() -> None:
    """Components below the step are not worth their eigenvector."""
    tile = cubes.tile(noise_dn=1.0)
    counts = [len(fit(tile, step=step).levels) for step in (1.0, 100.0, 1e6)]
    assert counts[0] == 6
    assert counts[0] > counts[1] > counts[2] == 0


def test_units_do_not_matter() -> None:
    """The same scene as integers or as reflectance gives the same levels."""
    tile = cubes.tile(dtype="float32")
    scaled = tile.samples / np.float32(10_000)
    bands = np.arange(len(scaled))
    side = fit_klt(SPEC, scaled, bands=bands, valid=None, sample_unit=1e4, step=16.0)
    assert side.levels == fit(tile).levels


def test_fill_does_not_bend_the_basis() -> None:
    """Whatever stands in invalid samples, the fit is the same."""
    tiles = [cubes.tile(nodata=fill, fill_samples=0.1) for fill in (-1, -32768)]
    sides = [fit(tile) for tile in tiles]
    assert sides[0].levels == sides[1].levels
    assert np.array_equal(sides[0].symbols, sides[1].symbols)


def test_large_tiles_are_fitted_in_blocks() -> None:
    """A tile of more rows than a block gives what one block would."""
    tile = cubes.tile(bands=3, rows=700, cols=200)
    way = conditioning(tile)
    assert np.allclose(way.mean, tile.samples.mean(axis=(1, 2)), atol=16 / 200)


@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 1, 2), (5, 3, 2), (450, 2, 2), (1, 8, 8)])
def test_few_pixels_are_enough(shape: tuple[int, int, int]) -> None:
    """A basis of fewer pixels than bands is orthonormal or empty, and restores what it can."""
    bands, rows, cols = shape
    tile = cubes.tile(bands=bands, rows=rows, cols=cols, noise_dn=100.0)
    way = conditioning(tile)
    assert way.basis is not None
    gram = way.basis.T @ way.basis
    assert np.allclose(gram, np.eye(len(gram)), atol=1e-5)
    restored = way.restore(way.condition(tile.samples, None))
    # What is left out is below the floor: some steps, however many bands share them.
    assert np.square(restored - tile.samples).sum(axis=0).mean() < bands * 16.0**2


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_garbage_is_refused_by_name(value: float) -> None:
    """Samples beyond what symbols can hold are a tile error, not a failure of linear algebra."""
    samples = np.full((3, 4, 4), value, dtype=np.float32)
    samples[:, ::2] *= -1
    with pytest.raises(TileError, match=r"too large for a step of 16.*remedy: the refl"):
        fit(Tile(samples=samples, info=TileInfo()))


def test_a_fine_step_on_a_large_tile_is_in_range() -> None:
    """Bright 16-bit samples, a step of one and many pixels: symbols still come back."""
    tile = cubes.tile(
        bands=4, rows=600, cols=600, dtype="uint16", mean_dn=45_000.0, noise_dn=2_000.0
    )
    side = fit(tile, step=1.0)
    again = KltSide.unpack(side.levels, side.pack(TABLES), 4, TABLES)
    assert np.array_equal(again.symbols, side.symbols)
    mean = side.conditioning(np.arange(4), 360_000, 1.0, 1.0).mean
    assert np.allclose(mean, tile.samples.mean(axis=(1, 2)), atol=0.01)


def test_large_tiles_send_weaker_components() -> None:
    """What a component saves grows with the pixels, what its eigenvector costs does not."""
    small, large = (
        fit(cubes.tile(bands=12, rows=edge, cols=edge, noise_dn=5.6, materials=2), step=20.0)
        for edge in (24, 128)
    )
    assert len(small.levels) == 1
    assert len(large.levels) == SPEC.components


def test_fill_on_a_lattice_does_not_hide_the_scene() -> None:
    """Fill wherever a thin sample looks: the mean and the components are those of the rest."""
    tile = cubes.tile(rows=48, cols=48, nodata=-1, noise_dn=2.0)
    samples = tile.samples.copy()
    samples[:, np.indices((48, 48)).sum(axis=0) % 2 == 0] = -1
    holed = Tile(samples=samples, info=tile.info)
    way, valid = conditioning(holed), holed.valid()
    error = way.restore(way.condition(samples, valid)) - samples
    assert np.sqrt(np.square(error[valid]).mean()) < 6.0


def test_a_saturated_cloud_does_not_hide_the_scene() -> None:
    """Variances a hundred million times those of the rest do not drown it in rounding errors."""
    tile = cubes.tile(bands=100, rows=64, cols=64, noise_dn=1.0, mean_dn=100.0)
    samples = tile.samples.copy()
    samples[:, :32, :32] = 32_767
    way = conditioning(Tile(samples=samples, info=tile.info), step=4.0)
    error = way.restore(way.condition(samples, None)) - samples
    assert np.sqrt(np.square(error[:, 32:]).mean()) < 1.5


@pytest.mark.parametrize("effort", EFFORTS[1:])
def test_a_part_of_the_pixels_tells_nearly_as_much(effort: Effort) -> None:
    """A hasty fit leaves out no more than a tenth more error; of a tile with gaps it sees all."""
    tile = cubes.tile(bands=24, rows=160, cols=160, noise_dn=4.0)
    errors = []
    for chosen in (EFFORTS[0], effort):
        way = conditioning(tile, effort=chosen)
        rest = way.restore(way.condition(tile.samples, None)) - tile.samples
        errors.append(np.square(rest).mean())
    assert errors[1] < 1.1 * errors[0]

    thin = Tile(samples=np.full((4, 128, 128), 7, np.int16), info=TileInfo(sensor="x", nodata=-1))
    thin.samples[:, 1, :40] = 900  # a row that a part of the pixels does not have
    thin.samples[0, 5, 5] = -1
    few = Effort(pixels=16, turns=effort.turns)
    assert conditioning(thin, effort=few).levels.size == conditioning(thin).levels.size == 1


def test_what_is_larger_than_the_lattice_is_seen() -> None:
    """A small target of a spectrum of its own, at every speed, wherever in a swath it lies."""
    rng = np.random.default_rng(0)
    for row, col in ((40, 501), (3, 17), (113, 1002)):
        tile = cubes.tile(bands=30, rows=128, cols=1024, noise_dn=2.0, seed=row)
        shape = rng.normal(0, 300, (30, 1, 1)).astype(np.int16)
        target = (slice(None), slice(row, row + 12), slice(col, col + 12))
        tile.samples[target] += shape
        for effort in EFFORTS:
            way = conditioning(tile, step=24.0, effort=effort)
            rest = way.restore(way.condition(tile.samples, None)) - tile.samples
            assert np.sqrt(np.square(rest[target]).mean()) < 12
