"""Graphs that are small enough to write down, and ONNX Runtime on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
NEAREST = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
LINEAR = dict(mode="linear", coordinate_transformation_mode="half_pixel")
CUBIC = dict(mode="cubic", coordinate_transformation_mode="half_pixel", cubic_coeff_a=-0.75)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node with its inputs as words; a dot is an input that is left out."""
    names = [name.replace(".", "") for name in inputs.split()]
    return helper.make_node(op_type, names, [output], output, **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    outputs: str = "y",
    /,
    **weights: Array,
) -> onnx.ModelProto:
    """A checked model from `x` of `shape` to `outputs`, opset 18, float32."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    """The outputs for `x`, computed node by node as the graph says."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, x: Array) -> None:
    """Both give the same outputs to 1e-5 of their size."""
    for expected, found in zip(run(before, x), run(after, x), strict=True):
        scale = float(np.abs(expected).max())
        assert scale > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(scale, 1))


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph.node)


def in_order(model: onnx.ModelProto) -> list[str]:
    """The operators in the order in which they run."""
    return [node.op_type for node in model.graph.node]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers of a shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def scales(height: float, width: float) -> NDArray[np.float32]:
    """The scales of a Resize along height and width."""
    return np.array([1, 1, height, width], np.float32)
