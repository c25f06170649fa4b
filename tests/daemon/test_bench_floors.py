"""Floors: what no implementation can do without, at the machine's peaks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codec.encoder import Encoder
from daemon.bench_floors import Floor, Load, Machine, floors, load_of, mean_floors, measure_machine
from daemon.clock import SystemClock
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle

MACHINE = Machine(float32_macs_per_s=1e9, int8_macs_per_s=4e9, bytes_per_s=1e6)
LOAD = Load(
    pixels=100,
    bands=10,
    sample_bytes=2,
    components=4,
    network_macs=8e9,
    latents=400,
    frame_bytes=50,
    packet_bytes=70,
)


def test_a_floor_is_the_longer_of_two_times() -> None:
    """Of the operations and of the bytes."""
    found = floors(LOAD, MACHINE, "float32")

    # Twice the samples and the components once; half a covariance and a projection.
    assert found["condition"] == Floor(
        macs=100 * 10 * (5 + 4), bytes=2 * 2000 + 1600, seconds=5600 / 1e6
    )
    assert found["analyze"] == Floor(macs=8e9, bytes=3200, seconds=8.0)
    assert found["quantize"].bytes == 3200
    assert (found["entropy_code"].bytes, found["packetize"].bytes) == (1650, 120)
    assert found["spool"] == Floor(macs=0, bytes=0, seconds=0)


def test_an_int8_network_is_held_against_the_int8_peak() -> None:
    """Conditioning stays in float32."""
    found = floors(LOAD, MACHINE, "int8")
    assert found["analyze"].seconds == 2.0
    assert found["condition"] == floors(LOAD, MACHINE, "float32")["condition"]


def test_a_projection_in_bytes_is_four_products_at_the_int8_peak() -> None:
    """The covariance stays in float32; where int8 was not measured all of it does."""
    fast = replace(MACHINE, bytes_per_s=1e12)
    for machine, peak in ((fast, 4e9), (replace(fast, int8_macs_per_s=None), 1e9)):
        found = floors(replace(LOAD, in_bytes=True), machine, "float32")["condition"]
        assert found.macs == 100 * 10 * (5 + 4 * 4)
        assert found.seconds == pytest.approx(100 * 10 * 5 / 1e9 + 100 * 10 * 16 / peak)


def test_floors_of_scenes_are_averaged() -> None:
    """Stage by stage."""
    one, two = ({"spool": Floor(macs=m, bytes=2 * m, seconds=m / 2)} for m in (2.0, 4.0))
    assert mean_floors([one, two]) == {"spool": Floor(macs=3, bytes=6, seconds=1.5)}


def test_a_load_is_what_the_model_makes_of_the_tile() -> None:
    """Components as they are sent; the network only where its branch runs."""
    tile = cubes.tile(bands=5, rows=16, cols=32)
    loads = [
        load_of(
            Encoder(bundle, backend="torch-cpu"), tile, patches=2, frame_bytes=9, packet_bytes=11
        )
        for bundle in (klt_bundle(), branch_bundle(), minmax_bundle(bands=5))
    ]

    linear, branch, scaled = loads
    assert linear.components is not None
    assert 0 < linear.components <= 5
    assert (linear.pixels, linear.bands, linear.sample_bytes) == (256, 5, 2)
    assert linear.latents == linear.components * 256
    assert (linear.network_macs, scaled.components) == (0, None)
    assert min(branch.network_macs, scaled.network_macs) > 0
    assert scaled.latents == 20 * 256 / 64


@pytest.mark.parametrize("int8_threads", [None, 1])
def test_the_machine_is_measured(int8_threads: int | None) -> None:
    """The int8 peak only where something runs in int8."""
    found = measure_machine(int8_threads=int8_threads, clock=SystemClock(), edge=64, copied=1 << 16)

    assert min(found.float32_macs_per_s, found.bytes_per_s) > 0
    assert (found.int8_macs_per_s is None) == (int8_threads is None)


def test_a_faster_speed_has_lower_floors() -> None:
    """A KLT of a quarter of the pixels asks a quarter of a covariance; quick, no rounding."""
    found = floors(replace(LOAD, fitted_share=0.25, quick=True), MACHINE, "float32")
    assert found["condition"].macs == 100 * 10 * (1.25 + 4)
    assert found["condition"].bytes == 1.25 * 2000 + 1600
    assert found["quantize"] == Floor(macs=0, bytes=0, seconds=0)

    tile = cubes.tile(bands=5, rows=128, cols=256)
    coder = Encoder(branch_bundle(), backend="torch-cpu")
    loads = [
        load_of(coder, tile, patches=2, frame_bytes=9, packet_bytes=11, speed=speed)
        for speed in (0, 1, 2, 3)
    ]
    assert [load.fitted_share for load in loads] == [1, 0.25, 0.125, 0.125]
    assert [load.quick for load in loads] == [False, True, True, True]
