"""Rules of `codec.quality`: each measure against its definition, and at its edges."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from codec.errors import TileError
from codec.quality import max_abs_error, measure, psnr_db, spectral_angle_deg, ssim
from codec.tile import Tile, TileInfo

RNG = np.random.default_rng(3)
BEFORE = (RNG.random((4, 20, 24)) * 3000).astype(np.int16)
AFTER = (BEFORE + RNG.integers(-40, 41, BEFORE.shape)).astype(np.int16)
ALL = np.ones(BEFORE.shape, dtype=np.bool_)
NONE = ~ALL


def test_psnr_is_its_formula() -> None:
    """An error of 100 everywhere, peak 10,000, is 40 dB."""
    assert psnr_db(BEFORE, BEFORE + 100, ALL, 10_000) == pytest.approx(40.0)


def test_identical_tiles() -> None:
    """Nothing lost is an infinite PSNR, no angle, no error and a similarity of one."""
    tile = Tile(samples=BEFORE, info=TileInfo())
    quality = measure(tile, tile)

    assert quality.psnr_db == math.inf
    assert quality.spectral_angle_deg == pytest.approx(0, abs=2e-6)
    assert quality.ssim == pytest.approx(1)
    assert (quality.max_abs_error, quality.samples) == (0, BEFORE.size)


def test_no_valid_sample_is_nan() -> None:
    """A tile of fill has no quality, and says so without a warning."""
    tile = Tile(samples=np.full((2, 3, 3), -1, np.int16), info=TileInfo(nodata=-1))
    quality = measure(tile, tile)

    for name in ("psnr_db", "spectral_angle_deg", "ssim", "max_abs_error"):
        assert math.isnan(getattr(quality, name))
    assert (quality.samples, quality.samples_missing) == (0, 0)


@pytest.mark.parametrize("value", [32767, -32768])
def test_invalid_samples_do_not_count(value: int) -> None:
    """Whatever stands in an invalid sample, every measure stays the same."""
    mask = ALL.copy()
    mask[1], mask[2, 5, 5] = False, False
    spoiled = AFTER.copy()
    spoiled[~mask] = value

    for function in (psnr_db, ssim):
        assert function(BEFORE, spoiled, mask, 1e4) == function(BEFORE, AFTER, mask, 1e4)
    for function in (max_abs_error, spectral_angle_deg):
        assert function(BEFORE, spoiled, mask) == function(BEFORE, AFTER, mask)


def test_differences_do_not_wrap() -> None:
    """Integers of 16 bits are compared in a wider type: 65535 is not −1 away from 0."""
    low, high = np.zeros((1, 1, 1), np.uint16), np.full((1, 1, 1), 65535, np.uint16)
    mask = np.ones((1, 1, 1), np.bool_)
    assert max_abs_error(low, high, mask) == 65535
    assert max_abs_error(high, low, mask) == 65535
    assert psnr_db(low, high, mask, 65535) == pytest.approx(0)


@pytest.mark.parametrize(
    ("before", "after", "angle"),
    [
        ((1, 0), (0, 7), 90),
        ((3, 3), (-5, -5), 180),
        ((1, 0), (1, 1), 45),
        ((0, 0), (0, 0), 0),
        ((0, 0), (1, 2), 90),
        ((30000, 30001), (30000, 30001), 0),
    ],
)
def test_the_angle_between_two_spectra(
    before: tuple[int, int], after: tuple[int, int], angle: float
) -> None:
    """The angle is that of the definition, and safe for spectra of zeros."""
    x, y = (np.array(s, np.int16).reshape(2, 1, 1) for s in (before, after))
    mask = np.ones((2, 1, 1), np.bool_)
    assert spectral_angle_deg(x, y, mask) == pytest.approx(angle, abs=2e-6)


def test_the_angle_is_a_mean_over_pixels_with_a_valid_band() -> None:
    """A pixel without a valid band is not a pixel at 0°."""
    before = np.array([[[1, 1, 1]], [[0, 0, 0]]], np.int16)
    after = np.array([[[0, 1, 1]], [[1, 0, 1]]], np.int16)
    mask = np.array([[[True, True, False]], [[True, True, False]]])
    assert spectral_angle_deg(before, after, mask) == pytest.approx(45, abs=2e-6)


def test_ssim_against_scipy() -> None:
    """The map is Wang's, made here with another library's Gaussian of 11 taps."""

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    expected = []
    for x, y in zip(BEFORE.astype(float), AFTER.astype(float), strict=True):
        mx, my = blur(x), blur(y)
        c1, c2 = (0.01 * 3000) ** 2, (0.03 * 3000) ** 2
        top = (2 * mx * my + c1) * (2 * (blur(x * y) - mx * my) + c2)
        below = (mx**2 + my**2 + c1) * (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
        expected.append((top / below).mean())

    assert ssim(BEFORE, AFTER, ALL, 3000) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 30), (2, 5, 4), (1, 11, 10)])
def test_ssim_of_small_images(shape: tuple[int, int, int]) -> None:
    """A window that does not fit shrinks; equal images are still 1, others less."""
    image, mask = (RNG.random(shape) * 1000).astype(np.float32), np.ones(shape, np.bool_)
    assert ssim(image, image, mask, 1000) == pytest.approx(1)
    assert ssim(image, image + 300, mask, 1000) < 1


def test_missing_samples_are_counted_apart() -> None:
    """Lost patches come back as fill: they are counted, and do not pass for errors."""
    lost = AFTER.copy()
    lost[:, :5] = -32768
    info = TileInfo(nodata=-32768.0)
    quality = measure(Tile(samples=BEFORE, info=info), Tile(samples=lost, info=info))

    assert quality.samples_missing == 4 * 5 * 24
    assert quality.samples + quality.samples_missing == BEFORE.size
    assert quality.max_abs_error <= 40


def test_peak_is_reflectance_one() -> None:
    """The same error against a larger scale is a higher PSNR: MAX is not the largest sample."""
    found = [
        measure(
            Tile(samples=BEFORE, info=TileInfo(reflectance_scale=scale)),
            Tile(samples=AFTER, info=TileInfo()),
        ).psnr_db
        for scale in (1000.0, 10_000.0)
    ]
    assert found[1] - found[0] == pytest.approx(20)


def test_tiles_of_two_shapes_are_refused() -> None:
    """Broadcasting would give a number that means nothing."""
    one, other = (Tile(samples=BEFORE[:n], info=TileInfo()) for n in (1, 4))
    with pytest.raises(TileError, match="against"):
        measure(one, other)


def test_torch_is_not_loaded() -> None:
    """Measuring is for tools that stay small."""
    code = "import sys, codec.quality; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
