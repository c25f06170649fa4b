"""KLT + JPEG 2000 meets its target, needs nothing but its bytes, and respects fill."""

from __future__ import annotations

from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from codec.errors import TileError
from codec.tile import Tile
from fakes.bundles import klt_bundle
from fakes.cubes import tile
from training.klt_j2k import (
    RESOLUTIONS,
    KltJ2k,
    Planes,
    decode,
    decode_planes,
    encode_planes,
    fit_plain_klt,
    measured,
)

TABLES = klt_bundle().tables
SETTING = KltJ2k(components=6, step=32.0, side_step=32.0, resolutions=3)


def planes(*sigmas: float, edge_px: int = 64, seed: int = 0) -> Planes:
    """Make planes of noise, half of it smooth."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, len(sigmas), edge_px, edge_px))
    smooth = np.cumsum(np.cumsum(noise[0], axis=1), axis=2)
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    return ((smooth + noise[1]) * np.array(sigmas)[:, None, None]).astype(np.float32)


def blank(like: Tile) -> Tile:
    """All a decoder knows: type, shape and `info`."""
    return replace(like, samples=np.zeros_like(like.samples))


@pytest.mark.parametrize("step", [8.0, 100.0])
def test_the_error_is_the_targets_over_all_planes(step: float) -> None:
    """The mean squared error of planes of any size is that of a uniform quantizer of the step."""
    before = planes(3000, 400, 2 * step)
    stream, unit = encode_planes(before, step, resolutions=3, reversible=False)
    after = decode_planes(stream, unit, before.shape)

    assert np.mean((after - before) ** 2) == pytest.approx(step**2 / 12, rel=0.1)


def test_rate_goes_where_it_takes_most_error_away() -> None:
    """A plane below the step is not coded, and its error does not set that of the others."""
    before = planes(2000, 2)
    stream, unit = encode_planes(before, 100.0, resolutions=3, reversible=False)
    after = decode_planes(stream, unit, before.shape)

    assert not after[1].any()
    assert np.mean((after - before)[0] ** 2) > 1.5 * 100.0**2 / 12


@pytest.mark.parametrize("resolutions", RESOLUTIONS)
def test_large_planes_do_not_overflow(resolutions: int) -> None:
    """OpenJPEG overflows in silence; what we ask of it, even of a plane all at its peak, fits."""
    before = np.full((1, 128, 128), 3e5, dtype=np.float32)
    before[:, ::16] *= -1
    stream, unit = encode_planes(before, 8.0, resolutions=resolutions, reversible=False)

    assert np.sqrt(np.mean((decode_planes(stream, unit, before.shape) - before) ** 2)) < 8.0


def test_reversible_planes_are_rounded_and_nothing_else() -> None:
    """The reversible path returns the multiple of the step nearest to each sample."""
    before = planes(900, 30)
    stream, unit = encode_planes(before, 4.0, resolutions=3, reversible=True)

    assert np.array_equal(decode_planes(stream, unit, before.shape), np.rint(before / 4) * 4)


def test_planes_too_large_for_the_step_are_refused() -> None:
    """Planes beyond the bits OpenJPEG takes raise instead of coming back as garbage."""
    with pytest.raises(TileError, match="do not fit 21 bits"):
        encode_planes(planes(1e7), 1.0, resolutions=2, reversible=True)


def test_the_encoder_does_not_sign() -> None:
    """OpenJPEG's comment is not sent: bytes that say nothing would make the baseline weaker."""
    before = planes(100)
    signed = imagecodecs.jpeg2k_encode(before[0].astype(np.int16), codecformat="j2k")
    stream, _ = encode_planes(before, 8.0, resolutions=2, reversible=False)

    assert b"OpenJPEG" in signed
    assert b"OpenJPEG" not in stream


@pytest.mark.parametrize("reversible", [False, True])
def test_the_bytes_are_all_it_takes(reversible: bool) -> None:
    """A decoder that has only the bytes and the tile's description restores it to the target."""
    before = tile(bands=10, rows=40, cols=48)
    raw, side_bytes = replace(SETTING, reversible=reversible).encode(before, TABLES)
    after = decode(raw, blank(before), TABLES)
    error = after.samples.astype(float) - before.samples

    assert 0 < side_bytes < len(raw) < before.samples.nbytes / 8
    assert after.samples.dtype == before.samples.dtype
    # Six components of ten bands carry the target's error, the other four the tile's own noise.
    assert np.mean(error**2) < 0.6 * 32.0**2 / 12 * 1.2 + 8.0**2


def test_fewer_components_are_fewer_bytes_of_basis() -> None:
    """The basis is counted for the components that are sent and no more."""
    before = tile(bands=12, noise_dn=60.0)
    few, many = (replace(SETTING, components=count).encode(before, TABLES)[1] for count in (2, 6))

    assert few < many


def test_fill_comes_back_as_fill_and_costs_the_rest_nothing() -> None:
    """Bands of fill are left out, other fill is masked, and valid samples meet the target."""
    before = tile(
        rows=40, cols=40, nodata=-1, fill_bands=(3, 4), fill_pixels=0.2, fill_samples=0.01
    )
    raw, _ = SETTING.encode(before, TABLES)
    after = decode(raw, blank(before), TABLES)
    valid = before.valid()
    error = after.samples[valid].astype(float) - before.samples[valid]

    assert np.array_equal(after.valid(), valid)
    assert np.mean(error**2) < 2 * 32.0**2 / 12
    bands, where = measured(before)
    assert np.flatnonzero(~bands).tolist() == [3, 4]
    assert where is not None
    assert where.shape == (8, 40, 40)


def test_nothing_but_fill_is_a_few_bytes() -> None:
    """A tile without a valid sample comes back as fill."""
    before = tile(nodata=-1, fill_pixels=1.0)
    raw, side_bytes = SETTING.encode(before, TABLES)

    assert len(raw) == side_bytes < 64
    assert np.array_equal(decode(raw, blank(before), TABLES).samples, before.samples)


@pytest.mark.parametrize("fill", [0.0, 0.02])
def test_the_basis_is_the_plain_klt(fill: float) -> None:
    """Components do not correlate, and the strongest come first: nothing of ours is in it."""
    cube = tile(bands=16, rows=48, cols=56, noise_dn=20.0, nodata=-1, fill_samples=fill)
    bands, valid = measured(cube)
    chosen = np.flatnonzero(bands)
    side = fit_plain_klt(cube, chosen, valid, step=16.0, components=8)
    conditioning = side.conditioning(chosen, 48 * 56, 16.0, 1.0)

    components = conditioning.condition(cube.samples, valid).reshape(len(side.levels), -1)

    correlation = np.corrcoef(components)
    assert len(components) > 2
    assert (np.diff(side.levels) <= 0).all()
    assert np.abs(correlation - np.eye(len(components))).max() < 0.05
