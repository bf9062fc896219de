import threading

import numpy as np
import onnx
import pytest

from nas_gan.metrics.onnx_graph import GraphInParts


def doubled_and_one():
    """`y = 2 x + 1` for `(n, 3)`, as a model."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    constants = {"two": np.float32(2), "one": np.float32(1)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "one"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", float32, ["n", 3])],
        [helper.make_tensor_value_info("y", float32, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 50])
@pytest.mark.parametrize("threads", [1, 3, None])
def test_the_parts_come_back_whole_and_in_their_order(n, threads):
    batch = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
    found = GraphInParts(doubled_and_one(), threads)(batch)
    assert found.shape == (n, 3)
    np.testing.assert_allclose(found, 2 * batch + 1, rtol=1e-6)


def test_as_many_parts_run_at_once_as_there_are_threads(monkeypatch):
    graph = GraphInParts(doubled_and_one(), 3)
    together, run = threading.Barrier(3, timeout=60), graph._run

    def waiting(part):
        together.wait()  # for two others, which must be running
        return run(part)

    monkeypatch.setattr(graph, "_run", waiting)
    assert len(graph(np.ones((6 * GraphInParts.ROWS, 3), np.float32))) == 6 * GraphInParts.ROWS


def test_what_is_wrong_with_a_part_reaches_the_caller():
    with pytest.raises(Exception, match="invalid dimensions"):
        GraphInParts(doubled_and_one(), 2)(np.ones((20, 4), np.float32))
