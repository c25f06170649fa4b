"""Rules of `daemon.bench_gpu`: no device, no row; else rates beside ceilings."""

from __future__ import annotations

import pytest
import torch

from daemon.bench_gpu import measure_gpu
from daemon.clock import SystemClock
from fakes.bundles import branch_bundle, klt_bundle


def test_without_a_gpu_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not the CPU that is measured instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure_gpu(branch_bundle(), SystemClock()) is None


def test_each_batch_is_held_against_the_ceiling_that_binds() -> None:
    """The arithmetic, on a device that every machine has; a network that is not run asks none."""
    small = {"batches": (1, 2), "edge": 64, "copied": 1 << 16}
    found = measure_gpu(branch_bundle(), SystemClock(), "cpu", **small)  # type: ignore[arg-type]
    assert found is not None
    assert found["binding"] in ("copy", "products")
    assert [row["batch"] for row in found["batches"]] == [1, 2]
    rates = {row["patches_per_s"] / row["share_of_ceiling"] for row in found["batches"]}
    assert max(rates) == pytest.approx(min(rates))

    linear = measure_gpu(klt_bundle(), SystemClock(), "cpu", **small)  # type: ignore[arg-type]
    assert linear is not None
    assert linear["binding"] == "copy"
