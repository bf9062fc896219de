from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx_graphs import in_order, model_of, node, normal, run

from export.graph import Graph

pytestmark = pytest.mark.onnx


@pytest.fixture
def graph() -> Graph:
    nodes = [node("Mul", "x a", "h"), node("Tanh", "h", "t"), node("Add", "t h", "y")]
    return Graph(model_of(nodes, ["n", 4], a=normal(4)))


def test_who_makes_and_who_reads_a_tensor(graph):
    assert graph.producer("x") is None
    assert graph.producer("t").op_type == "Tanh"
    assert [reader.op_type for reader in graph.readers("h")] == ["Tanh", "Add"]
    assert [graph.is_private(name) for name in ("h", "t", "y")] == [False, True, False]


def test_nodes_are_sorted_and_what_no_output_needs_is_dropped(graph):
    graph.nodes = [graph.make("Neg", ["x"], "unread"), *reversed(graph.nodes)]
    graph.constant(normal(9), "also_unread")
    model = graph.to_model()
    assert in_order(model) == ["Mul", "Tanh", "Add"]
    assert [weight.name for weight in model.graph.initializer] == ["a"]


def test_equal_constants_are_kept_once_and_others_of_the_same_bytes_are_not(graph):
    same, other = graph.constant(normal(4), "a"), graph.constant(normal(4).reshape(1, 4), "a")
    assert len({"a", same, other}) == 3
    graph.nodes += [graph.make("Mul", ["h", same], "i"), graph.make("Mul", ["i", other], "j")]
    graph.producer("y").input[:] = ["t", "j"]
    model, x = graph.to_model(), normal(3, 4)
    assert len(model.graph.initializer) == 2
    h = x * normal(4)
    np.testing.assert_allclose(run(model, x)[0], np.tanh(h) + h * normal(4) ** 2, rtol=1e-5)
