"""The encoder network as an ONNX file, int8 as calibrated: for TensorRT and ONNX Runtime.

Quantization is written as QuantizeLinear and DequantizeLinear around each convolution, which both
take as int8 kernels: the same ranges as `codec.backends.openvino_backend`, weights per channel.
Squashing and the shortcut are not part of it; they stay in float32 with whoever calls.

Source: ONNX operators, opset 17.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codec.bundle import Bundle
from training.errors import CheckpointError
from training.files import write_whole

OPSET: Final = 17
_POOL_AFTER: Final = (1, 2, 3)
"""Encoder layers followed by pooling, from 0."""
_LARGEST: Final = 127


def write_onnx(bundle: Bundle, path: Path) -> None:
    """Write the encoder network of a bundle.

    Input "components", float32 (n, components, rows, cols), rows and cols multiples of eight;
    output "latents", float32 (n, latent channels, rows/8, cols/8).

    Raises:
        CheckpointError: If the bundle has no int8 ranges.
        TrainingError: If the file cannot be written.
    """
    if "analysis_ranges" not in bundle.tensors:
        raise CheckpointError(
            f"model {bundle.name} has no int8 ranges; remedy: prismlink-train calibrate"
        )
    write_whole(path, _model(bundle).SerializeToString())


def _model(bundle: Bundle) -> Any:
    weights = {
        name.removeprefix("analysis.branch."): array
        for name, array in bundle.tensors.items()
        if name.startswith("analysis.branch.")
    }
    indices = sorted({int(name.split(".")[0]) for name in weights})
    layers = zip(indices[0::2], indices[1::2], bundle.tensors["analysis_ranges"], strict=True)
    graph = _Graph()
    x = "components"
    for layer, (conv, prelu, magnitude) in enumerate(layers):
        x = graph.rounded(x, f"input_{layer}", np.float32(magnitude))
        kernel = graph.kernel(f"kernel_{layer}", weights[f"{conv}.weight"])
        bias = graph.constant(f"bias_{layer}", weights[f"{conv}.bias"])
        x = graph.add("Conv", [x, kernel, bias], pads=[1, 1, 1, 1])
        slope = graph.constant(f"slope_{layer}", weights[f"{prelu}.weight"][:, None, None])
        x = graph.add("PRelu", [x, slope])
        if layer in _POOL_AFTER:
            x = graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("Identity", [x], output="latents")
    spec = bundle.network
    made = helper.make_graph(
        graph.nodes,
        "analysis",
        [_shaped("components", ["n", spec.components, "rows", "cols"])],
        [_shaped("latents", ["n", spec.latent_channels, "latent_rows", "latent_cols"])],
        graph.constants,
    )
    model = helper.make_model(
        made,
        producer_name="prismlink",
        doc_string=f"encoder network of model {bundle.name}",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants, as they are made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def rounded(self, x: str, name: str, magnitude: np.float32) -> str:
        """Round to 256 levels; all up to the magnitude keeps its place."""
        scale = self.constant(f"{name}_scale", _scale(magnitude))
        zero = self.constant(f"{name}_zero", np.zeros((), np.int8))
        return self.add(
            "DequantizeLinear", [self.add("QuantizeLinear", [x, scale, zero]), scale, zero]
        )

    def kernel(self, name: str, weight: NDArray[np.float32]) -> str:
        """Add weights as int8, with a scale for each output channel."""
        scales = _scale(np.abs(weight).max(axis=(1, 2, 3)))
        rounded = np.rint(weight / scales[:, None, None, None]).astype(np.int8)
        inputs = [
            self.constant(name, rounded),
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero", np.zeros(len(scales), np.int8)),
        ]
        return self.add("DequantizeLinear", inputs, axis=0)


def _scale(magnitude: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """Of one level; a range of zero is none."""
    return np.asarray(np.maximum(magnitude, np.float32(1e-6)) / np.float32(_LARGEST), np.float32)


def _shaped(name: str, shape: list[str | int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
