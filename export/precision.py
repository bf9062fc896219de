"""What a precision means for an exported graph, and the conversion of a graph to it.

`fp32`: every floating-point tensor is float32.

`fp16`: weights and arithmetic are float16, except the operators in `FP32_OPS`. `latents` and
`images` stay float32, so a bundle is fed and read in the same way at every precision. Every change
of type is an explicit Cast. Such a graph states all its types, which TensorRT 11 demands and
TensorRT 10 accepts as a strongly typed network.

`int8`: some convolutions and matrix products compute in int8, between explicit QuantizeLinear and
DequantizeLinear nodes (`export.quantization`); which ones, `export.precision_plan` decides.

Adding a precision that needs nothing but the graph is a function from graph to graph here, a name
in `Precision`, and its line in `PRECISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

# What a graph can be converted to without looking at images.
Precision = Literal["fp32", "fp16"]
# What a graph can be in the end.
Delivered = Literal["fp32", "fp16", "int8"]

# Operators that stay in float32. BatchNormalization divides by a variance that float16 may round to
# zero. The logarithm of a sigmoid, the heart of PMish, cancels where the sigmoid is near 1. With
# true float16 rounding (onnx's reference evaluator, 16 channels), a graph has 67.3 dB against torch
# with these operators in float16, and 68.4 dB with them in float32. Tanh, Mul and Div in float32
# would give 69.0 dB, but double the size of every feature map between two convolutions. Scales of
# int8 are float32, as opset 18 has no others.
FP32_OPS = frozenset(
    {"BatchNormalization", "Exp", "InstanceNormalization", "Log", "Sigmoid", "Softplus"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
# Inputs that are float32 by the definition of the operator, whatever its data is.
FLOAT_INPUTS = {"Resize": (1, 2)}
FP16_MAX = float(np.finfo(np.float16).max)


def to_fp16(
    model: onnx.ModelProto,
    fp32_ops: Collection[str] = FP32_OPS,
    fp32_nodes: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a float32 `model` that computes in float16; inputs and outputs stay float32.

    Args:
        model: the graph.
        fp32_ops: operators that stay in float32.
        fp32_nodes: names of nodes that do, such as those between int8 tensors, which a runtime
            only takes for int8 if nothing comes between.

    Raises:
        ExportError: a weight is too large for float16, or the graph has control flow.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    retyped = _Retyped(onnx.shape_inference.infer_shapes(model).graph, fp32_ops, fp32_nodes)
    for field in ("node", "initializer", "value_info"):
        result.graph.ClearField(field)
    result.graph.node.extend(retyped.nodes)
    result.graph.initializer.extend(retyped.initializers.values())
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


class _Retyped:
    """The nodes of a float32 graph, retyped to float16; a tensor is cast at most once."""

    def __init__(
        self, graph: onnx.GraphProto, fp32_ops: Collection[str], fp32_nodes: Collection[str]
    ) -> None:
        import onnx

        self.make_node = onnx.helper.make_node
        self.half, self.single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
        self.fp32_ops, self.fp32_nodes = fp32_ops, frozenset(fp32_nodes)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {tensor.name: tensor.data_type for tensor in graph.initializer} | {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.outputs = {output.name for output in graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        for node in graph.node:
            self._add(node)

    def _add(self, source: onnx.NodeProto) -> None:
        node = type(source)()
        node.CopyFrom(source)
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ExportError(
                f"{node.name}: {node.op_type} holds a graph of its own, which fp16 does not cover; "
                "export it in fp32"
            )
        floats = [self.types.get(name) in (self.half, self.single) for name in source.input]
        # A cast, or a node without float inputs (Shape, Constant), keeps the type that it states.
        if node.op_type == "Cast" or not any(floats):
            node.input[:] = [self._keep(name) for name in source.input]
            self.nodes.append(node)
            return
        stays = node.op_type in self.fp32_ops or node.name in self.fp32_nodes
        compute = self.single if stays else self.half
        fixed = FLOAT_INPUTS.get(node.op_type, ())
        node.input[:] = [
            self._as(name, self.single if place in fixed else compute)
            if is_float
            else self._keep(name)
            for place, (name, is_float) in enumerate(zip(source.input, floats, strict=True))
        ]
        self.nodes.append(node)
        if compute == self.half:
            for place, name in enumerate(source.output):
                self._retype_output(node, place, name)

    def _retype_output(self, node: onnx.NodeProto, place: int, name: str) -> None:
        if self.types.get(name) != self.single:
            return
        if name not in self.outputs:
            self.types[name] = self.half
            return
        # The graph promises this name as float32: the node fills another one, and a cast this one.
        node.output[place] = f"{name}_fp16"
        self.types[f"{name}_fp16"] = self.half
        cast = self.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_fp32", to=self.single)
        self.nodes.append(cast)

    def _keep(self, name: str) -> str:
        if name in self.weights:
            self.initializers[name] = self.weights[name]
        return name

    def _as(self, name: str, wanted: int) -> str:
        """The name of the float tensor `name` in the type `wanted`; a cast is made on first use."""
        if self.types[name] == wanted:
            return self._keep(name)
        copy = f"{name}_{'fp16' if wanted == self.half else 'fp32'}"
        if name in self.weights:
            self.initializers.setdefault(copy, _half_weight(self.weights[name], copy))
        elif copy not in self.types:
            self.types[copy] = wanted
            self.nodes.append(self.make_node("Cast", [name], [copy], copy, to=wanted))
        return copy


def _half_weight(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise ExportError(
            f"{weight.name}: the largest weight is {largest:g}, float16 ends at {FP16_MAX:g}; "
            "export it in fp32"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


@dataclass(frozen=True)
class Tolerance:
    """The largest `max_abs` and the smallest `psnr_db` that pass the parity check."""

    max_abs: float
    psnr_db: float


@dataclass(frozen=True)
class PrecisionForm:
    """How a float32 graph becomes one of this precision, and how far its images may be off."""

    convert: Callable[[onnx.ModelProto], onnx.ModelProto]
    tolerance: Tolerance


def _unchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


# A grey level is 2/255 = 7.8e-3. fp32: an eighth of one. Correct graphs measure 1e-7 to 6e-6, and a
# wrong interpolation mode is far above. fp16: correct graphs measure 60 to 75 dB; at 40 dB the
# error is 2.5 grey levels. On a CPU, ONNX Runtime computes much of a float16 graph in float32, so
# this judges the graph and its weights; the rounding of a device is measured on the device.
PRECISIONS: dict[Precision, PrecisionForm] = {
    "fp32": PrecisionForm(_unchanged, Tolerance(max_abs=1e-3, psnr_db=60.0)),
    "fp16": PrecisionForm(to_fp16, Tolerance(max_abs=0.5, psnr_db=40.0)),
}
# int8: its images are judged by a quality metric. This refuses images that have little to do with
# the generator's: those of other latents are at 6 to 10 dB, and the shipped net is at 34.
TOLERANCES: dict[Delivered, Tolerance] = {
    **{name: form.tolerance for name, form in PRECISIONS.items()},
    "int8": Tolerance(max_abs=2.0, psnr_db=15.0),
}
