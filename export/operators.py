"""Which nodes of a graph a runtime does not know, found before a build is tried.

A build of TensorRT takes minutes on a Jetson and ends with the number of a node. Here the node is
named at once, on the machine that has the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    Check = Callable[[onnx.NodeProto, dict[str, Any]], str | None]

# What the parser of TensorRT 10 takes, of opsets 9 to 20: docs/operators.md of onnx-tensorrt.
# fmt: off
TENSORRT_10 = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum",
    "DeformConv", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal",
    "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax",
    "Identity", "If", "ImageScaler", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop",
    "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization",
    "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or",
    "PRelu", "Pad", "ParametricSoftplus", "Pow", "QuantizeLinear", "RNN", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence",
    "RoiAlign", "Round", "ScaledTanh", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus",
    "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh",
    "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where",
    "Xor",
))
# fmt: on
# TensorRT 11 adds this one, according to its release notes, and opsets up to 24.
TENSORRT_11 = TENSORRT_10 | {"Swish"}
# By the source of its parser; its list of operators leaves cubic out.
_RESIZE_MODES = ("nearest", "linear", "cubic")
_RESIZE_PLACES = (
    *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
)


@dataclass(frozen=True)
class Runtime:
    """A runtime by what it can run.

    Attributes:
        name: How it is called in messages.
        operators: The ONNX operators that it knows.
        max_opset: The newest opset that it reads.
        checks: For some operators, what it refuses in a node, given its attributes.
    """

    name: str
    operators: frozenset[str]
    max_opset: int
    checks: dict[str, Check] = field(default_factory=dict)


def refusals(graph: onnx.ModelProto, runtime: Runtime) -> Iterator[str]:
    """What of a graph a runtime will not run, a line each.

    Args:
        graph: The graph; the graphs inside its nodes are looked at too.
        runtime: The runtime.

    Yields:
        The node, by its name or its output, and the reason.
    """
    opset = max((entry.version for entry in graph.opset_import if not entry.domain), default=0)
    if opset > runtime.max_opset:
        yield f"the graph has opset {opset}; {runtime.name} reads up to {runtime.max_opset}"
    for node in _nodes(graph.graph):
        label = f"{node.name or node.output[0]} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            yield f"{label}: {runtime.name} has no operators of {node.domain}"
        elif node.op_type not in runtime.operators:
            yield f"{label}: {runtime.name} has no such operator"
        elif (check := runtime.checks.get(node.op_type)) is not None:
            reason = check(node, _attributes(node))
            if reason is not None:
                yield f"{label}: {runtime.name} {reason}"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def _resize(node: onnx.NodeProto, given: dict[str, Any]) -> str | None:
    mode = given.get("mode", "nearest")
    if mode not in _RESIZE_MODES:
        return f"resizes by {' or '.join(_RESIZE_MODES)}, not by {mode}"
    place = given.get("coordinate_transformation_mode", "half_pixel")
    if place not in _RESIZE_PLACES:
        return f"does not resize with coordinates by {place}"
    if given.get("antialias"):
        return "does not resize with antialiasing"
    return None


_TENSORRT_CHECKS: dict[str, Check] = {"Resize": _resize}
TENSORRT_10_3 = Runtime("TensorRT 10.3", TENSORRT_10, 20, _TENSORRT_CHECKS)
TENSORRT_11_4 = Runtime("TensorRT 11.4", TENSORRT_11, 24, _TENSORRT_CHECKS)
