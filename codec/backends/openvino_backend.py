"""The encoder network on OpenVINO: int8 on CPUs.

The branch is built from the bundle's weights with quantization nodes at the ranges `calibrate`
measured; OpenVINO folds them into int8 convolutions. Squashing and the shortcut, which no range
fits (their values span four orders of magnitude), stay in float32. Integer sums do not depend on
their order, so neither do the latents on thread count or batch.

Source: OpenVINO, low-precision transformations (FakeQuantize as the carrier of ranges).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.compiled import sums_bytes_exactly
from codec.lifting import direct_latents
from codec.network import add_channels, branch_input
from codec.shortcut import mirrored
from codec.threads import each_of

# Importing OpenVINO reports to its makers over the network, from a thread of its own. Without its
# telemetry package it takes a stub, as its `tools.ovc.telemetry_utils` provides for.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not there

import openvino as ov  # noqa: E402  # after the line above
import openvino.opset13 as ops  # noqa: E402

_POOL_AFTER: Final = (1, 2, 3)
"""Encoder layers followed by pooling, from 0."""
_MOST_REQUESTS: Final = 64
"""Of all threads and shapes together; beyond it all are made anew."""


class OpenvinoBackend:
    """Runs a bundle's analysis network; float32 if the bundle has no calibrated ranges.

    Args:
        bundle: The model.
        threads: Threads of one inference; 0 leaves it to OpenVINO.
        streams: Inferences at a time.
    """

    def __init__(self, bundle: Bundle, threads: int = 0, streams: int = 1) -> None:
        self.name, self.device = "openvino-cpu", None
        self.weights: tuple[NDArray[Any], ...] = ()  # they are compiled in
        self.precision = "int8" if "analysis_ranges" in bundle.tensors else "float32"
        self._bundle = bundle
        analysis = bundle.analysis()
        self._runs_branch = analysis.runs_branch
        self._core = ov.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._requests: dict[tuple[int, ...], ov.InferRequest] = {}
        self._compiling = threading.Lock()
        self._each = each_of(streams, "analyst")

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the network on patches of shape (components, rows, cols) each, any mix of shapes.

        Returns:
            Latents of each patch, shape (channels, rows/8, cols/8), same order.
        """
        return [*self._each(self._run, patches)]

    def _run(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        spec = self._bundle.network
        direct = None if spec.shortcut == "none" else direct_latents(spec.shortcut, patch)
        if direct is not None and not self._runs_branch:
            return direct
        with torch.inference_mode():
            components = torch.from_numpy(patch[None])
            seen = mirrored(branch_input(components, spec.components, spec.squash)).numpy()
            request = self._request(*seen.shape[2:])
            branch = torch.from_numpy(request.infer([seen], share_inputs=True)[0])
            if direct is not None:
                branch = add_channels(torch.from_numpy(direct[None]), branch)
            latents: NDArray[np.float32] = branch[0].numpy()
        return latents

    def _request(self, rows: int, cols: int) -> ov.InferRequest:
        """A graph for patches of a shape, and this thread's own room for an inference.

        A tile has at most four shapes, an instrument's tiles the same ones.
        """
        key = rows, cols, threading.get_ident()
        with self._compiling:
            if key not in self._requests:
                if len(self._requests) >= _MOST_REQUESTS:
                    self._requests.clear()
                alike = (r for k, r in self._requests.items() if k[:2] == key[:2])
                if (request := next(alike, None)) is not None:
                    model = request.get_compiled_model()
                else:
                    graph = _branch_graph(self._bundle, rows, cols)
                    model = self._core.compile_model(graph, "CPU", self._options)
                self._requests[key] = model.create_infer_request()
            return self._requests[key]


def _branch_graph(bundle: Bundle, rows: int, cols: int) -> ov.Model:
    """SSCNet's encoder as an OpenVINO graph."""
    ranges = bundle.tensors.get("analysis_ranges")
    names = [n.removesuffix(".weight") for n in bundle.tensors if n.startswith("analysis.branch.")]
    indices = sorted({int(name.split(".")[2]) for name in names if "bias" not in name})
    convolutions, activations = indices[0::2], indices[1::2]
    headroom = np.float32(1 if sums_bytes_exactly() else 2)
    source = ops.parameter([1, bundle.network.components, rows, cols], np.float32)
    x: Any = source
    for layer, (conv, prelu) in enumerate(zip(convolutions, activations, strict=True)):
        weight = bundle.tensors[f"analysis.branch.{conv}.weight"]
        bias = bundle.tensors[f"analysis.branch.{conv}.bias"]
        kernel: Any = ops.constant(weight)
        if ranges is not None:
            x = _quantized(x, ranges[layer : layer + 1], levels=256)
            magnitude = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
            # Where sums of two products must fit 16 bits, weights take half of theirs.
            kernel = _quantized(kernel, magnitude * headroom, levels=255)
        x = ops.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
        x = ops.add(x, ops.constant(bias[None, :, None, None]))
        x = ops.prelu(x, ops.constant(bundle.tensors[f"analysis.branch.{prelu}.weight"]))
        if layer in _POOL_AFTER:
            x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    return ov.Model([x], [source], "analysis")


def _quantized(x: Any, magnitude: NDArray[np.float32], levels: int) -> Any:
    """Symmetric quantization to [−magnitude, magnitude]; 256 levels lose the top one."""
    # A range of zero (a convolution that still stands at its zero start) is no range.
    high = np.maximum(magnitude, np.float32(1e-6)).astype(np.float32)
    low = -high * np.float32(128 / 127) if levels == 256 else -high
    return ops.fake_quantize(x, low, high, low, high, levels)
