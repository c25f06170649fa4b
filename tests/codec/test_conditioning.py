"""Rules of `codec.conditioning`: both ends hold the same way between samples and components."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec.conditioning import (
    ConditionerSpec,
    Conditioning,
    KltSide,
    fit_klt,
    fit_minmax,
)
from codec.errors import BundleError, PayloadError, TileError
from codec.tables import laplace_tables
from codec.tile import Tile, TileInfo
from fakes import cubes
from fakes.bundles import frozen_bundle

TABLES = laplace_tables()
SPEC = ConditionerSpec(kind="klt", components=6)
SIDE = KltSide(
    levels=(40, 12),
    symbols=np.array([[900, 905, 911, 3], [-20, 14, 200, 0], [0, 1, -1, 0]], dtype=np.int32),
)
GOLDEN = bytes.fromhex("3c0130001500 7f7e807f fc368678 e2e3ffe9 1f2dbfa0")


def fit(tile: Tile, *, step: float = 16.0, spec: ConditionerSpec = SPEC) -> KltSide:
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
    )


def conditioning(tile: Tile, *, step: float = 16.0, spec: ConditionerSpec = SPEC) -> Conditioning:
    """What both ends build from the fit."""
    bands = np.flatnonzero(tile.valid().any(axis=(1, 2)))
    pixels = tile.samples[0].size
    return fit(tile, step=step, spec=spec).conditioning(bands, pixels, step, 1.0)


# ---- min–max


def test_minmax_is_the_papers() -> None:
    """[low, high] becomes [0, 1], in reflectance, whatever the sample unit."""
    spec = ConditionerSpec(kind="minmax", components=2, low=0.0, high=0.5)
    samples = np.array([[[0, 50]], [[100, -50]]], dtype=np.int16)
    way = fit_minmax(spec, np.ones(2, bool), sample_unit=100.0, step=0.1)
    conditioned = way.condition(samples, None)
    assert conditioned.ravel().tolist() == pytest.approx([0, 1, 2, -1])
    assert way.restore(conditioned).ravel().tolist() == pytest.approx([0, 50, 100, -50])


def test_minmax_clips_only_if_it_says_so() -> None:
    """Clipping is a choice of the bundle, not a habit of the code."""
    spec = ConditionerSpec(kind="minmax", components=1, clip=True)
    samples = np.array([[[-100, 5000, 20_000]]], dtype=np.int16)
    way = fit_minmax(spec, np.ones(1, bool), sample_unit=1.0, step=0.1)
    assert way.condition(samples, None).ravel().tolist() == pytest.approx([0, 0.5, 1])


def test_minmax_takes_its_bands() -> None:
    """A network with one input per band refuses another number of bands."""
    with pytest.raises(TileError, match="takes 2 bands, the tile has 3"):
        fit_minmax(ConditionerSpec(kind="minmax", components=2), np.ones(3, bool), 1.0, 0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "pca", "components": 3},
        {"kind": "klt", "components": 0},
        {"kind": "minmax", "components": 3, "low": 1.0, "high": 1.0},
        {"kind": "minmax", "components": 3, "low": math.nan},
    ],
)
def test_a_damaged_spec_is_refused(fields: dict[str, object]) -> None:
    """A conditioner that conditions nothing is a bundle error."""
    with pytest.raises(BundleError):
        ConditionerSpec(**fields)  # type: ignore[arg-type]  # that is the point


# ---- KLT: the fit


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


def test_a_dependent_column_carries_nothing() -> None:
    """What rounding left of a dependent eigenvector is noise, and machines differ in noise."""
    vectors = [[3, 1, 2, 0], [3, 1, 2, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    symbols = np.array([[0, 0, 0, 0], *vectors], dtype=np.int32)
    side = KltSide(levels=(8, 8, 8, 8), symbols=symbols)
    basis = side.conditioning(np.arange(4), 64, 1.0, 1.0).basis
    assert basis is not None
    assert np.allclose(np.linalg.norm(basis, axis=0), [1, 0, 0, 1])


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_garbage_is_refused_by_name(value: float) -> None:
    """Samples beyond what symbols can hold are a tile error, not a failure of linear algebra."""
    samples = np.full((3, 4, 4), value, dtype=np.float32)
    samples[:, ::2] *= -1
    with pytest.raises(TileError, match="too large for a step of 16"):
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


# ---- KLT: the bytes


@pytest.mark.parametrize("bands", [1, 4, 60])
def test_round_trip(bands: int) -> None:
    """What is packed is what is unpacked."""
    side = fit(cubes.tile(bands=bands))
    again = KltSide.unpack(side.levels, side.pack(TABLES), bands, TABLES)
    assert again.levels == side.levels
    assert np.array_equal(again.symbols, side.symbols)


def test_the_bytes_are_frozen() -> None:
    """Index and prediction of each row, then its symbols: version 1's layout for ever."""
    assert SIDE.pack(frozen_bundle().tables) == GOLDEN
    again = KltSide.unpack(SIDE.levels, GOLDEN, 4, frozen_bundle().tables)
    assert np.array_equal(again.symbols, SIDE.symbols)


def test_nothing_coded() -> None:
    """A tile without a valid band has side information of its head alone."""
    side = KltSide(levels=(), symbols=np.zeros((1, 0), dtype=np.int32))
    raw = side.pack(TABLES)
    assert raw == b"\x00\x00"
    assert KltSide.unpack((), raw, 0, TABLES).symbols.shape == (1, 0)


def test_smooth_spectra_are_predicted() -> None:
    """A mean spectrum whose neighbors are close is coded as differences."""
    side = fit(cubes.tile(bands=60))
    assert side.pack(TABLES)[1] == 1


def test_any_cut_is_reported() -> None:
    """Side information cut into its head is damaged; cut behind, its words or symbols are."""
    raw = SIDE.pack(TABLES)
    for length in range(len(raw)):
        if length < 6 or (length - 6) % 4:
            with pytest.raises(PayloadError):
                KltSide.unpack(SIDE.levels, raw[:length], 4, TABLES)


@pytest.mark.parametrize("position", [1, 3, 5])
def test_a_damaged_prediction_flag_is_refused(position: int) -> None:
    """A row is predicted or it is not."""
    raw = bytearray(SIDE.pack(TABLES))
    raw[position] = 2
    with pytest.raises(PayloadError, match="head"):
        KltSide.unpack(SIDE.levels, bytes(raw), 4, TABLES)


def test_a_scale_beyond_the_tables_is_refused() -> None:
    """A scale index that no encoder chooses shifts nothing out of an integer."""
    raw = bytearray(SIDE.pack(TABLES))
    raw[0] = 200
    with pytest.raises(PayloadError, match="head"):
        KltSide.unpack(SIDE.levels, bytes(raw), 4, TABLES)


def test_large_tiles_send_weaker_components() -> None:
    """What a component saves grows with the pixels, what its eigenvector costs does not."""
    small, large = (
        fit(cubes.tile(bands=12, rows=edge, cols=edge, noise_dn=5.0, materials=2), step=20.0)
        for edge in (24, 128)
    )
    assert len(large.levels) > len(small.levels)
    assert min(small.levels) >= -8
    assert min(large.levels) >= -20
