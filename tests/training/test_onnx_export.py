"""Rules of `training.onnx_export`: another runtime computes what ours does, in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from codec.backends.openvino_backend import OpenvinoBackend
from codec.bundle import Bundle
from codec.compiled import sums_bytes_exactly
from fakes.bundles import minmax_bundle
from training.bundles import changed
from training.errors import CheckpointError
from training.loop import initialized
from training.onnx_export import write_onnx


@pytest.fixture
def bundle() -> Bundle:
    """The paper's layers in small, with int8 ranges."""
    ranges = np.array([1, 3, 3, 4, 4], np.float32)
    return changed(initialized(minmax_bundle(5), 0), tensors={"analysis_ranges": ranges})


@pytest.mark.parametrize("edges", [(16, 24), (8, 8)])
def test_latents_are_those_of_the_board(
    bundle: Bundle, tmp_path: Path, edges: tuple[int, int]
) -> None:
    """ONNX Runtime and OpenVINO round alike; float sums may differ by a level here and there.

    Where products of bytes are added in 16 bits, the board's weights have a bit less, and ONNX
    Runtime must compute in floats, or its sums saturate.
    """
    options, apart = onnxruntime.SessionOptions(), 0.01
    if not sums_bytes_exactly():
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        apart = 0.03
    path = tmp_path / "encoder.onnx"
    write_onnx(bundle, path)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    patches = np.random.default_rng(0).random((2, 5, *edges), np.float32)
    (latents,) = session.run(None, {"components": patches})
    expected = np.stack(OpenvinoBackend(bundle).analyze(list(patches)))
    assert latents.shape == expected.shape
    assert np.abs(latents - expected).mean() < apart * np.abs(expected).mean()


def test_kernels_are_int8(bundle: Bundle, tmp_path: Path) -> None:
    """Weights are stored as they are computed with: a quarter of float32's bytes."""
    path = tmp_path / "encoder.onnx"
    write_onnx(bundle, path)
    model = onnx.load(path)
    kernels = [one for one in model.graph.initializer if one.name.startswith("kernel_")]
    int8 = [one for one in kernels if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4]
    assert len(int8) == 5
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 5
    assert bundle.name in model.doc_string


def test_a_bundle_without_ranges_is_refused(tmp_path: Path) -> None:
    """The remedy is named."""
    with pytest.raises(CheckpointError, match="remedy: prismlink-train calibrate"):
        write_onnx(minmax_bundle(5), tmp_path / "encoder.onnx")
