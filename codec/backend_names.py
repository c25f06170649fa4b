"""What may run the network, by name: for settings and commands, which must not load PyTorch."""

from __future__ import annotations

from typing import Literal, TypeAlias

BackendName: TypeAlias = Literal["auto", "torch", "torch-cpu", "torch-cuda", "openvino"]
"""auto: the fastest at hand; torch: PyTorch on a GPU if there is one, else on the processor."""
