"""Plausible scenes without end: real spectra mixed over fractal ground, as a real sensor sees it.

A `Library` is measured on the scenes at hand: the spectra at the corners of their mixtures, and
their noise. A `World` is a strip of ground as wide as a sensor and periodic along the track:

    ground    what covers it: fractal fields, and parcels with edges; one spectrum never twice alike
    light     slopes of a fractal relief, clouds and their shadows
    sensor    a point spread, smile, noise as measured, stripes, dead detectors

Ground and light have different periods, so a strip repeats itself only after both, and its noise
never does.

Sources: successive projections, Araújo et al., Chemom. Intell. Lab. Syst. 57(2), 2001; fractal
fields by spectral synthesis, Peitgen & Saupe, The Science of Fractal Images, 1988; noise from
neighboring pixels and bands, Roger & Arnold, Int. J. Remote Sensing 17(10), 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from codec.tile import Tile
from training.bands import Floats, spread
from training.errors import ScenesError
from training.hyspecnet import ALL_BANDS, FILL, FLAGS, UNUSABLE_BANDS
from training.scenes import Scene

GROUND_PERIOD: Final = 1024
LIGHT_PERIOD: Final = 768
"""Lines after which ground and light repeat themselves; both, after 3,072."""
_SPECTRA_PER_SCENE: Final = 6
_COVERS: Final = 7
_PARCELS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Library:
    """What real scenes are made of.

    Attributes:
        spectra: Reflectance, shape (n, 224).
        noise: Standard deviation of reflectance, shape (224,).
        sources: Scenes it was measured on.
    """

    spectra: Floats
    noise: Floats
    sources: tuple[str, ...]


def measure_library(scenes: Sequence[Scene]) -> Library:
    """Measure spectra and noise on scenes of any sensor.

    Raises:
        ScenesError: If a scene is too small, or has no pixels measured in all of its bands.
    """
    spectra, noise = [], []
    for scene in scenes:
        cube, whole = _reflectance(scene.tile)
        four = cube[:, :-1, :-1] + cube[:, 1:, :-1] + cube[:, :-1, 1:] + cube[:, 1:, 1:]
        smooth = np.asarray(four / 4, np.float32)
        inside = whole[:-1, :-1] & whole[1:, :-1] & whole[:-1, 1:] & whole[1:, 1:]
        if inside.sum() < _SPECTRA_PER_SCENE or cube.shape[2] < 3:
            raise ScenesError(
                f"scene {scene.name}: {inside.sum()} places measured in all bands are too few to "
                "measure spectra on; remedy: leave it out by scenes.exclude"
            )
        spectra.append(spread(_corners(smooth[:, inside].T).T, scene.tile, ALL_BANDS).T)
        noise.append(spread(_noise(cube, whole), scene.tile, ALL_BANDS))
    return Library(
        spectra=np.concatenate(spectra),
        noise=np.median(noise, axis=0).astype(np.float32),
        sources=tuple(scene.name for scene in scenes),
    )


def at_enmap_bands(tile: Tile) -> Floats:
    """Bring a scene to EnMAP's bands, by wavelength where it is known, else evenly.

    Returns:
        Reflectance, shape (224, rows, cols).
    """
    return spread(_reflectance(tile)[0], tile, ALL_BANDS)


def _reflectance(tile: Tile) -> tuple[Floats, NDArray[np.bool_]]:
    """Bands that were measured, 0 where they were not, and which pixels were in all of them."""
    valid = tile.valid()
    bands = valid.any(axis=(1, 2))
    samples = np.where(valid[bands], tile.samples[bands], 0).astype(np.float32)
    cube = samples * np.float32(1 / tile.info.reflectance_scale)
    return np.clip(cube, 0, 1), np.asarray(valid[bands].all(axis=0))


def _noise(cube: Floats, whole: NDArray[np.bool_]) -> Floats:
    """Deviation of each band's noise: what neighboring pixels and bands do not foretell."""
    across = cube[:, :, 1:-1] - (cube[:, :, :-2] + cube[:, :, 2:]) / 2
    across = across[:, whole[:, 1:-1] & whole[:, :-2] & whole[:, 2:]]
    found = np.zeros(len(cube), np.float32)
    for band in range(len(cube)):
        beside = across[[b for b in (band - 1, band + 1) if 0 <= b < len(cube)]]
        weights, *_ = np.linalg.lstsq(beside.T, across[band], rcond=None)
        left = across[band] - weights @ beside
        # The median is of a Gaussian's magnitude; edges of the ground do not move it.
        found[band] = np.median(np.abs(left)) / (0.6745 * np.sqrt(1.5))
    return found


