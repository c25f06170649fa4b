"""Rules of `daemon.bench_gpu`: no device, no row; else rates beside ceilings."""

from __future__ import annotations

from typing import Any, Final

import pytest

from codec.backends.device_backend import DeviceBackend
from codec.bundle import Bundle
from codec.encoder import Encoder
from daemon.bench_gpu import measure_gpu
from daemon.clock import SystemClock
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle
from fakes.late_device import LateRuntime

TILE: Final = cubes.tile(bands=5, rows=20, cols=200)
SMALL: Final[dict[str, Any]] = {"edge": 64, "copied": 1 << 16}


def on_device(bundle: Bundle, runtime: LateRuntime) -> Encoder:
    """An encoder whose tiles are on a device."""
    encoder = Encoder(bundle, backend="torch-cpu")
    encoder.backend = DeviceBackend(bundle, runtime)
    return encoder


def test_without_a_gpu_there_is_nothing() -> None:
    """And it is not the CPU that is measured instead."""
    assert measure_gpu(Encoder(branch_bundle(), backend="torch-cpu"), TILE, SystemClock()) is None


@pytest.mark.parametrize("bundle", [branch_bundle(), minmax_bundle(5)], ids=["klt", "minmax"])
def test_each_batch_is_held_against_the_ceiling_that_binds(bundle: Bundle) -> None:
    """The arithmetic, on a device that every machine has."""
    encoder = on_device(bundle, LateRuntime())
    found = measure_gpu(encoder, TILE, SystemClock(), batches=(1, 3), **SMALL)
    assert found is not None
    assert found["binding"] in ("copy", "products")
    assert [row["batch"] for row in found["batches"]] == [1, 3]
    rates = {row["patches_per_s"] / row["share_of_ceiling"] for row in found["batches"]}
    assert max(rates) == pytest.approx(min(rates))


def test_a_network_that_is_not_run_has_no_ceiling() -> None:
    """Copies alone bind the linear codec."""
    encoder = on_device(klt_bundle(), LateRuntime())
    found = measure_gpu(encoder, TILE, SystemClock(), batches=(1,), **SMALL)
    assert found is not None
    assert found["binding"] == "copy"
    assert found["batches"][0]["share_of_ceiling"] == pytest.approx(
        found["batches"][0]["patches_per_s"]
        / (found["host_to_device_bytes_per_s"] / (TILE.samples.nbytes / 2))
    )


def test_a_batch_that_does_not_fit_is_no_row() -> None:
    """Nor is a larger one tried."""
    runtime = LateRuntime()
    encoder = on_device(klt_bundle(), runtime)

    def fail() -> None:
        if len(encoder.backend._strips) > 2:  # type: ignore[attr-defined]
            raise RuntimeError("CUDA out of memory")

    runtime.fail = fail
    found = measure_gpu(encoder, TILE, SystemClock(), batches=(2, 8, 1), **SMALL)
    assert found is not None
    assert [row["batch"] for row in found["batches"]] == [2]
