"""Affine maps and convolutions that neighbouring nodes can absorb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from export.graph import Array, Graph

if TYPE_CHECKING:
    import onnx

# A scale that moves to the other side of an activation is divided out of the weights there. Within
# these bounds the weights stay well inside the range of float16.
SMALLEST, LARGEST = 1 / 16, 16.0


def remove_no_ops(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove nodes that return their input: `x * 1`, `x + 0`, a Resize by one, a Cast to its type.

    And a Split into what a Concat has just joined, such as noise and label of a conditional net.
    """
    graph = Graph(model)
    known = (*model.graph.input, *model.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in known}
    for node in list(graph.nodes):
        sources = _handed_on(graph, node, types)
        # The outputs of the graph keep their names, and an input cannot be one of them.
        if not sources or graph.outputs & sources.keys():
            continue
        graph.nodes.remove(node)
        for output in sources:
            for reader in graph.readers(output):
                reader.input[:] = [sources.get(name, name) for name in reader.input]
        graph.index()
    return graph.to_model()


def _handed_on(graph: Graph, node: onnx.NodeProto, types: dict[str, int]) -> dict[str, str]:
    """For each output of a node, the tensor it is equal to; empty if the node does something."""
    if node.op_type == "Split":
        return _rejoined(graph, node)
    source = _unchanged(graph, node, types)
    return {} if source is None else {node.output[0]: source}


def _rejoined(graph: Graph, split: onnx.NodeProto) -> dict[str, str]:
    """For each output of a Split, the equal input of the Concat before it; empty if any differs."""
    concat, shape = graph.producer(split.input[0]), graph.shapes.get(split.input[0])
    if concat is None or concat.op_type != "Concat" or shape is None:
        return {}
    axes = [graph.attributes(node).get("axis", 0) % len(shape) for node in (concat, split)]
    sizes = [
        [graph.shapes[name][axes[0]] if name in graph.shapes else 0 for name in names]
        for names in (concat.input, split.output)
    ]
    # A size of 0 is unknown.
    if axes[0] != axes[1] or sizes[0] != sizes[1] or 0 in sizes[0]:
        return {}
    return dict(zip(split.output, concat.input, strict=True))


def _unchanged(graph: Graph, node: onnx.NodeProto, types: dict[str, int]) -> str | None:
    """The input that a node returns unchanged; none if it does something."""
    if node.op_type in {"Identity", "Dropout"}:
        return node.input[0]
    if node.op_type == "Cast":
        same = types.get(node.input[0]) == graph.attributes(node)["to"]
        return node.input[0] if same else None
    if node.op_type == "Resize" and len(node.input) == 3:
        scales = graph.constants.get(node.input[2])
        return node.input[0] if scales is not None and scales.size and (scales == 1).all() else None
    neutral = {"Mul": 1, "Div": 1, "Pow": 1, "Add": 0, "Sub": 0}.get(node.op_type)
    if neutral is None:
        return None
    places = (0, 1) if node.op_type in {"Mul", "Add"} else (1,)
    for place in places:
        constant, other = graph.constants.get(node.input[place]), node.input[1 - place]
        shape = graph.shapes.get(other)
        if constant is None or shape is None or not (constant == neutral).all():
            continue
        # A constant larger than the other input would repeat it.
        if constant.size == 1 and constant.ndim <= len(shape):
            return other
    return None


