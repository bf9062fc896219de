from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from export.errors import ExportError
from export.parity import compare
from export.precision import FP32_OPS, to_fp16

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx.reference  # noqa: E402 - skipped without it

pytestmark = pytest.mark.onnx

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def graph_of(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from `x` (4,) to `y` (4,), both float32."""
    make_tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [make_tensor("x", FLOAT, [4])],
        [make_tensor("y", FLOAT, [4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    [y] = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph.input, *graph.value_info, *graph.output)
    }
    return found | {w.name: w.data_type for w in graph.initializer}


def test_arithmetic_is_rounded_to_half_and_the_result_is_float32():
    third = np.full(4, 1 / 3, np.float32)
    model = to_fp16(graph_of(onnx.helper.make_node("Add", ["x", "w"], ["y"]), w=third))
    x = np.array([0.1, 1.0, 100.0, -0.2], np.float32)
    found = run(model, x)
    expected = x.astype(np.float16) + third.astype(np.float16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_sensitive_operator_reads_and_writes_float32_and_a_tensor_is_cast_once():
    nodes = [
        onnx.helper.make_node("Add", ["x", "x"], ["h"]),
        onnx.helper.make_node("Sigmoid", ["h"], ["s"]),
        onnx.helper.make_node("Log", ["h"], ["l"]),
        onnx.helper.make_node("Mul", ["s", "l"], ["y"]),
    ]
    model = to_fp16(graph_of(*nodes))
    kinds = types(model)
    assert [kinds[name] for name in ("h", "s", "l", "y")] == [HALF, FLOAT, FLOAT, FLOAT]
    casts = Counter(node.input[0] for node in model.graph.node if node.op_type == "Cast")
    assert casts["x"] == casts["h"] == 1


def test_a_weight_beyond_float16_is_refused_by_name():
    large = np.array([1, 2, 3, 1e5], np.float32)
    model = graph_of(onnx.helper.make_node("Mul", ["x", "big"], ["y"]), big=large)
    with pytest.raises(ExportError, match=r"big: the largest weight is 100000, float16 ends at"):
        to_fp16(model)


def test_a_graph_within_a_node_is_refused():
    make_tensor = onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["n"])], "inner", [], [make_tensor("n", FLOAT, [4])]
    )
    yes = np.array(True)
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(ExportError, match="export it in fp32"):
        to_fp16(graph_of(node, c=yes))


def test_the_generator_in_half_is_half_as_large_and_above_60_db(generator, generator_onnx):
    model = to_fp16(onnx.load(generator_onnx))
    onnx.checker.check_model(model, full_check=True)
    latents = torch.randn(16, generator.latent_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = generator(latents).numpy()
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"latents": latents.numpy()})
    assert compare(expected, found).psnr_db > 60
    assert len(data) < 0.6 * generator_onnx.stat().st_size


def test_convolutions_of_the_generator_are_half_and_sensitive_operators_are_not(generator_onnx):
    model = to_fp16(onnx.load(generator_onnx))
    kinds = types(model)
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "DepthToSpace", "Gemm", "Tanh"}:
            assert {kinds[name] for name in node.input} == {HALF}, node.name
        elif node.op_type in FP32_OPS:
            assert {kinds[name] for name in node.input} == {FLOAT}, node.name
    convolutions = {"Conv", "ConvTranspose"}
    assert sum(node.op_type in convolutions for node in model.graph.node) == 23
