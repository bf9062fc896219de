from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.errors import ExportError
from export.rewrites import ALL
from export.to_onnx import GraphSettings, build_model, write_onnx

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxsim", reason="onnxsim is not installed")

import onnx  # noqa: E402 - skipped without it

pytestmark = pytest.mark.onnx


def images(model: bytes, latents: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["images"], {"latents": latents.numpy()})[0]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_draws_the_images_of_torch_at_any_batch_size(generator, generator_onnx, batch):
    latents = torch.randn(batch, generator.latent_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = generator(latents).numpy()
    assert expected.std() > 0.2
    np.testing.assert_allclose(images(generator_onnx.read_bytes(), latents), expected, atol=2e-5)


def test_without_rewrites_each_layer_is_one_node_and_no_shape_is_computed(
    generator, generator_plain
):
    found = operators(generator_plain)
    layers = Counter(type(layer) for layer in generator.modules())
    assert found["Conv"] == layers[nn.Conv2d]
    assert found["Gemm"] == layers[nn.Linear]
    assert found["Resize"] == 5 + 3  # interpolating up-edges, and skips into cells 2 and 3
    assert not found.keys() & {"Shape", "Concat", "Gather", "Slice", "Softplus", "Upsample"}
    assert sum(found.values()) < 200


def test_every_way_of_upsampling_is_one_node_with_a_constant_scale(upsampler_onnx):
    model = onnx.load(upsampler_onnx)
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    modes = {a.s.decode() for node in resizes for a in node.attribute if a.name == "mode"}
    assert modes == {"nearest", "linear", "cubic"}
    assert all(weights[node.input[2]].tolist() == [1, 1, 2, 2] for node in resizes)
    assert operators(model)["ConvTranspose"] == 1


def test_input_and_output_are_float32_with_a_dynamic_batch(generator_onnx):
    graph = onnx.load(generator_onnx).graph
    described = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for v in (*graph.input, *graph.output)
        for dims in [v.type.tensor_type.shape.dim]
    ]
    float32 = onnx.TensorProto.FLOAT
    assert described == [
        ("latents", float32, ["batch", 120]),
        ("images", float32, ["batch", 3, 32, 32]),
    ]


@pytest.mark.parametrize("rewrites", [ALL, ()], ids=["rewritten", "as traced"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_conditional_graph_draws_each_class_at_any_batch_size(
    conditional, tmp_path, precision, rewrites
):
    settings = GraphSettings(precision, rewrites=rewrites)
    write_onnx(conditional, tmp_path / "c.onnx", settings)
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = conditional(torch.cat([noise, torch.eye(5)], dim=1)).numpy()
    feed = {"latents": noise.numpy(), "labels": np.arange(5)}
    for rows in (slice(0, 5), slice(3, 4)):
        [found] = session.run(["images"], {name: array[rows] for name, array in feed.items()})
        # float16 has 11 bits, and a few roundings
        atol = 1e-6 if precision == "fp32" else 4 * 2**-11 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected[rows], atol=atol)


def test_a_conditional_graph_names_both_inputs_and_does_nothing_twice(conditional_onnx):
    graph = onnx.load(conditional_onnx).graph
    described = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for v in graph.input
        for dims in [v.type.tensor_type.shape.dim]
    ]
    assert described == [
        ("latents", onnx.TensorProto.FLOAT, ["batch", 6]),
        ("labels", onnx.TensorProto.INT64, ["batch"]),
    ]
    # The label behind the noise: what the network splits and joins again is gone.
    assert [node.op_type for node in graph.node][:3] == ["Gather", "Concat", "Reshape"]


def test_a_label_that_no_class_has_is_an_error(conditional_onnx):
    session = onnxruntime.InferenceSession(conditional_onnx, providers=["CPUExecutionProvider"])
    refused = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
    with pytest.raises(refused, match="out of data bounds"):
        session.run(None, {"latents": np.zeros((1, 6), np.float32), "labels": np.array([5])})


def test_the_same_weights_give_the_same_bytes_also_in_training_mode_and_nothing_is_printed(
    upsampler, upsampler_onnx, tmp_path, capfd
):
    training = copy.deepcopy(upsampler).train()
    write_onnx(training, tmp_path / "again.onnx")
    written = (tmp_path / "again.onnx").read_bytes()
    assert written == upsampler_onnx.read_bytes()
    assert training.training  # it was left as it was
    assert b".py" not in written  # no stack trace of the exporting machine
    assert capfd.readouterr() == ("", "")


def test_opset_17_draws_the_same_images(upsampler, upsampler_onnx):
    model = build_model(upsampler, opset=17)
    assert model.opset_import[0].version == 17
    latents = torch.linspace(-2, 2, 18).view(3, 6)
    np.testing.assert_allclose(
        images(model.SerializeToString(), latents),
        images(upsampler_onnx.read_bytes(), latents),
        atol=1e-6,
    )


@pytest.mark.parametrize("opset", [16, 99])
def test_an_opset_out_of_range_is_refused(upsampler, opset):
    with pytest.raises(ExportError, match=rf"^opset must be 17 to 24; got {opset}"):
        build_model(upsampler, opset=opset)


class Branching(nn.Module):
    latent_dim, image_shape = 12, (3, 2, 2)

    def forward(self, z: Tensor) -> Tensor:
        return z.view(-1, 3, 2, 2) if z.sum() > 0 else -z.view(-1, 3, 2, 2)


class OneBatchSize(Branching):
    def forward(self, z: Tensor) -> Tensor:
        return z.view(2, 3, 2, 2)


class WrongShape(Branching):
    def forward(self, z: Tensor) -> Tensor:
        return z.view(-1, 3, 4, 1)


@pytest.mark.parametrize("broken", [Branching, OneBatchSize, WrongShape])
def test_what_cannot_be_a_graph_is_refused_and_leaves_no_file(broken, tmp_path: Path):
    with pytest.raises(ExportError) as caught:
        write_onnx(broken(), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
