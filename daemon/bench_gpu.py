"""The network on a GPU, batch by batch, beside what the device could do at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle
from codec.network import count_macs
from codec.patch_grid import PATCH_PX
from daemon.bench_floors import best_s
from daemon.clock import Clock

BATCHES: Final = (8, 32, 128)
_EDGE: Final = 8192
_COPIED: Final = 1 << 28


def measure_gpu(
    bundle: Bundle,
    clock: Clock,
    device: str = "cuda",
    *,
    batches: Sequence[int] = BATCHES,
    edge: int = _EDGE,
    copied: int = _COPIED,
) -> dict[str, Any] | None:
    """Measure patches per second from host memory to host memory, and the two ceilings.

    Args:
        bundle: The model.
        clock: Times them.
        device: Of PyTorch.
        batches: Patches given to the network at a time.
        edge: Edge of the matrices that tell the rate of bfloat16 products [elements].
        copied: Size of the copy to the device [bytes].

    Returns:
        The ceilings, and for each batch size that fits the device's memory the rate and its share
        of the ceiling that binds; None where there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return None
    backend = TorchBackend(bundle, device)
    shape = bundle.conditioner.components, PATCH_PX, PATCH_PX
    patch = np.random.default_rng(0).random(shape, dtype=np.float32)
    left, right = torch.rand(2, edge, edge, device=device).to(torch.bfloat16)
    source = torch.ones(copied, dtype=torch.uint8)
    if device == "cuda":
        source = source.pin_memory()

    def shortest_s(run: Callable[[], object]) -> float:
        def whole() -> None:
            run()
            if device == "cuda":
                torch.cuda.synchronize()

        return best_s(whole, clock)

    macs_per_s = edge**3 / shortest_s(lambda: torch.mm(left, right))
    bytes_per_s = copied / shortest_s(lambda: source.to(device, copy=True))
    ceilings = {"copy": bytes_per_s / patch.nbytes}
    if bundle.analysis().runs_branch:
        macs, _ = count_macs(bundle.network, PATCH_PX, PATCH_PX)
        ceilings["products"] = macs_per_s / macs
    binding = min(ceilings, key=ceilings.__getitem__)
    rows = []
    for batch in batches:
        patches = [patch] * batch
        try:
            patches_per_s = batch / shortest_s(partial(backend.analyze, patches))
        except torch.OutOfMemoryError:
            break
        share = patches_per_s / ceilings[binding]
        rows.append({"batch": batch, "patches_per_s": patches_per_s, "share_of_ceiling": share})
    return {
        "bfloat16_macs_per_s": macs_per_s,
        "host_to_device_bytes_per_s": bytes_per_s,
        "binding": binding,
        "batches": rows,
    }
