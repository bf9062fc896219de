from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
from onnx import helper, numpy_helper
from onnx_graphs import (
    CUBIC,
    NEAREST,
    assert_same,
    in_order,
    model_of,
    node,
    normal,
    operators,
    scales,
)

from export.folding import (
    fold_affine,
    fold_gate_scales,
    fold_scales_forward,
    merge_convolutions,
    remove_no_ops,
)

pytestmark = pytest.mark.onnx
C = 3
SHAPE: list[int | str] = ["n", C, 5, 5]
X = normal(2, C, 5, 5)


def norm(source: str, output: str):
    made = node("BatchNormalization", f"{source} gamma beta mean var", output, epsilon=0.01)
    weights = dict(
        gamma=normal(C), beta=normal(C, seed=1), mean=normal(C, seed=2), var=normal(C, seed=3) ** 2
    )
    return made, weights


def conv(name: str, source: str = "x", kernel: int = 3, **attributes):
    made = node("Conv", f"{source} w{name} b{name}", name, pads=[kernel // 2] * 4, **attributes)
    weights = {f"w{name}": normal(C, C, kernel, kernel), f"b{name}": normal(C, seed=4)}
    return made, weights


@pytest.mark.parametrize(
    ("name", "op_type", "value", "gone"),
    [
        ("one", "Mul", np.ones(1), True),
        ("zero", "Add", np.zeros((1, 1, 1)), True),
        ("first", "Div", np.ones(1), True),
        ("two", "Mul", np.full(1, 2.0), False),
        ("larger", "Add", np.zeros((1, 1, 1, 1, 1)), False),  # gives the output a dimension more
    ],
)
def test_only_what_hands_on_its_input_is_removed(name, op_type, value, gone):
    nodes = [node(op_type, f"x {name}", "h"), node("Tanh", "h", "y")]
    model = model_of(nodes, SHAPE, **{name: value.astype(np.float32)})
    cleaned = remove_no_ops(model)
    assert in_order(cleaned) == (["Tanh"] if gone else [op_type, "Tanh"])
    assert_same(model, cleaned, X)


def test_a_chain_of_no_ops_vanishes_and_an_output_keeps_its_name():
    nodes = [
        node("Identity", "x", "a"),
        node("Cast", "a", "b", to=1),
        node("Resize", "b . s", "c", **NEAREST),
        node("Tanh", "c", "d"),
        node("Identity", "d", "y"),
    ]
    cleaned = remove_no_ops(model_of(nodes, SHAPE, s=scales(1, 1)))
    assert in_order(cleaned) == ["Tanh", "Identity"]
    assert cleaned.graph.output[0].name == "y"


def concat_then_split(parts: str, sizes: list[int]) -> onnx.ModelProto:
    """x and y of 3 and 2 channels, joined, split and used."""
    split = helper.make_node("Split", ["c", "sizes"], ["d", "e"], axis=1)
    nodes = [
        node("Slice", "x zero two one", "t"),  # (n, 2, 5, 5)
        node("Concat", parts, "c", axis=-3),
        split,
        node("Tanh", "d", "f"),
        node("Sigmoid", "e", "g"),
    ]
    ends = {"zero": [0], "two": [2], "one": [1], "sizes": sizes}
    weights = {name: np.array(value, np.int64) for name, value in ends.items()}
    return model_of(nodes, SHAPE, "f g", **weights)


@pytest.mark.parametrize(
    ("parts", "sizes", "gone"),
    [("x t", [3, 2], True), ("t x", [2, 3], True), ("x t", [2, 3], False)],
)
def test_what_is_joined_and_split_again_is_neither(parts, sizes, gone):
    model = concat_then_split(parts, sizes)
    cleaned = remove_no_ops(model)
    assert operators(cleaned).keys() & {"Concat", "Split"} == (
        set() if gone else {"Concat", "Split"}
    )
    assert_same(model, cleaned, X)


def test_batch_normalization_behind_a_sum_goes_into_each_convolution_of_the_sum():
    first, a = conv("a")
    second, b = conv("b", kernel=5)
    third = node("ConvTranspose", "x wt", "t", kernel_shape=[3, 3], pads=[1] * 4)
    normed, parameters = norm("bent", "y")
    nodes = [first, second, third, node("Add", "a b", "ab"), node("Add", "ab t", "sum")]
    nodes += [node("Resize", "sum . s", "bent", **CUBIC), normed]
    model = model_of(nodes, SHAPE, wt=normal(C, C, 3, 3), s=scales(2, 2), **a, **b, **parameters)
    folded = fold_affine(model)
    assert "BatchNormalization" not in operators(folded)
    assert len(folded.graph.node) == len(nodes) - 1
    assert_same(model, folded, X)


def test_constants_of_channels_go_into_the_convolution_one_after_another():
    made, weights = conv("h")
    nodes = [
        made,
        node("Mul", "h two", "i"),
        node("Sub", "shift i", "j"),
        node("Div", "j two", "y"),
    ]
    two = np.full((C, 1, 1), 2, np.float32)
    shift = np.array([[[1]], [[2]], [[3]]], np.float32)
    folded = fold_affine(model_of(nodes, SHAPE, two=two, shift=shift, **weights))
    assert in_order(folded) == ["Conv"]
    # (shift - 2 h) / 2 by hand
    constants = {w.name: numpy_helper.to_array(w) for w in folded.graph.initializer}
    weight, bias = (constants[name] for name in folded.graph.node[0].input[1:])
    np.testing.assert_allclose(weight, -weights["wh"], rtol=1e-6)
    np.testing.assert_allclose(bias, [0.5, 1, 1.5] - weights["bh"], rtol=1e-6)


@pytest.mark.parametrize("reason", ["read twice", "an output", "made by an activation", "by pixel"])
def test_what_cannot_be_folded_stays(reason):
    made, weights = conv("h")
    factor = np.full((5,) if reason == "by pixel" else 1, 3, np.float32)
    factor[0] = 2 if reason == "by pixel" else 3
    source = "t" if reason == "made by an activation" else "h"
    nodes = [made, node("Tanh", "h", "t"), node("Mul", f"{source} c", "y")]
    nodes = nodes if source == "t" or reason == "read twice" else [nodes[0], nodes[2]]
    outputs = {"an output": "y h", "read twice": "y t"}.get(reason, "y")
    model = model_of(nodes, SHAPE, outputs, c=factor, **weights)
    folded = fold_affine(model)
    assert in_order(folded) == in_order(model)
    assert_same(model, folded, X)


@pytest.mark.parametrize("reader", ["two convolutions", "a sum too", "an output too"])
def test_a_scale_goes_into_the_convolutions_behind_it_if_nothing_else_reads_it(reader):
    first, a = conv("p", source="s")
    second, b = conv("q", source="s")
    nodes = [node("Tanh", "x", "t"), node("Mul", "t c", "s"), first, second]
    nodes.append(node("Add", "p q" if reader != "a sum too" else "p s", "y"))
    outputs = "y s" if reader == "an output too" else "y"
    model = model_of(nodes, SHAPE, outputs, c=np.array(-1.7, np.float32), **a, **b)
    folded = fold_scales_forward(model)
    assert ("Mul" in operators(folded)) == (reader != "two convolutions")
    assert_same(model, folded, X)


def gate(c: float, *, twice: bool = False):
    """A convolution, `x * tanh(sigmoid(c x))`, a convolution; `twice` if x is read by one more."""
    first, a = conv("h")
    last, b = conv("y" if not twice else "z", source="g")
    nodes = [first, node("Mul", "h c", "v"), node("Sigmoid", "v", "s"), node("Tanh", "s", "t")]
    nodes += [node("Mul", "h t", "g"), last] + ([node("Add", "z h", "y")] if twice else [])
    return model_of(nodes, SHAPE, c=np.array([c], np.float32), **a, **b)


@pytest.mark.parametrize("c", [-0.8, 3.0])
def test_the_factor_of_a_gate_goes_into_the_convolutions_around_it(c):
    model = gate(c)
    folded = fold_gate_scales(model)
    assert in_order(folded) == ["Conv", "Sigmoid", "Tanh", "Mul", "Conv"]
    assert_same(model, folded, X)


def test_two_gates_on_one_tensor_share_the_factor_of_the_first():
    first, weights = conv("h")
    nodes = [first]
    for name, factor in (("p", "c"), ("q", "d")):
        made, more = conv(f"{name}y", source=f"{name}g")
        weights |= more
        nodes += [node("Mul", f"h {factor}", f"{name}v"), node("Sigmoid", f"{name}v", f"{name}s")]
        nodes += [node("Mul", f"{name}s h", f"{name}g"), made]
    nodes.append(node("Add", "py qy", "y"))
    constants = dict(c=np.array([-0.7], np.float32), d=np.array([1.9], np.float32))
    model = model_of(nodes, SHAPE, **constants, **weights)
    folded = fold_gate_scales(model)
    assert operators(folded) == operators(model) - Counter(Mul=1)
    assert_same(model, folded, X)


@pytest.mark.parametrize(("c", "twice"), [(-0.8, True), (1e-3, False), (0.0, False)])
def test_a_gate_whose_input_others_read_or_whose_factor_is_extreme_stays(c, twice):
    model = gate(c, twice=twice)
    folded = fold_gate_scales(model)
    assert in_order(folded) == in_order(model)
    assert_same(model, folded, X)


def two_convolutions(kernels, channels, *, biases=(True, True), pads=(0, 0), group=1):
    """Kernels of two convolutions in a row, and channels at their ends and between them."""
    first, second = kernels
    c_in, middle, c_out = channels
    weights = dict(
        wa=normal(middle, c_in // group, first, first), wb=normal(c_out, middle, second, second)
    )
    names = []
    for name, size, bias in zip("ab", (middle, c_out), biases, strict=True):
        names.append(f"w{name} b{name}" if bias else f"w{name}")
        weights |= {f"b{name}": normal(size, seed=5)} if bias else {}
    nodes = [
        node("Conv", f"x {names[0]}", "h", pads=[pads[0]] * 4, group=group),
        node("Conv", f"h {names[1]}", "y", pads=[pads[1]] * 4),
    ]
    return model_of(nodes, ["n", c_in, 6, 6], **weights), normal(2, c_in, 6, 6)


@pytest.mark.parametrize(
    ("kernels", "channels", "more"),
    [
        ((1, 1), (4, 8, 4), {}),
        ((3, 1), (4, 4, 2), dict(pads=(1, 0))),
        ((1, 3), (2, 6, 4), {}),
        ((1, 1), (4, 8, 4), dict(pads=(1, 0))),
        ((1, 3), (2, 6, 4), dict(pads=(0, 1), biases=(False, True))),
        ((1, 1), (4, 8, 4), dict(biases=(True, False))),
        ((1, 1), (4, 8, 4), dict(biases=(False, False))),
    ],
)
def test_two_convolutions_that_are_larger_than_their_product_become_one(kernels, channels, more):
    model, x = two_convolutions(kernels, channels, **more)
    merged = merge_convolutions(model)
    assert in_order(merged) == ["Conv"]
    assert_same(model, merged, x)


@pytest.mark.parametrize(
    ("kernels", "channels", "more"),
    [
        ((1, 1), (8, 2, 8), {}),  # a factorization: 32 weights against 64
        ((1, 1), (8, 4, 8), {}),  # as many: nothing to be gained
        ((3, 3), (4, 8, 4), dict(pads=(1, 1))),
        ((1, 3), (2, 6, 4), dict(pads=(0, 1))),  # the first bias is not in the second's border
        ((1, 1), (4, 8, 4), dict(group=2)),
        ((1, 1), (4, 8, 4), dict(pads=(0, 1))),
    ],
)
def test_two_convolutions_that_are_smaller_or_differ_from_any_one_stay(kernels, channels, more):
    model, x = two_convolutions(kernels, channels, **more)
    merged = merge_convolutions(model)
    assert in_order(merged) == ["Conv", "Conv"]
    assert_same(model, merged, x)
