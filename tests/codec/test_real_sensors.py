"""What real sensors deliver, through the real codec: harm to some samples stays with those.

Every rule is held by the bundle that flies and by the linear codec. Errors are root mean squares
over samples that are measured and unharmed, sizes are all bytes of all frames, both as multiples of
the clean scene's at the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import TileError
from codec.tile import Samples, Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from fakes.bundles import klt_bundle

ROOT = Path(__file__).resolve().parents[2]
PAIRS = (("salton", "default"), ("water", "linear"))
"""Scene and bundle; the other two pairs come to the same, and cost twice the time."""
BUNDLES = ("default", "linear")
STEP = 64.0
MORE = 1.2
"""Most that an error may grow to by harm done to others [that of the clean scene]."""
FILL = -32_768

Rng = np.random.Generator
Mask = NDArray[np.bool_]


@cache
def bundle(name: str) -> Bundle:
    """The bundle that flies, or the linear codec, free to send every component."""
    if name == "linear":
        return klt_bundle(components=512)
    return load_bundle(ROOT / "deploy" / "models" / "default.safetensors")


@cache
def coder(name: str, backend: str = "torch-cpu") -> tuple[Encoder, Decoder]:
    """Both ends of a bundle."""
    return Encoder(bundle(name), backend=backend), Decoder(bundle(name))  # type: ignore[arg-type]


@cache
def scene(name: str) -> Tile:
    """A real scene: AVIRIS's Salton Sea, 51×56, or 48×48 of HySpecNet's open water."""
    data = ROOT / "tests" / "data"
    if name == "salton":
        return read_tile(data / "aviris_salton_sea.npz")
    tile = read_tile(find_scenes(data / "hyspecnet-11k")[0])
    return Tile(samples=np.ascontiguousarray(tile.samples[:, 40:88, 40:88]), info=tile.info)


def with_samples(tile: Tile, samples: Samples, **info: object) -> Tile:
    """Another tile of the same description; its bands may be others."""
    same = len(samples) == len(tile.samples)
    centers = tile.info.wavelengths_nm if same else ()
    return Tile(
        samples=np.ascontiguousarray(samples),
        info=replace(tile.info, **{"wavelengths_nm": centers} | info),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """What became of a tile: bytes of its frames, and what came back."""

    size_bytes: int
    errors: NDArray[np.float64]
    """Restored minus given, 0 at fill."""
    restored: Tile

    def rmse(self, where: Mask) -> float:
        """Root of the mean squared error of some samples, in the tile's units."""
        return float(np.sqrt(np.square(self.errors[where]).mean()))


def through(name: str, tile: Tile, *, step: float = STEP, backend: str = "torch-cpu") -> Coded:
    """Code a tile; type, shape, mask and fill come back exactly, NaN never."""
    encoder, decoder = coder(name, backend)
    frames = encoder.encode(tile, step)
    restored = decoder.decode(frames)
    valid = tile.valid()
    assert restored.samples.dtype == tile.samples.dtype
    assert np.array_equal(restored.valid(), valid)
    if tile.info.nodata is not None:
        assert (restored.samples[~valid] == tile.info.nodata).all()
    errors = np.zeros(valid.shape)
    errors[valid] = restored.samples[valid].astype(np.float64) - tile.samples[valid]
    return Coded(size_bytes=sum(map(len, frames)), errors=errors, restored=restored)


@cache
def clean(name: str, scene_name: str) -> Coded:
    """The scene as it is."""
    return through(name, scene(scene_name))


# ---------------------------------------------------------------- harm to some samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """Something that befalls a scene.

    Attributes:
        do: Changes samples in place; given are which are valid, and a generator.
        size: Most that all bytes may grow to [those of the clean scene].
    """

    do: Callable[[Samples, Mask, Rng], None]
    size: float = 1.1


def columns(value: int) -> Callable[[Samples, Mask, Rng], None]:
    """Three columns of the sensor deliver one value in all bands."""

    def do(samples: Samples, valid: Mask, rng: Rng) -> None:
        dead = np.zeros(valid.shape, dtype=np.bool_)
        dead[:, :, rng.choice(valid.shape[2], 3, replace=False)] = True
        samples[dead & valid] = value

    return do


def detectors(value: int, share: float) -> Callable[[Samples, Mask, Rng], None]:
    """A share of the detectors, a column of one band each, delivers one value."""

    def do(samples: Samples, valid: Mask, rng: Rng) -> None:
        bands, _, cols = valid.shape
        samples[(rng.random((bands, 1, cols)) < share) & valid] = value

    return do


def stripes(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Every detector has an offset of its own, 10 DN or so."""
    bands, _, cols = valid.shape
    offsets = np.rint(rng.normal(0, 10, (bands, 1, cols))).astype(np.int16)
    np.add(samples, offsets, out=samples, where=valid)