def _corners(pixels: Floats) -> Floats:
    """Pixels (n, bands) that the others are mixtures of, by successive projections."""
    left, found = pixels - pixels.mean(axis=0), []
    for _ in range(_SPECTRA_PER_SCENE):
        place = int(np.argmax(np.einsum("ij,ij->i", left, left)))
        found.append(pixels[place])
        direction = left[place] / max(float(np.linalg.norm(left[place])), 1e-9)
        left = left - np.outer(left @ direction, direction)
    return np.stack(found)


class World:
    """A strip of ground, and the sensor above it.

    Args:
        library: What it is made of.
        cols: Detectors across the track.
        seed: Of everything.
        cloudiness: Share of the ground below clouds, about.
        dead: Share of detectors, of every band, that say nothing.
    """

    def __init__(
        self,
        library: Library,
        cols: int,
        seed: int,
        *,
        cloudiness: float = 0.05,
        dead: float = 2e-4,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed, self._cols, self._noise = seed, cols, library.noise
        chosen = rng.choice(len(library.spectra), _COVERS, replace=len(library.spectra) < _COVERS)
        self._spectra = library.spectra[chosen]
        self._covers = self._cover(rng)
        # Kinds of a material differ smoothly along the bands.
        phase = np.linspace(0, np.pi, ALL_BANDS, dtype=np.float32)
        self._kinds = np.stack([np.cos(n * phase) for n in (1, 2, 3)])
        self._kind = np.stack([_fractal(rng, GROUND_PERIOD, cols, 1.6) for _ in self._kinds])
        height = _fractal(rng, LIGHT_PERIOD, cols, 2.8)
        down, right = np.gradient(height)
        sun = rng.uniform(0, 2 * np.pi)
        slope = np.cos(sun) * down + np.sin(sun) * right
        self._light = np.clip(1 + 0.12 * slope / slope.std(), 0.4, 1.6)
        cloud = _fractal(rng, LIGHT_PERIOD, cols, 3.0)
        edge = float(np.quantile(cloud, 1 - cloudiness)) if cloudiness > 0 else np.inf
        self._cloud = np.clip((cloud - edge) / 0.3, 0, 1)
        self._shadow = np.roll(self._cloud, (9, 5), axis=(0, 1))
        self._gain = rng.normal(1, 0.002, (ALL_BANDS, 1, cols)).astype(np.float32)
        self._offset = (
            rng.normal(0, 0.3, (ALL_BANDS, 1, cols)) * self._noise[:, None, None]
        ).astype(np.float32)
        self._smile = np.float32(rng.uniform(-0.3, 0.3)) * np.linspace(-1, 1, cols) ** 2
        self._dead = rng.random((ALL_BANDS, 1, cols)) < dead

    def lines(self, first: int, count: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Look at some lines.

        Args:
            first: The first, from the start of the strip.
            count: How many.

        Returns:
            Samples [10⁻⁴ reflectance], shape (224, count, cols), with fill where EnMAP has it; and
            flags as of `hyspecnet.FLAGS`, shape (count, cols).
        """
        # A line more on either side: light spreads over it.
        place = np.arange(first - 1, first + count + 1)
        ground, light = place % GROUND_PERIOD, place % LIGHT_PERIOD
        mixed = np.tensordot(self._spectra.T, self._covers[:, ground], 1)
        kind = np.tensordot(self._kinds.T, self._kind[:, ground], 1)
        cloud, shadow = self._cloud[light], self._shadow[light]
        seen = mixed * (1 + 0.02 * kind) * (self._light[light] * (1 - 0.5 * shadow))
        white = np.linspace(0.75, 0.45, ALL_BANDS, dtype=np.float32)[:, None, None]
        seen = _blurred((1 - cloud) * seen + cloud * white)[:, 1:-1]
        cloud, shadow = cloud[1:-1], shadow[1:-1]
        seen += self._smile * np.gradient(seen, axis=0)
        rng = np.random.default_rng((self._seed, first, count, self._cols))
        deviation = self._noise[:, None, None] * np.sqrt(0.5 + 2 * np.clip(seen, 0, 1))
        noise = rng.standard_normal(seen.shape, np.float32) * deviation
        measured = np.where(self._dead, 0, seen * self._gain + self._offset + noise)
        samples = np.rint(np.clip(measured, -0.3, 3) * 10_000).astype(np.int16)
        samples[list(UNUSABLE_BANDS)] = FILL
        flags = np.where(cloud > 0.5, FLAGS["CLOUD"], 0) | np.where(
            shadow > 0.5, FLAGS["CLOUDSHADOW"], 0
        )
        return samples, flags.astype(np.uint8)

    def _cover(self, rng: np.random.Generator) -> Floats:
        """Shares of the ground, shape (covers, lines, cols), that sum to 1."""
        fields = np.stack([_fractal(rng, GROUND_PERIOD, self._cols, 2.0) for _ in range(_COVERS)])
        # Parcels: where one of several smooth fields is largest, and what grows there.
        parcels = np.stack([_fractal(rng, GROUND_PERIOD, self._cols, 2.4) for _ in range(_PARCELS)])
        grown = rng.integers(_COVERS, size=_PARCELS)[parcels.argmax(axis=0)]
        fields += 2.5 * (grown == np.arange(_COVERS)[:, None, None])
        shares = np.exp(1.5 * (fields - fields.max(axis=0)))
        shares /= shares.sum(axis=0)
        return np.asarray(shares, np.float32)


def _fractal(rng: np.random.Generator, rows: int, cols: int, exponent: float) -> Floats:
    """A field whose power falls with frequency by an exponent; mean 0, deviation 1.

    It is periodic along the rows; across it is cut from one twice as wide, so it is not.
    """
    white = np.fft.rfft2(rng.standard_normal((rows, 2 * cols)))
    down, right = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(2 * cols)
    frequency = np.hypot(down, right)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(white * frequency ** (-exponent / 2), (rows, 2 * cols))[:, :cols]
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _blurred(image: Floats) -> Floats:
    """Spread each point over its neighbors, edges repeated."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        wide = np.moveaxis(np.pad(image, pad, "edge"), axis, 0)
        image = np.moveaxis(0.15 * wide[:-2] + 0.7 * wide[1:-1] + 0.15 * wide[2:], 0, axis)
    return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What tells a plausible scene from another.

    Attributes:
        eigenvalues: Of the bands' covariance, largest first, as shares of their sum.
        band_correlation: Of neighboring bands, the median.
        spatial_exponent: By which power falls with frequency, in the leading component.
    """

    eigenvalues: Floats
    band_correlation: float
    spatial_exponent: float


def statistics(cube: Floats) -> Statistics:
    """Measure a scene, shape (bands, rows, cols); what is not measured counts as 0."""
    flat = cube.reshape(len(cube), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(flat @ flat.T / flat.shape[1])
    deviation = np.maximum(flat.std(axis=1), 1e-12)
    neighbors = (flat[1:] * flat[:-1]).mean(axis=1) / (deviation[1:] * deviation[:-1])
    leading = (vectors[:, -1] @ flat).reshape(cube.shape[1:])
    window = np.hanning(leading.shape[0])[:, None] * np.hanning(leading.shape[1])
    power = np.abs(np.fft.fft2(leading * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, leading.shape), indexing="ij"))
    middle = (frequency > 0.05) & (frequency < 0.35)
    slope, _ = np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)
    return Statistics(
        eigenvalues=(values[::-1] / values.sum()).astype(np.float32),
        band_correlation=float(np.median(neighbors)),
        spatial_exponent=float(-slope),
    )
