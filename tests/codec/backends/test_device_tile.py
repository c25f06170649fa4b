"""Rules of `codec.backends.device_tile`: what the host does to samples, in PyTorch's operations."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
import torch

from codec import masks, projection
from codec.backends import device_tile
from codec.backends.device_tile import DeviceConditioning, DeviceSamples, DeviceTile
from codec.conditioning import ConditionerSpec, Conditioning, centered_samples, fit_minmax
from codec.klt import EFFORTS, fit_klt, fit_source
from codec.tile import Tile
from fakes import cubes

CPU: Final = torch.device("cpu")
TILES: Final[dict[str, dict[str, Any]]] = {
    "whole": {},
    "unsigned": {"dtype": "uint16", "mean_dn": 45_000.0},
    "pixels": {"nodata": -1, "fill_pixels": 0.3},
    "samples": {"nodata": -1, "fill_samples": 0.1, "fill_bands": (2, 7)},
    "floats": {"dtype": "float32", "fill_samples": 0.2, "reflectance_scale": 4000.0},
    "rows": {"rows": 3, "cols": 1},
}


def both(tile: Tile) -> tuple[dict[str, Any], DeviceSamples]:
    """A tile as the host takes it, and as a device does."""
    valid_bands, valid = masks.validity(tile)
    bands, unit = np.flatnonzero(valid_bands), 10_000.0 / tile.info.reflectance_scale
    raw, unsigned = tile.samples, tile.samples.dtype == np.uint16
    on_device = DeviceSamples(
        torch.from_numpy(raw.view(np.int16) if unsigned else raw),
        unsigned,
        torch.from_numpy(bands),
        None if valid is None else torch.from_numpy(valid),
        unit,
    )
    return {"bands": bands, "valid": valid, "sample_unit": unit}, on_device


@pytest.mark.parametrize("kind", TILES)
def test_samples_are_centered_as_on_the_host(kind: str) -> None:
    """Units, bands, gaps that are bridged: to the last bit."""
    tile = cubes.tile(**TILES[kind])
    host, on_device = both(tile)
    mean = np.linspace(100, 3000, host["bands"].size).astype(np.float32)
    expected = centered_samples(
        tile.samples, host["bands"], mean, host["valid"], host["sample_unit"]
    )
    assert torch.equal(on_device.centered(torch.from_numpy(mean)).flatten(1), expected)


# Gaps of single samples are bridged within a block only, so those are what blocks they are.
BLOCKS: Final = [*((kind, 1 << 16) for kind in TILES), ("whole", 1), ("pixels", 200)]


@pytest.mark.parametrize(("kind", "block_px"), BLOCKS)
def test_the_klt_is_the_hosts(kind: str, block_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Components of the same size, and the mean to its last step, of blocks of any size."""
    monkeypatch.setattr(device_tile, "_BLOCK_PX", block_px)
    tile = cubes.tile(**({"rows": 40, "cols": 30} | TILES[kind]))
    host, on_device = both(tile)
    spec = ConditionerSpec(kind="klt", components=6)
    expected = fit_klt(spec, tile.samples, step=32.0, **host)
    found = fit_source(spec, DeviceTile(on_device), 32.0, EFFORTS[0].turns)
    assert len(found.levels) == len(expected.levels)
    assert np.abs(np.subtract(found.levels, expected.levels)).max(initial=0) <= 1
    assert np.abs(found.symbols[0] - expected.symbols[0]).max() <= 1


def test_every_pixel_counts() -> None:
    """At any effort: there is time for all, where the host takes some on a lattice."""
    tile = cubes.tile(rows=200, cols=100)
    _, on_device = both(tile)
    pixels = sum(b.shape[1] for b in DeviceTile(on_device).blocks(np.zeros(10, np.float32)))
    assert pixels == 200 * 100


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", TILES)
def test_components_are_the_hosts(
    kind: str, clip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # a parameter
    """Of a KLT and of min–max, with gaps and without; the host's in floats, too."""
    monkeypatch.setattr(projection, "multiplies_bytes_fast", lambda: False)
    tile = cubes.tile(**TILES[kind])
    host, on_device = both(tile)
    step, pixels = 16.0, tile.samples[0].size
    spec = ConditionerSpec(kind="klt", components=6)
    side = fit_klt(spec, tile.samples, step=step, **host)
    for way in (
        side.conditioning(host["bands"], pixels, step, host["sample_unit"]),
        fit_minmax(
            ConditionerSpec(kind="minmax", components=10, low=0.05, high=0.3, clip=clip),
            masks.validity(tile)[0],
            host["sample_unit"],
            0.01,
        ),
    ):
        assert isinstance(way, Conditioning)
        expected = way.condition(tile.samples, host["valid"])
        found = DeviceConditioning(way, CPU).components(on_device).numpy()
        assert found.shape == expected.shape
        assert np.allclose(found, expected, rtol=1e-5, atol=2e-3)