def fold_affine(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold scales and shifts of channels into the convolutions that make the tensor.

    This covers BatchNormalization, and Mul, Div, Add and Sub by a constant, behind convolutions,
    transposed convolutions, and sums or resizings of them. Each takes the scale, and one takes the
    shift. It is done only if nothing else reads the tensor.
    """
    graph = Graph(model)
    for node in list(graph.nodes):
        affine = _affine(graph, node)
        if affine is None:
            continue
        source, scale, shift = affine
        if graph.is_private(source) and _takes(graph, source):
            _give(graph, source, scale, shift)
            maker = graph.producer(source)
            assert maker is not None  # or nothing could have taken the scale
            maker.output[0] = node.output[0]
            graph.nodes.remove(node)
            graph.index()
    return graph.to_model()


def fold_scales_forward(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold a scale into the convolutions that read the tensor, if nothing else reads it.

    A gate in the place of an activation ends with one.
    """
    graph = Graph(model)
    for node in list(graph.nodes):
        source = next((name for name in node.input if graph.scalar(name) is None), None)
        factor = None if source is None else _factor(graph, node, source)
        output = node.output[0]
        if factor is None or output in graph.outputs or not _only_convolutions(graph, output):
            continue
        assert source is not None  # or there would be no factor
        for reader in graph.readers(output):
            weight = _times(graph.constants[reader.input[1]], np.array(factor))
            reader.input[0] = source
            reader.input[1] = graph.constant(weight, f"{reader.input[1]}_scaled")
        graph.nodes.remove(node)
        graph.index()
    return graph.to_model()


def _only_convolutions(graph: Graph, name: str) -> bool:
    """Whether a tensor is read by convolutions with constant weights, and by nothing else."""
    readers = graph.readers(name)
    return len(readers) > 0 and all(
        reader.op_type in {"Conv", "ConvTranspose"}
        and reader.input[0] == name
        and reader.input[1] in graph.constants
        for reader in readers
    )


def fold_gate_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the convolutions before gates `x * f(c * x)` compute `c * x`, and the next divide by c.

    PMish is such a gate, with `c = -beta`. If only gates read x, and only convolutions read the
    gates, x becomes `v = c * x` of the first gate, whose Mul disappears. All gates are then c times
    as large, and the weights behind them are divided by c. The other gates rescale v to their own.
    """
    graph = Graph(model)
    for x in dict.fromkeys(name for node in graph.nodes for name in node.output):
        readers = list({id(node): node for node in graph.readers(x)}.values())
        scaled = [node for node in readers if _factor(graph, node, x) is not None]
        gates = [node for node in readers if not any(node is other for other in scaled)]
        if scaled and gates and all(_leads_to_convolutions(graph, gate, x) for gate in gates):
            _fold_gates_(graph, x, scaled, gates)
    return graph.to_model()


def _factor(graph: Graph, node: onnx.NodeProto, x: str) -> float | None:
    """The factor c of a Mul that computes `c * x`."""
    factors = [graph.scalar(name) for name in node.input if name != x]
    return factors[0] if node.op_type == "Mul" and len(factors) == 1 else None


def _leads_to_convolutions(graph: Graph, gate: onnx.NodeProto, x: str) -> bool:
    """Whether a node is `x` times another tensor, read by convolutions with constant weights."""
    output = gate.output[0]
    return (
        gate.op_type == "Mul"
        and list(gate.input).count(x) == 1
        and output not in graph.outputs
        and _only_convolutions(graph, output)
    )


def _fold_gates_(
    graph: Graph, x: str, scaled: Sequence[onnx.NodeProto], gates: Sequence[onnx.NodeProto]
) -> None:
    first, *others = scaled
    factor = _factor(graph, first, x)
    if factor is None or not SMALLEST <= abs(factor) <= LARGEST:
        return
    if x in graph.outputs or first.output[0] in graph.outputs or not _takes(graph, x):
        return
    _give(graph, x, np.array([factor]), None)
    for node in others:
        own = _factor(graph, node, x)
        assert own is not None  # that is how it came here
        node.input[:] = [x, graph.constant(np.array([own / factor], np.float32), "scalar")]
    for gate in gates:
        for reader in graph.readers(gate.output[0]):
            weight = _times(graph.constants[reader.input[1]], np.array(1 / factor))
            reader.input[1] = graph.constant(weight, f"{reader.input[1]}_scaled")
    graph.nodes = [node for node in graph.nodes if node is not first]
    for reader in graph.readers(first.output[0]):
        reader.input[:] = [x if name == first.output[0] else name for name in reader.input]
    graph.index()


def merge_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Merge two consecutive convolutions if the result has fewer weights than they have together.

    One of them is 1x1, so the geometry of the other remains. Two that are smaller than their
    product, such as those of a factorized layer, are left alone. A weight is one multiply-add per
    pixel.
    """
    graph = Graph(model)
    for node in list(graph.nodes):
        first = graph.producer(node.input[0]) if node.op_type == "Conv" else None
        if first is None or first.op_type != "Conv" or not graph.is_private(first.output[0]):
            continue
        merged = _merged(graph, first, node)
        if merged is not None:
            graph.nodes[graph.nodes.index(node)] = merged
            graph.nodes.remove(first)
            graph.index()
    return graph.to_model()


def _merged(graph: Graph, first: onnx.NodeProto, second: onnx.NodeProto) -> onnx.NodeProto | None:
    a, b = (graph.constants.get(node.input[1]) for node in (first, second))
    if a is None or b is None or a.ndim != 4 or b.ndim != 4:
        return None
    plain_first, plain_second = (_is_pointwise(graph, n, w) for n, w in ((first, a), (second, b)))
    geometry = first if plain_second else second
    attributes = graph.attributes(geometry)
    if not (plain_first or plain_second) or attributes.get("group", 1) != 1:
        return None
    shape = b.shape[0], a.shape[1], *(a if plain_second else b).shape[2:]
    if int(np.prod(shape)) >= a.size + b.size:
        return None
    # The border that the second pads with zeros lacks the bias of the first.
    padded = any(graph.attributes(second).get("pads", ())) or (
        graph.attributes(second).get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    )
    if len(first.input) > 2 and padded:
        return None
    x, y = a.astype(np.float64), b.astype(np.float64)
    weight = (
        np.einsum("om,miyx->oiyx", y[:, :, 0, 0], x)
        if plain_second
        else np.einsum("omyx,mi->oiyx", y, x[:, :, 0, 0])
    )
    inputs = [first.input[0], graph.constant(weight.astype(b.dtype), f"{second.input[1]}_merged")]
    bias = np.zeros(b.shape[0])
    if len(second.input) > 2:
        bias = bias + graph.constants[second.input[2]]
    if len(first.input) > 2:
        bias = bias + y.sum(axis=(2, 3)) @ graph.constants[first.input[2]]
    if len(first.input) > 2 or len(second.input) > 2:
        inputs.append(graph.constant(bias.astype(b.dtype), f"{second.input[1]}_bias_merged"))
    return graph.make("Conv", inputs, second.output[0], **attributes)


def _is_pointwise(graph: Graph, node: onnx.NodeProto, weight: Array) -> bool:
    attributes = graph.attributes(node)
    return (
        weight.shape[2:] == (1, 1)
        and attributes.get("group", 1) == 1
        and not any(attributes.get("pads", ()))
        and all(stride == 1 for stride in attributes.get("strides", ()))
    )


def _affine(graph: Graph, node: onnx.NodeProto) -> tuple[str, Array, Array | None] | None:
    """`(x, scale, shift)` of a node that computes `scale * x + shift` on `(n, c, h, w)`."""
    if node.op_type == "BatchNormalization" and len(node.output) == 1:
        if not all(name in graph.constants for name in node.input[1:]):
            return None
        weight, bias, mean, variance = (
            graph.constants[name].astype(np.float64) for name in node.input[1:]
        )
        scale = weight / np.sqrt(variance + graph.attributes(node).get("epsilon", 1e-5))
        return node.input[0], scale, bias - scale * mean
    if node.op_type not in {"Mul", "Div", "Add", "Sub"}:
        return None
    places = (1,) if node.op_type == "Div" else (1, 0)
    for place in places:
        source = node.input[1 - place]
        constant = graph.constants.get(node.input[place])
        if constant is None or source in graph.constants or len(graph.shapes.get(source, ())) != 4:
            continue
        value = _by_channel(constant, graph.shapes[source][1])
        if value is None:
            return None
        if node.op_type == "Mul":
            return source, value, None
        if node.op_type == "Div":
            return (source, 1 / value, None) if (value != 0).all() else None
        if node.op_type == "Add":
            return source, np.ones(1), value
        return (source, np.ones(1), -value) if place == 1 else (source, -np.ones(1), value)
    return None


def _by_channel(constant: Array, channels: int) -> Array | None:
    """A constant of one value, or of one value per channel, as `(1,)` or `(c,)`."""
    values = constant.astype(np.float64).ravel()
    if values.size == 1 and constant.ndim <= 4:
        return values
    shapes = {(channels, 1, 1), (1, channels, 1, 1)}
    return values if constant.shape in shapes else None


def _takes(graph: Graph, name: str) -> bool:
    """Whether the nodes that make `name` can absorb a scale and a shift of its channels."""
    node = graph.producer(name)
    if node is None:
        return False
    if node.op_type in {"Conv", "ConvTranspose", "BatchNormalization"}:
        grouped = node.op_type == "ConvTranspose" and graph.attributes(node).get("group", 1) != 1
        return not grouped and all(n in graph.constants for n in node.input[1:])
    if node.op_type == "Resize":
        return graph.is_private(node.input[0]) and _takes(graph, node.input[0])
    return node.op_type == "Add" and all(
        graph.shapes.get(n) == graph.shapes.get(name) and graph.is_private(n) and _takes(graph, n)
        for n in node.input
    )


def _give(graph: Graph, name: str, scale: Array, shift: Array | None) -> None:
    """Scale and shift the channels of `name` in the nodes that make it; `_takes` must hold."""
    node = graph.producer(name)
    assert node is not None
    if node.op_type in {"Resize", "Add"}:
        # The weights of a resizing sum to one; only one term of a sum takes the shift.
        _give(graph, node.input[0], scale, shift)
        if node.op_type == "Add":
            _give(graph, node.input[1], scale, None)
        return
    if node.op_type == "BatchNormalization":
        factors, biases = node.input[1:3]
        node.input[1] = graph.constant(_times(graph.constants[factors], scale), f"{factors}_scaled")
        node.input[2] = graph.constant(
            _times(graph.constants[biases], scale, shift), f"{biases}_scaled"
        )
        return
    weight = graph.constants[node.input[1]]
    axis = 1 if node.op_type == "ConvTranspose" else 0
    along = tuple(-1 if i == axis else 1 for i in range(weight.ndim))
    stem = node.input[1]
    node.input[1] = graph.constant(_times(weight, scale.reshape(along)), f"{stem}_scaled")
    if len(node.input) > 2 or shift is not None:
        none = np.zeros(weight.shape[axis], weight.dtype)
        bias = graph.constants[node.input[2]] if len(node.input) > 2 else none
        moved = graph.constant(_times(bias, scale, shift), f"{stem}_bias_scaled")
        node.input[:] = [*node.input[:2], moved]


def _times(values: Array, scale: Array, shift: Array | None = None) -> Array:
    product = values.astype(np.float64) * scale
    return (product if shift is None else product + shift).astype(values.dtype)
