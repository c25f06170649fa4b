"""A look at a part of a patch says about what the whole would come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.conditioning import UNITS_PER_REFLECTANCE
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BundleError
from codec.estimates import PatchProbe
from codec.targets import mean_psnr_db
from codec.tile import Tile
from codec.tile_files import find_scenes, read_tile
from fakes import cubes
from fakes.bundles import klt_bundle, minmax_bundle

DATA = Path(__file__).resolve().parents[1] / "data"
SCENES = [DATA / "hyspecnet-11k", DATA / "aviris_salton_sea.npz"]


def all_components(shortcut: str = "wavelet") -> Bundle:
    """The linear codec, free to send every component a tile has."""
    return klt_bundle(shortcut, step=192.0, components=512)


def opened(tile: Tile, step: float, bundle: Bundle) -> tuple[PatchProbe, list[bytes]]:
    """A look at a tile's only patch, and its frames."""
    encoder = Encoder(bundle, backend="torch-cpu")
    job = encoder.open(tile, step)
    (patch,) = job.patches
    return PatchProbe(bundle, patch), [job.side_frame, *encoder.encode_batch(job.patches)]


def psnr_db(probe: PatchProbe, step: float) -> float:
    """What the two errors make together."""
    error = probe.left_out + probe.rounding_error(step)
    return float(10 * np.log10(UNITS_PER_REFLECTANCE**2 / error))


@pytest.mark.parametrize("path", SCENES, ids=["water", "salton"])
@pytest.mark.parametrize("shortcut", ["wavelet", "dct"])
@pytest.mark.parametrize("step", [8.0, 64.0])
def test_bytes_and_quality_are_about_the_encoders(path: Path, shortcut: str, step: float) -> None:
    """Within 15 % and 0.5 dB, from a seventh of the pixels."""
    tile, bundle = read_tile(find_scenes(path)[0]), all_components(shortcut)
    probe, frames = opened(tile, step, bundle)

    assert probe.frame_bytes(step) == pytest.approx(len(frames[1]), rel=0.15)
    quality = mean_psnr_db(tile, Decoder(bundle).decode(frames))
    assert psnr_db(probe, step) == pytest.approx(quality, abs=0.5)


def test_another_step_is_told_from_the_same_look() -> None:
    """One octave off, as of a tile opened there."""
    tile, bundle = read_tile(SCENES[1]), all_components()
    near, _ = opened(tile, 48.0, bundle)
    there, _ = opened(tile, 96.0, bundle)

    assert near.frame_bytes(96.0) == pytest.approx(there.frame_bytes(96.0), rel=0.1)
    assert psnr_db(near, 96.0) == pytest.approx(psnr_db(there, 96.0), abs=1.0)
    assert near.frame_bytes(96.0) < near.frame_bytes(48.0)


def test_fill_neither_costs_nor_counts() -> None:
    """Half a patch of fill takes fewer bytes, and what is left has the error it really has."""
    whole, holed = (
        cubes.tile(bands=6, rows=48, cols=48, dtype="float32", fill_pixels=share)
        for share in (0.0, 0.5)
    )
    (every, _), (half, frames) = (opened(t, 8.0, all_components()) for t in (whole, holed))

    assert half.frame_bytes(8.0) < 0.8 * every.frame_bytes(8.0)
    quality = mean_psnr_db(holed, Decoder(all_components()).decode(frames))
    assert psnr_db(half, 8.0) == pytest.approx(quality, abs=0.5)


def test_nothing_sent_is_a_header() -> None:
    """A patch without components has no rounding error; all of it is left out."""
    tile = cubes.tile(bands=6, rows=130 - 2, cols=20)
    probe, frames = opened(tile, 1e6, all_components())

    assert probe.frame_bytes(1e6) == pytest.approx(len(frames[1]), abs=8)
    assert probe.rounding_error(1e6) == 0
    assert probe.left_out > 100


def test_a_model_without_shortcut_says_nothing() -> None:
    """What its network would make of a patch is not to be had without running it."""
    job = Encoder(minmax_bundle(5), backend="torch-cpu").open(cubes.tile(bands=5))
    with pytest.raises(BundleError, match="no shortcut"):
        PatchProbe(minmax_bundle(5), job.patches[0])
