"""`prismlink` with a fault: a device is lost while the file that `LOST` names is there.

`DEVICE` says which: OpenVINO's, or a GPU, which the processor stands in for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from codec.backends import cuda_runtime, device_backend
from codec.backends.device_backend import DeviceBackend
from codec.backends.openvino_backend import OpenvinoBackend
from daemon.cli import main
from fakes.late_device import LateRuntime

_analyze = OpenvinoBackend.analyze


def _fail() -> None:
    """As CUDA does when a card falls off its bus."""
    if Path(os.environ["LOST"]).exists():
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be")


def _analyze_or_fail(self: OpenvinoBackend, patches: Any) -> Any:
    _fail()
    return _analyze(self, patches)


class _Gpu(DeviceBackend):
    """By the name that a GPU would give it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.name = "torch-cuda"


class _Runtime(LateRuntime):
    """May be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = _fail


if __name__ == "__main__":
    if os.environ["DEVICE"] == "torch-cuda":
        torch.cuda.is_available = lambda: True
        device_backend.DeviceBackend = _Gpu  # type: ignore[misc]
        cuda_runtime.CudaRuntime = _Runtime  # type: ignore[assignment,misc]
    OpenvinoBackend.analyze = _analyze_or_fail  # type: ignore[method-assign]
    main()
