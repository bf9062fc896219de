from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from export.errors import ExportError
from export.precision import to_fp16

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
from onnx_graphs import Array, model_of, node, normal, operators, run

from export import quantization
from export.quantization import calibrate, find_quantizable, int8_nodes, weight_bits

pytestmark = pytest.mark.onnx
INT8, INT32, HALF = onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT16


def on_a_grid(shape: Sequence[int], step: float, largest: int) -> Array:
    """Whole multiples of `step`, and in each output channel one that is the largest."""
    rng = np.random.default_rng(0)
    values = rng.integers(-largest, largest + 1, shape)
    values.reshape(shape[0], -1)[:, 0] = largest
    return (values * step).astype(np.float32)


@pytest.fixture
def two_convolutions() -> onnx.ModelProto:
    """`first` and `second`, 32 channels each, with a tanh in between; `x` is (n, 32, 4, 4)."""
    nodes = [
        node("Conv", "x w b", "first"),
        node("Tanh", "first", "t"),
        node("Conv", "t v", "second"),
        node("Neg", "second", "y"),
    ]
    weights = {"w": on_a_grid((32, 32, 1, 1), 2.0**-6, 127), "v": normal(32, 32, 1, 1)}
    return model_of(nodes, ("n", 32, 4, 4), **weights, b=normal(32))


def dequantized_weights(model: onnx.ModelProto, name: str) -> tuple[Array, Array, Array]:
    """The int8 weight of a node, its scales and its zero points."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    [convolution] = [n for n in model.graph.node if n.name == name]
    [made] = [n for n in model.graph.node if convolution.input[1] in n.output]
    assert made.op_type == "DequantizeLinear"
    weight, scale, zero = (constants[name] for name in made.input)
    return weight, scale, zero


def test_weights_on_a_grid_of_127_steps_are_exact(two_convolutions):
    quantizer = calibrate(two_convolutions, {"x": normal(64, 32, 4, 4)}, bits=8)
    weight, scale, zero = dequantized_weights(quantizer.quantize(["first"]), "first")
    assert weight.dtype == np.int8
    assert scale.shape == (32,)  # one per output channel
    assert not zero.any()
    expected = on_a_grid((32, 32, 1, 1), 2.0**-6, 127)
    np.testing.assert_array_equal(weight * scale[:, None, None, None], expected)


def test_weights_of_seven_bits_stay_within_64_steps(two_convolutions):
    quantizer = calibrate(two_convolutions, {"x": normal(64, 32, 4, 4)}, bits=7)
    weight, _, _ = dequantized_weights(quantizer.quantize(["second"]), "second")
    assert np.abs(weight.astype(int)).max() == 64


def test_only_the_named_nodes_are_quantized_and_the_graph_is_valid(two_convolutions):
    quantizer = calibrate(two_convolutions, {"x": normal(64, 32, 4, 4)}, bits=8)
    before = two_convolutions.SerializeToString()
    model = quantizer.quantize(["second"])
    onnx.checker.check_model(model, full_check=True)
    assert int8_nodes(model) == ["second"]
    assert int8_nodes(quantizer.quantize(["first", "second"])) == ["first", "second"]
    assert quantizer.quantize([]).SerializeToString() == before
    assert two_convolutions.SerializeToString() == before


def test_activations_are_symmetric_and_biases_are_no_integers(two_convolutions):
    quantizer = calibrate(two_convolutions, {"x": normal(64, 32, 4, 4)}, bits=8)
    model = quantizer.quantize(["first", "second"])
    integers = [t for t in model.graph.initializer if t.data_type in (INT8, INT32)]
    assert all(tensor.data_type == INT8 for tensor in integers)  # TensorRT takes no others
    zeros = [onnx.numpy_helper.to_array(t) for t in integers if "zero_point" in t.name]
    assert zeros
    assert not any(zero.any() for zero in zeros)


def test_a_quantized_convolution_is_off_by_half_a_step_of_its_output():
    """x and w are on their grids, so little more than the output is rounded."""
    x, weight = on_a_grid((64, 32, 4, 4), 2.0**-5, 127), on_a_grid((32, 32, 1, 1), 2.0**-6, 127)
    graph = model_of([node("Conv", "x w", "y")], ("n", 32, 4, 4), w=weight)
    model = calibrate(graph, {"x": x}, bits=8).quantize(["y"])
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert float(scales["x_scale"]) == pytest.approx(2.0**-5, rel=1e-3)
    [expected], [found] = run(graph, x), run(model, x)
    # One value in ten thousand is beyond what a scale covers, and the grid of x is a histogram's.
    step = float(scales["y_scale"])
    assert np.quantile(np.abs(found - expected), 0.999) < 0.6 * step
    assert np.abs(found - expected).mean() == pytest.approx(step / 4, rel=0.1)


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ([node("Conv", "x w", "y")], {"w": normal(32, 40, 1, 1)}, "32 x 40 channels"),
        ([node("Conv", "x w", "y")], {"w": normal(3, 40, 1, 1)}, "3 x 40 channels"),
        ([node("Conv", "x w", "y", group=40)], {"w": normal(40, 1, 1, 1)}, "40 x 1 channels"),
        ([node("Neg", "v", "w"), node("Conv", "x w", "y")], {"v": normal(32, 40, 1, 1)},
         "its weight is computed"),
    ],
)  # fmt: skip
def test_what_runtimes_would_pad_or_cannot_take_stays_in_higher_precision(nodes, weights, reason):
    found = find_quantizable(model_of(nodes, ("n", 40, 4, 4), **weights))
    assert not found.nodes
    assert found.higher["y"].startswith(reason)


def test_a_transposed_convolution_in_groups_stays_in_higher_precision():
    graph = model_of(
        [node("ConvTranspose", "x w", "y", group=2)], (1, 64, 4, 4), w=normal(64, 32, 2, 2)
    )
    assert find_quantizable(graph).higher == {"y": "a transposed convolution in groups"}


def test_multiply_adds_are_those_counted_by_hand(two_convolutions):
    first, second = find_quantizable(two_convolutions).nodes
    assert (first.name, first.macs) == ("first", 32 * 32 * 16)
    assert (second.name, second.macs) == ("second", 32 * 32 * 16)


def test_around_int8_nodes_everything_else_can_be_half(two_convolutions):
    x = normal(64, 32, 4, 4)
    model = calibrate(two_convolutions, {"x": x}, bits=8).quantize(["first"])
    half = to_fp16(model, fp32_nodes=["first"])
    assert int8_nodes(half) == ["first"]
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert weights["v_fp16"] == HALF
    assert operators(half)["QuantizeLinear"] == operators(model)["QuantizeLinear"]
    [expected], [found] = run(model, x), run(half, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("machine", "flags", "bits"),
    [
        ("x86_64", "flags : sse2 avx2 avx512_vnni", 8),
        ("x86_64", "flags : sse2 avx2 avx_vnni", 8),
        ("AMD64", "flags : sse2 avx2", 7),
        ("aarch64", "Features : asimd", 8),
    ],
)
def test_weights_have_a_bit_less_where_products_saturate(
    machine, flags, bits, tmp_path, monkeypatch
):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(quantization, "CPU_FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert weight_bits() == bits


def test_inputs_that_a_graph_does_not_take_are_one_line(two_convolutions):
    with pytest.raises(ExportError, match=r"^ONNX Runtime cannot quantize the graph: ") as caught:
        calibrate(two_convolutions, {"x": normal(8, 31, 4, 4)})
    assert "\n" not in str(caught.value)
