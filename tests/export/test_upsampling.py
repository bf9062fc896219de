from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx_graphs import (
    CUBIC,
    LINEAR,
    NEAREST,
    assert_same,
    in_order,
    model_of,
    node,
    normal,
    operators,
    run,
    scales,
)

from export.upsampling import delay_upsampling

pytestmark = pytest.mark.onnx
C = 4


def up(source: str = "x", output: str = "u", by: str = "s", **attributes: object):
    return node("Resize", f"{source} . {by}", output, **(attributes or NEAREST))


def conv(kernel, source="u", output="y", c_in=C, c_out=C, group=1, **attributes):
    weight = normal(c_out, c_in // group, *kernel)
    made = node("Conv", f"{source} w{output} b{output}", output, group=group, **attributes)
    return made, {f"w{output}": weight, f"b{output}": normal(c_out)}


def upsampled_conv(factors, kernel, pads, dilations=(1, 1), **more):
    made, weights = conv(kernel, pads=pads, dilations=dilations, **more)
    shape: list[int | str] = ["n", C, 5, 6]
    return model_of([up(), made], shape, s=scales(*factors), **weights)


def test_an_activation_and_a_1x1_convolution_are_computed_on_the_small_map():
    last, weights = conv((1, 1), source="h")
    model = model_of(
        [
            up(),
            node("Mul", "u minus", "v"),
            node("Sigmoid", "v", "g"),
            node("Mul", "u g", "h"),
            last,
        ],
        ["n", C, 3, 3],
        s=scales(2, 2),
        minus=np.array([-1.5], np.float32),
        **weights,
    )
    moved = delay_upsampling(model)
    assert in_order(moved) == ["Mul", "Sigmoid", "Mul", "Conv", "Resize"]
    assert_same(model, moved, normal(2, C, 3, 3))


@pytest.mark.parametrize(
    ("kernel", "pads", "dilations", "small_dilations"),
    [((5, 5), [4, 4, 4, 4], [2, 2], [1, 1]), ((3, 3), [4, 4, 4, 4], [4, 4], [2, 2])],
)
def test_a_dilated_convolution_becomes_one_of_a_smaller_dilation_before_the_upsampling(
    kernel, pads, dilations, small_dilations
):
    model = upsampled_conv((2, 2), kernel, pads, dilations)
    moved = delay_upsampling(model)
    assert in_order(moved) == ["Conv", "Resize"]
    attributes = {a.name: list(a.ints) for a in moved.graph.node[0].attribute}
    assert attributes["dilations"] == small_dilations
    assert attributes["pads"] == [pad // 2 for pad in pads]
    assert_same(model, moved, normal(2, C, 5, 6))


def multiply_adds(model, x) -> int:
    """Of the convolutions, for the input `x`, counted on the shapes that really come out."""
    total, weights = 0, {w.name: w.dims for w in model.graph.initializer}
    for made in model.graph.node:
        if made.op_type in {"Conv", "ConvTranspose"}:
            shown = type(model)()
            shown.CopyFrom(model)
            at = made.output[0] if made.op_type == "Conv" else made.input[0]
            del shown.graph.output[:]
            shown.graph.output.add().name = at
            pixels = x if at == "x" else run_unchecked(shown, x)
            total += int(np.prod(weights[made.input[1]])) * int(np.prod(pixels.shape[2:]))
    return total


def run_unchecked(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("factors", "kernel", "pads", "operator", "fewer"),
    [
        ((2, 2), (5, 5), [2, 2, 2, 2], "DepthToSpace", 25 / 9),
        ((2, 2), (3, 3), [1, 1, 1, 1], "ConvTranspose", 9 / 4),
        ((2, 2), (5, 1), [2, 0, 2, 0], "ConvTranspose", 10 / 3),
        ((2, 2), (1, 3), [0, 1, 0, 1], "ConvTranspose", 3),
        ((4, 4), (3, 3), [1, 1, 1, 1], "ConvTranspose", 4),
        ((2, 2), (4, 4), [1, 2, 2, 1], "ConvTranspose", 64 / 25),
        ((3, 3), (5, 5), [2, 2, 2, 2], "ConvTranspose", 225 / 49),
        ((2, 2), (5, 5), [0, 1, 2, 2], "ConvTranspose", None),
    ],
)
def test_taps_that_meet_the_same_pixel_are_added_up(factors, kernel, pads, operator, fewer):
    model = upsampled_conv(factors, kernel, pads)
    moved = delay_upsampling(model)
    assert operator in operators(moved)
    x = normal(2, C, 5, 6)
    assert_same(model, moved, x)
    if fewer is not None:
        assert multiply_adds(model, x) / multiply_adds(moved, x) == pytest.approx(fewer)


@pytest.mark.parametrize(
    "more",
    [
        dict(kernel=(3, 3), pads=[1, 1, 1, 1], group=2),  # not worth a transposed one in groups
        dict(kernel=(3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
        dict(kernel=(3, 3), pads=[3, 3, 3, 3]),  # more border than the kernel reaches
        dict(kernel=(1, 5), pads=[0, 2, 0, 2], factors=(1, 2)),  # 10 taps against 6: no sure gain
        dict(kernel=(3, 3), auto_pad="SAME_UPPER", pads=None),
    ],
)
def test_where_nothing_is_to_be_gained_the_graph_stays(more):
    factors = more.pop("factors", (2, 2))
    made, weights = conv(**{k: v for k, v in more.items() if v is not None})
    model = model_of([up(), made], ["n", C, 5, 6], s=scales(*factors), **weights)
    moved = delay_upsampling(model)
    assert in_order(moved) == ["Resize", "Conv"]
    assert_same(model, moved, normal(2, C, 5, 6))


@pytest.mark.parametrize("attributes", [LINEAR, CUBIC], ids=["linear", "cubic"])
def test_a_smooth_upsampling_goes_behind_a_1x1_convolution_borders_and_bias_included(attributes):
    made, weights = conv((1, 1))
    model = model_of([up(**attributes), made], ["n", C, 3, 4], s=scales(2, 2), **weights)
    moved = delay_upsampling(model)
    assert in_order(moved) == ["Conv", "Resize"]
    assert_same(model, moved, normal(2, C, 3, 4))


def test_a_smooth_upsampling_stays_before_an_activation_a_kernel_and_more_channels():
    made, weights = conv((1, 1), c_out=2 * C)
    wide = model_of([up(**LINEAR), made], ["n", C, 3, 4], s=scales(2, 2), **weights)
    assert in_order(delay_upsampling(wide)) == ["Resize", "Conv"]
    tanh = model_of([up(**LINEAR), node("Tanh", "u", "y")], ["n", C, 3, 4], s=scales(2, 2))
    assert in_order(delay_upsampling(tanh)) == ["Resize", "Tanh"]
    made, weights = conv((3, 3), pads=[1, 1, 1, 1])
    kernel = model_of([up(**LINEAR), made], ["n", C, 3, 4], s=scales(2, 2), **weights)
    assert in_order(delay_upsampling(kernel)) == ["Resize", "Conv"]


def test_factors_of_a_compressed_5x5_convolution_are_both_done_where_it_is_cheapest():
    first, weights = conv((5, 1), source="u", output="h", c_out=2, pads=[2, 0, 2, 0])
    second, others = conv((1, 5), source="h", output="y", c_in=2, pads=[0, 2, 0, 2])
    model = model_of([up(), first, second], ["n", C, 4, 4], s=scales(2, 2), **weights, **others)
    moved = delay_upsampling(model)
    # The first upsamples the height itself; the width waits until the kernel that needs it.
    assert in_order(moved) == ["ConvTranspose", "Resize", "Conv"]
    assert_same(model, moved, normal(2, C, 4, 4))


def test_a_sum_of_maps_of_different_size_is_done_at_the_largest_size_that_they_need():
    nodes = [
        up(output="two"),
        up(output="four", by="s4"),
        node("AveragePool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]),
        up("p", "p4", "s4"),
        node("Add", "two p4", "y"),
    ]
    model = model_of(nodes, ["n", C, 4, 4], s=scales(2, 2), s4=scales(4, 4))
    moved = delay_upsampling(model)
    assert_same(model, moved, normal(2, C, 4, 4))
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][2:]
        for v in moved.graph.value_info
    }
    [added] = [made for made in moved.graph.node if made.op_type == "Add"]
    assert shapes[added.output[0]] == [4, 4]
    assert operators(moved)["Resize"] == 2


def test_a_map_that_is_needed_large_and_small_is_enlarged_once():
    made, weights = conv((5, 5), source="u", output="c", pads=[4] * 4, dilations=[2, 2])
    nodes = [up(), made, node("Softmax", "u", "a", axis=3), node("Softmax", "c", "b", axis=3)]
    nodes += [node("Add", "a b", "sum"), node("Add", "sum u", "y")]
    model = model_of(nodes, ["n", C, 3, 3], s=scales(2, 2), **weights)
    moved = delay_upsampling(model)
    assert operators(moved)["Resize"] == 2  # of x, and of the convolution of x
    assert_same(model, moved, normal(2, C, 3, 3))


def test_a_convolution_that_saves_less_than_another_resize_costs_stays():
    made, weights = conv((1, 1), source="u", output="c")
    nodes = [up(), made, node("Softmax", "c", "b", axis=3), node("Add", "u b", "y")]
    model = model_of(nodes, ["n", C, 3, 3], s=scales(2, 2), **weights)
    assert in_order(delay_upsampling(model)) == ["Resize", "Conv", "Softmax", "Add"]


def test_a_constant_that_differs_from_pixel_to_pixel_waits_for_the_large_map():
    model = model_of([up(), node("Mul", "u c", "y")], ["n", C, 3, 3], s=scales(2, 2), c=normal(6))
    moved = delay_upsampling(model)
    assert in_order(moved) == ["Resize", "Mul"]
    assert_same(model, moved, normal(1, C, 3, 3))


def test_a_resize_that_does_not_repeat_pixels_stays():
    rounds_up = NEAREST | {"nearest_mode": "ceil"}
    for attributes, by in ((rounds_up, (2, 2)), (NEAREST, (1.5, 1.5))):
        model = model_of([up(**attributes), node("Tanh", "u", "y")], ["n", C, 4, 4], s=scales(*by))
        assert in_order(delay_upsampling(model)) == ["Resize", "Tanh"]


def test_an_upsampled_output_keeps_its_name():
    model = model_of(
        [up(output="y"), node("Relu", "y", "r")], ["n", C, 2, 2], "y r", s=scales(2, 2)
    )
    moved = delay_upsampling(model)
    assert [value.name for value in moved.graph.output] == ["y", "r"]
    assert_same(model, moved, normal(3, C, 2, 2))
    assert np.array_equal(run(moved, np.ones((1, C, 2, 2), np.float32))[0], np.ones((1, C, 4, 4)))