def spikes(count: int) -> Callable[[Samples, Mask, Rng], None]:
    """Single samples, hit by a particle, are at full scale."""

    def do(samples: Samples, valid: Mask, rng: Rng) -> None:
        samples.reshape(-1)[rng.choice(np.flatnonzero(valid), count, replace=False)] = 32_767

    return do


def darker(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Reflectance is 0.2 lower: most is negative, as after a bad atmospheric correction."""
    np.subtract(samples, 2000, out=samples, where=valid)


def cloud(samples: Samples, valid: Mask, rng: Rng) -> None:
    """A quarter is saturated."""
    _, rows, cols = valid.shape
    quarter = np.zeros(valid.shape, dtype=np.bool_)
    quarter[:, : rows // 2, : cols // 2] = True
    samples[quarter & valid] = 32_767


def lost_line(samples: Samples, valid: Mask, rng: Rng) -> None:
    """One line is zero."""
    row = valid.shape[1] // 2
    samples[:, row][valid[:, row]] = 0


def bright_bands(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Ten bands have ten times the gain."""
    few = samples[50:60].astype(np.int32) * 10
    samples[50:60] = np.where(valid[50:60], np.clip(few, -32_767, 32_767), FILL)


def constant_bands(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Ten bands hold one value."""
    samples[50:60][valid[50:60]] = 1234


def half(samples: Samples, valid: Mask, rng: Rng) -> None:
    """The left half is fill."""
    samples[:, :, : valid.shape[2] // 2] = FILL


def slanted_edge(samples: Samples, valid: Mask, rng: Rng) -> None:
    """A corner is fill, as at the edge of a swath."""
    row, col = np.indices(valid.shape[1:])
    samples[:, 0.3 * row + col < 0.5 * valid.shape[2]] = FILL


def checkered(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Every other pixel is fill."""
    samples[:, np.indices(valid.shape[1:]).sum(axis=0) % 2 == 0] = FILL


def checkered_bands(samples: Samples, valid: Mask, rng: Rng) -> None:
    """Every other sample is fill, other ones in the next band."""
    samples[np.indices(valid.shape).sum(axis=0) % 2 == 0] = FILL


def lone_sample(samples: Samples, valid: Mask, rng: Rng) -> None:
    """A band has one valid sample."""
    kept = samples[55, 5, 5]
    samples[55] = FILL
    samples[55, 5, 5] = kept


HARM = {
    "columns of zeros": Harm(do=columns(0)),
    "columns of fill": Harm(do=columns(FILL)),
    "one detector in 300 at zero": Harm(do=detectors(0, 1 / 300), size=1.5),
    "one detector in 300 saturated": Harm(do=detectors(32_767, 1 / 300), size=2.7),
    "one detector in 100 masked": Harm(do=detectors(FILL, 1 / 100), size=1.5),
    "stripes": Harm(do=stripes, size=1.8),
    "one spike": Harm(do=spikes(1)),
    "30 spikes": Harm(do=spikes(30), size=2.0),
    "negative": Harm(do=darker),
    "saturated cloud": Harm(do=cloud, size=1.2),
    "a lost line": Harm(do=lost_line),
    "bright bands": Harm(do=bright_bands, size=1.6),
    "constant bands": Harm(do=constant_bands),
    "half fill": Harm(do=half, size=0.7),
    "edge of a swath": Harm(do=slanted_edge, size=0.85),
    "checkered": Harm(do=checkered, size=0.9),
    "checkered bands": Harm(do=checkered_bands, size=1.2),
    "a band of one sample": Harm(do=lone_sample),
}


@cache
def harmed(name: str, scene_name: str) -> Tile:
    """A scene after some harm."""
    tile = scene(scene_name)
    samples = tile.samples.copy()
    HARM[name].do(samples, tile.valid(), np.random.default_rng(7))
    return with_samples(tile, samples)


@pytest.mark.parametrize(("scene_name", "bundle_name"), PAIRS)
@pytest.mark.parametrize("name", HARM)
def test_harm_stays_where_it_is(name: str, scene_name: str, bundle_name: str) -> None:
    """Samples that nothing happened to come back as from the clean scene, for bounded bytes.

    So do those that something happened to: a codec does not judge what was measured.
    """
    before, tile = scene(scene_name), harmed(name, scene_name)
    coded, reference = through(bundle_name, tile), clean(bundle_name, scene_name)
    usual = reference.rmse(before.valid())
    unharmed = tile.valid() & (tile.samples == before.samples)
    if unharmed.any():
        assert coded.rmse(unharmed) < MORE * usual
    assert coded.rmse(tile.valid()) < MORE * usual
    assert coded.size_bytes < HARM[name].size * reference.size_bytes


def test_spikes_in_every_band_stay_single() -> None:
    """Each is a direction of its own: with components enough for all, nothing else suffers."""
    tile, reference = scene("salton"), clean("linear", "salton")
    samples = tile.samples.copy()
    spikes(300)(samples, tile.valid(), np.random.default_rng(7))
    coded = through("linear", with_samples(tile, samples))
    assert coded.rmse(tile.valid()) < 1.5 * reference.rmse(tile.valid())


@pytest.mark.parametrize("step", [8.0, 1024.0])
@pytest.mark.parametrize("name", ["saturated cloud", "30 spikes", "checkered bands"])
def test_any_step_bears_harm(name: str, step: float) -> None:
    """Fine or coarse, unharmed samples come back as from the clean scene at the same step.

    Water at a coarse step is flat; there a spike may cost its pixel's spectrum a part of a step.
    """
    before, tile = scene("water"), harmed(name, "water")
    unharmed = tile.valid() & (tile.samples == before.samples)
    usual = through("linear", before, step=step).rmse(before.valid())
    assert through("linear", tile, step=step).rmse(unharmed) < 1.3 * max(usual, step / 30)


@pytest.mark.parametrize("name", ["saturated cloud", "30 spikes"])
def test_int8_bears_harm(name: str) -> None:
    """Components far beyond what a branch was calibrated for do not upset its 8-bit network."""
    tile = harmed(name, "salton")
    exact, int8 = (through("default", tile, backend=b) for b in ("torch-cpu", "openvino"))
    assert int8.rmse(tile.valid()) < 1.05 * exact.rmse(tile.valid())
    assert int8.size_bytes < 1.05 * exact.size_bytes


# ---------------------------------------------------------------- other types


def as_uint16(tile: Tile) -> Tile:
    """The scene 3000 DN brighter, and fill at zero."""
    shifted = np.where(tile.valid(), tile.samples.astype(np.int32) + 3000, 0)
    return with_samples(tile, shifted.astype(np.uint16), nodata=0.0)


@pytest.mark.parametrize(("scene_name", "bundle_name"), PAIRS)
def test_an_unsigned_cloud(scene_name: str, bundle_name: str) -> None:
    """Saturated at 65,535, a quarter of the scene does not cost the rest its precision."""
    before = as_uint16(scene(scene_name))
    samples, (_, rows, cols) = before.samples.copy(), before.samples.shape
    white = np.zeros(samples.shape, dtype=np.bool_)
    white[:, : rows // 2, : cols // 2] = True
    white &= before.valid()
    samples[white] = 65_535
    coded = through(bundle_name, with_samples(before, samples))
    reference = clean(bundle_name, scene_name)
    clear = before.valid() & ~white
    assert coded.rmse(clear) < MORE * reference.rmse(clear)
    assert np.abs(coded.errors[white]).max() < 2 * STEP


@pytest.mark.parametrize("bundle_name", BUNDLES)
def test_floats_in_reflectance(bundle_name: str) -> None:
    """0 to 1 as floats is 0 to 10,000 as integers: the same error, in the same bytes."""
    tile = scene("salton")
    samples = np.where(tile.valid(), tile.samples / np.float32(10_000), np.float32(np.nan))
    floats = with_samples(tile, samples, reflectance_scale=1.0, nodata=None)
    coded, reference = through(bundle_name, floats), clean(bundle_name, "salton")
    valid = tile.valid()
    assert coded.rmse(valid) * 10_000 == pytest.approx(reference.rmse(valid), rel=0.02)
    assert coded.size_bytes == pytest.approx(reference.size_bytes, rel=0.02)


@pytest.mark.parametrize("nodata", [None, -1.0])
def test_not_a_number_is_fill(nodata: float | None) -> None:
    """NaN and infinities among floats were not measured: they come back as fill."""
    tile = scene("salton")
    samples = tile.samples[tile.valid().any(axis=(1, 2))].astype(np.float32)
    whole = through("linear", with_samples(tile, samples, nodata=nodata))
    rng = np.random.default_rng(7)
    for value in (np.nan, np.inf, -np.inf):
        samples[rng.random(samples.shape) < 0.001] = value
    broken = with_samples(tile, samples, nodata=nodata)
    coded = through("linear", broken)
    fill = coded.restored.samples[~broken.valid()]
    assert np.isnan(fill).all() if nodata is None else (fill == nodata).all()
    assert coded.rmse(broken.valid()) < MORE * whole.rmse(broken.valid())
    assert coded.size_bytes < 1.4 * whole.size_bytes


def test_bytes_are_no_samples() -> None:
    """A tile of uint8 is refused by name, before anything is coded."""
    with pytest.raises(TileError, match=r"must be one of .*int16.* got uint8"):
        Tile(samples=np.zeros((3, 4, 4), dtype=np.uint8), info=TileInfo())


# ---------------------------------------------------------------- other shapes


def measured_bands(tile: Tile) -> Samples:
    """Samples of the bands that have any."""
    return np.asarray(tile.samples[tile.valid().any(axis=(1, 2))])


def mosaic(bands: int, rows: int, cols: int) -> Samples:
    """The Salton Sea mirrored at its edges, in as many bands as wanted, gains a bit off."""
    tile = measured_bands(scene("salton"))
    order = np.linspace(0, len(tile) - 1, bands).round().astype(int)
    gains = 1 + 0.1 * np.sin(np.arange(bands))[:, None, None]
    many = tile[order] * gains
    extent = [(0, 0), (0, max(0, rows - 51)), (0, max(0, cols - 56))]
    return np.asarray(np.rint(np.pad(many, extent, "symmetric")[:, :rows, :cols]), dtype=np.int16)


@pytest.mark.parametrize("bundle_name", BUNDLES)
@pytest.mark.parametrize(
    "shape",
    [
        *(
            (224, 1, 1),
            (224, 1, 56),
            (224, 51, 1),
            (224, 2, 3),
            (1, 51, 56),
            (1, 1, 1),
            (2, 51, 56),
        ),
        *((4, 51, 56), (450, 51, 56), (450, 1, 1), (6, 127, 129), (6, 130, 257), (6, 1, 300)),
    ],
    ids=str,
)
def test_any_shape(shape: tuple[int, int, int], bundle_name: str) -> None:
    """One pixel, one line, one band or 450: the error is that of rounding, and nothing grows."""
    tile = Tile(samples=mosaic(*shape), info=TileInfo())
    coded = through(bundle_name, tile)
    assert coded.rmse(tile.valid()) < 0.35 * STEP
    assert coded.size_bytes < tile.samples.nbytes + 100


@pytest.mark.parametrize("bundle_name", BUNDLES)
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int16", 0), ("int16", 32_767), ("int16", FILL), ("uint16", 65_535), ("float32", 0.31)],
)
def test_one_value_everywhere(dtype: str, value: float, bundle_name: str) -> None:
    """A tile of one value costs next to nothing and comes back to within one unit."""
    tile = Tile(samples=np.full((224, 60, 70), value, dtype=dtype), info=TileInfo())
    coded = through(bundle_name, tile)
    assert np.abs(coded.errors).max() <= 1
    assert coded.size_bytes < 200


@pytest.mark.parametrize("bundle_name", BUNDLES)
def test_nothing_but_fill(bundle_name: str) -> None:
    """A tile without a measured sample is two headers."""
    samples = np.full((224, 60, 70), FILL, dtype=np.int16)
    coded = through(bundle_name, Tile(samples=samples, info=TileInfo(nodata=FILL)))
    assert coded.size_bytes < 120


def test_a_mask_of_any_size() -> None:
    """Samples missing anywhere in a patch take more mask than a header holds, and come back."""
    samples = mosaic(60, 128, 128)
    samples[np.random.default_rng(7).random(samples.shape) < 0.3] = FILL
    tile = Tile(samples=samples, info=TileInfo(nodata=FILL))
    coded = through("linear", tile)
    assert coded.size_bytes > 0x10000
    assert coded.rmse(tile.valid()) < 0.35 * STEP
