"""How long a network takes, measured until it is really done."""

from __future__ import annotations

import statistics
import time
from typing import Final

import torch

from codec.bundle import Bundle
from codec.patch_grid import PATCH_PX

_RUNS: Final = 5


@torch.inference_mode()
def encoder_ms(bundle: Bundle) -> float:
    """Time the encoder network on one patch, in float32, on a GPU if there is one [ms]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = bundle.analysis().to(device)
    patch = torch.zeros(1, bundle.network.components, PATCH_PX, PATCH_PX, device=device)
    took_ms = []
    for _ in range(_RUNS + 1):
        start_s = time.perf_counter()
        network(patch)
        if device == "cuda":
            torch.cuda.synchronize()
        took_ms.append(1000 * (time.perf_counter() - start_s))
    return statistics.median(took_ms[1:])
