from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
from onnx import TensorProto, helper, numpy_helper

from export.naming import name_after_layers_


def test_nodes_with_weights_are_called_after_their_layer_and_the_graph_computes_the_same():
    weights = {
        "l1.weight_scaled": np.eye(3, dtype=np.float32),
        "l1.bias": np.ones(3, np.float32),
        "unknown": np.full(3, 2, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "l1.weight_scaled", "l1.bias"], ["a"], "n0"),
        helper.make_node("Relu", ["a"], ["b"], "n1"),
        helper.make_node("Gemm", ["b", "l1.weight_scaled", "l1.bias"], ["c"], "n2"),
        helper.make_node("Mul", ["c", "unknown"], ["d"], "n3"),
        helper.make_node("Gemm", ["d", "l1.weight_scaled", "l1.bias"], ["images"], "n4"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 3])],
        [value("images", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[value("a", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    [before] = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    name_after_layers_(model)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert names == ["l1/Gemm", "n1", "l1/Gemm_2", "n3", "l1/Gemm_3"]
    assert [node.output[0] for node in model.graph.node] == [
        *("l1/Gemm", "b", "l1/Gemm_2", "d", "images"),
    ]
    [after] = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(before, after)
