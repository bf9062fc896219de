"""Convolutions and matrix products of a graph in int8, between explicit Q/DQ nodes.

Weights have a scale per output channel and activations one per tensor; all are symmetric, so zero
is zero, which TensorRT demands. Biases stay in floating point, because TensorRT takes none in
int32; ONNX Runtime computes them in int32 all the same. The scales of activations are calibrated on
images' latents by ONNX Runtime, whose quantizer also writes the graph.

Runtimes compute int8 in blocks of 32 channels, so a node with another number of channels in or out,
such as a thin factor, stays in higher precision.
"""

from __future__ import annotations

import contextlib
import io
import math
import platform
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import ExportError, MissingPackageError

if TYPE_CHECKING:
    import onnx

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MULTIPLE = 32
# Share of the values of an activation that its scale covers, in percent. On the shipped net, the
# rest costs 4 dB if it is covered as well.
PERCENTILE = 99.99
BATCH = 32
CPU_FLAGS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class QuantizableNode:
    """A node that can compute in int8; `macs` are its multiply-adds per image."""

    name: str
    macs: int


@dataclass(frozen=True)
class Quantizable:
    """The nodes with weights of a graph: those that can compute in int8, and why others cannot."""

    nodes: tuple[QuantizableNode, ...]
    higher: Mapping[str, str]


def find_quantizable(model: onnx.ModelProto) -> Quantizable:
    """The convolutions and matrix products of a float32 graph that can compute in int8.

    Args:
        model: the graph, with the shapes of its tensors.

    Returns:
        Those nodes in the order of the graph, and the reason for every other one by its name.
    """
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes, higher = [], {}
    for node in graph.node:
        if node.op_type not in OPERATORS:
            continue
        shape = weights.get(node.input[1])
        if shape is None:
            higher[node.name] = "its weight is computed"
        elif len(shape) < 2 or any(size % MULTIPLE for size in shape[:2]):
            sizes = " x ".join(map(str, shape[:2]))
            higher[node.name] = f"{sizes} channels, not multiples of {MULTIPLE}"
        elif node.op_type == "ConvTranspose" and _groups(node) > 1:
            higher[node.name] = "a transposed convolution in groups"
        else:
            at = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
            positions = math.prod(at[2:]) if at and len(shape) > 2 else 1
            nodes.append(QuantizableNode(node.name, math.prod(shape) * max(positions, 1)))
    return Quantizable(tuple(nodes), higher)


def weight_bits() -> int:
    """Bits of a weight: 7 where int8 products saturate, as on x86 without VNNI, and else 8."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 8
    try:
        flags = CPU_FLAGS.read_text(errors="replace")
    except OSError:
        return 7
    return 8 if "avx512_vnni" in flags or "avx_vnni" in flags else 7


@dataclass(frozen=True)
class Quantizer:
    """Quantizes nodes of one graph, whose activations were calibrated once.

    Attributes:
        model: the float32 graph, which is not changed.
        ranges: the calibrated ranges of its tensors, as ONNX Runtime has them.
        bits: bits of a weight, 7 or 8.
    """

    model: onnx.ModelProto
    ranges: Any
    bits: int = 8

    def quantize(self, nodes: Collection[str]) -> onnx.ModelProto:
        """A copy of the graph whose nodes of these names compute in int8.

        Raises:
            ExportError: ONNX Runtime cannot quantize them.
        """
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        if not nodes:
            return copy
        chosen = [node.name for node in copy.graph.node if node.name in set(nodes)]
        options = {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
        }
        try:
            quantizer = QDQQuantizer(
                copy,
                per_channel=True,
                reduce_range=self.bits < 8,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=chosen,
                nodes_to_exclude=[],
                op_types_to_quantize=list(OPERATORS),
                extra_options=options,
            )
            with contextlib.redirect_stdout(io.StringIO()):
                quantizer.quantize_model()
            quantizer.model.topological_sort()
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise _refused(error) from error
        result = quantizer.model.model
        for part in ("metadata_props", "producer_name", "producer_version"):
            result.ClearField(part)
            if part != "metadata_props":
                setattr(result, part, getattr(self.model, part))
        return onnx.shape_inference.infer_shapes(result)


def calibrate(
    model: onnx.ModelProto,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    bits: int | None = None,
) -> Quantizer:
    """Find the ranges of the activations of a graph.

    Args:
        model: the float32 graph.
        arrays: inputs by name, all with the same number of rows.
        bits: bits of a weight, 7 or 8; by default what this CPU multiplies without saturation.

    Returns:
        What quantizes nodes of the graph.

    Raises:
        ExportError: the graph does not run, or its activations are not finite.
        MissingPackageError: onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator
    except ImportError as error:
        raise MissingPackageError(
            f"int8 needs {error.name}, which is not installed: pip install onnx onnxruntime"
        ) from error
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            calibrator = create_calibrator(
                path,
                OPERATORS,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"percentile": PERCENTILE, "symmetric": True},
            )
            calibrator.collect_data(_Reader(arrays))
            ranges = calibrator.compute_data()
        except Exception as error:  # whatever numpy, onnx or ONNX Runtime say of such a graph
            raise _refused(error) from error
    return Quantizer(model, ranges, weight_bits() if bits is None else bits)


class _Reader:
    """Batches of inputs, one after the other and then None, as a calibrator reads them."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        n = len(next(iter(arrays.values())))
        self._batches = iter(
            [{name: a[i : i + BATCH] for name, a in arrays.items()} for i in range(0, n, BATCH)]
        )

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self._batches, None)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, np.ndarray[Any, Any]]:
        return next(self._batches)


def int8_nodes(model: onnx.ModelProto) -> Sequence[str]:
    """The names of the nodes that compute in int8: their weights are dequantized."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in OPERATORS and made_by.get(node.input[1]) == "DequantizeLinear"
    ]


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _refused(error: Exception) -> ExportError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ExportError(f"ONNX Runtime cannot quantize the graph: {reason}")
