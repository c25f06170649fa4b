"""Tiles on a GPU, batch by batch, beside what the device could do at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from codec.backends.device_backend import DeviceBackend
from codec.backends.staging import Runtime
from codec.encoder import Encoder
from codec.errors import BackendError
from codec.jobs import PatchJob
from codec.network import count_macs
from codec.tile import Tile
from daemon.bench_floors import best_s
from daemon.clock import Clock

BATCHES: Final = (8, 32, 128)
_EDGE: Final = 8192
_COPIED: Final = 1 << 28


def measure_gpu(
    encoder: Encoder,
    tile: Tile,
    clock: Clock,
    *,
    batches: Sequence[int] = BATCHES,
    edge: int = _EDGE,
    copied: int = _COPIED,
) -> dict[str, Any] | None:
    """Measure patches per second from samples to symbols in host memory, and the two ceilings.

    Args:
        encoder: What is measured: conditioning, network and rounding; not its entropy coder.
        tile: What it is measured on; taken anew for each batch, as many times as that takes.
        clock: Times them.
        batches: Patches given to the device at a time.
        edge: Edge of the matrices that tell the rate of bfloat16 products [elements].
        copied: Size of the copy to the device [bytes].

    Returns:
        The ceilings, and for each batch size that fits the device's memory the rate and its share
        of the ceiling that binds; None where no device is at work.
    """
    if not isinstance(encoder.backend, DeviceBackend):
        return None
    runtime = encoder.backend.runtime
    macs_per_s = edge**3 / _product_s(runtime, edge, clock)
    bytes_per_s = copied / _copy_s(runtime, copied, clock)
    patches = encoder.open(tile).patches
    patch_bytes = tile.samples.nbytes / len(patches)
    ceilings = {"copy": bytes_per_s / patch_bytes}
    if encoder.bundle.analysis().runs_branch:
        macs = [count_macs(encoder.bundle.network, *patch.extent.shape)[0] for patch in patches]
        ceilings["products"] = macs_per_s / float(np.mean(macs))
    binding = min(ceilings, key=ceilings.__getitem__)
    rows = []
    for batch in batches:
        try:
            patches_per_s = batch / best_s(partial(_encode, encoder, tile, batch), clock)
        except BackendError:
            break
        share = patches_per_s / ceilings[binding]
        rows.append({"batch": batch, "patches_per_s": patches_per_s, "share_of_ceiling": share})
    return {
        "bfloat16_macs_per_s": macs_per_s,
        "host_to_device_bytes_per_s": bytes_per_s,
        "binding": binding,
        "batches": rows,
    }


def _encode(encoder: Encoder, tile: Tile, batch: int) -> None:
    """Take so many patches to symbols; a tile that is opened again is uploaded again.

    Raises:
        BackendError: If they do not fit.
    """
    jobs: list[PatchJob] = []
    while len(jobs) < batch:
        jobs += encoder.open(tile).patches
    if (device := encoder.backend.device) is not None:
        device.symbols(jobs[:batch])


def _product_s(runtime: Runtime, edge: int, clock: Clock) -> float:
    with runtime.computing():
        left, right = torch.rand(2, edge, edge, device=runtime.device).to(torch.bfloat16)
    return _best_s(runtime, lambda: torch.mm(left, right), clock)


def _copy_s(runtime: Runtime, size_bytes: int, clock: Clock) -> float:
    source = runtime.pinned(size_bytes)
    target = torch.empty(size_bytes, dtype=torch.uint8, device=runtime.device)
    return _best_s(runtime, lambda: runtime.copy(target, source), clock)


def _best_s(runtime: Runtime, start: Callable[[], object], clock: Clock) -> float:
    """Shortest time from the start of something to its end on the device [s]."""

    def whole() -> None:
        with runtime.computing():
            start()
            runtime.mark().synchronize()

    return best_s(whole, clock)
