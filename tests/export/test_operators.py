from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.engines import EngineChoice, EngineJob, build_engines
from export.errors import ExportError
from export.manifest import BatchRange, TensorSpec
from export.operators import TENSORRT_10_3, TENSORRT_11_4, refusals
from export.targets import unfit
from export.to_tensorrt import TensorRTRTX


def graph(op: str, *, domain: str = "", opset: int = 18, **attributes) -> onnx.ModelProto:
    """images = op(latents + 0), for latents `(batch, 3, 4, 4)`."""
    sizes = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    inputs = ["sum", "", "scales"] if op == "Resize" else ["sum"]
    nodes = [
        helper.make_node("Add", ["latents", "zero"], ["sum"], "first"),
        helper.make_node(op, inputs, ["images"], "the_node", domain=domain, **attributes),
    ]
    size = 8 if op == "Resize" else 4
    described = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])],
        [zero, sizes] if op == "Resize" else [zero],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(described, ir_version=9, opset_imports=opsets)


REFUSED = [
    (graph("Det"), "the_node (Det): TensorRT 10.3 has no such operator"),
    (graph("Unique"), "the_node (Unique)"),
    (graph("Resize", mode="area"), "not by area"),
    (graph("Resize", mode="linear", antialias=1), "antialiasing"),
    (graph("FusedGelu", domain="com.microsoft"), "no operators of com.microsoft"),
    (graph("Relu", opset=21), "opset 21; TensorRT 10.3 reads up to 20"),
]


@pytest.mark.parametrize(("model", "said"), REFUSED)
def test_the_node_that_will_not_build_is_named(model, said):
    [found] = refusals(model, TENSORRT_10_3)
    assert said in found


def test_a_node_inside_another_is_found():
    inner = graph("Det").graph
    inner.ClearField("input")
    yes = helper.make_node("If", ["c"], ["images"], "choice", then_branch=inner, else_branch=inner)
    described = helper.make_graph([yes], "outer", [], inner.output)
    model = helper.make_model(described, opset_imports=[helper.make_opsetid("", 18)])
    assert [line.split()[0] for line in refusals(model, TENSORRT_11_4)] == ["the_node"] * 2


def test_the_shipped_generator_runs_on_every_board(generator_onnx):
    assert list(unfit(onnx.load(generator_onnx), ())) == []


def test_a_board_that_was_asked_for_must_run_the_graph():
    [orin, thor] = unfit(graph("Det"), ())
    assert (orin.target, orin.compute_capability) == ("jetson-orin", "8.7")
    assert (thor.target, thor.compute_capability) == ("jetson-thor", "11.0")
    with pytest.raises(ExportError, match=r"jetson-thor does not run this graph: the_node \(Det\)"):
        list(unfit(graph("Det"), ("jetson-thor",)))


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    "model",
    [
        *(graph(op) for op in ("Relu", "Softplus", "Tanh", "HardSwish", "Mish", "Det", "Sigmoid")),
        graph("Resize", mode="linear"),
        graph("Resize", mode="nearest", coordinate_transformation_mode="asymmetric"),
        graph("Resize", mode="cubic"),
        graph("Resize", mode="linear", antialias=1),
    ],
    ids=lambda model: f"{model.graph.node[1].op_type} {len(model.graph.node[1].attribute)}",
)
def test_the_builder_of_the_same_family_agrees(model, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    tensors = tuple(
        TensorSpec(value.name, "float32", ("batch", 3, size, size))
        for value, size in (
            (model.graph.input[0], 4),
            (model.graph.output[0], model.graph.output[0].type.tensor_type.shape.dim[2].dim_value),
        )
    )
    job = EngineJob(nn.Identity(), path, tensors, BatchRange(1, 2, 4))
    built = build_engines(EngineChoice(TensorRTRTX(("8.6",))), job)
    assert bool(built.engines) == (not list(refusals(model, TENSORRT_11_4))), built.not_built
