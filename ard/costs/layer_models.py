"""Single layers and activations as a folder of small ONNX files for `edge_bench` to time.

The files are written node by node. Torch's exporter, which `export` uses for generators, takes
seconds per file, and there are hundreds of files. A layer is only one operator and its factors are
at most four, all of them convolutions or linear maps. The tests compare their outputs with torch's.
Activations are many operators, but few of them differ; they go through torch's exporter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ard.activation_sites import activation_model
from ard.activations import ActivationSignature
from ard.assembly.surgery import random_factors
from ard.costs.latency_table import DENSE
from ard.errors import DeliveryError, RankError
from ard.plan import ActivationForm, Replacement
from ard.signature import LayerSignature
from nas_gan.files import sha256, write_bytes, write_json
from nas_gan.networks.gates import FORMS
from nas_gan.networks.layer_types import Layer

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
Wanted = tuple[LayerSignature | ActivationSignature, Replacement | None]

FILE, FORMAT = "layers.json", 1
INPUT, OUTPUT, BATCH = "x", "y", "batch"
# The same as in `export`. IR 9 is the newest version that the oldest runtime of a Jetson reads.
OPSET, IR_VERSION = 18, 9
WRAP_OPSET = 19  # the first with a Pad that wraps around
PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def write_layers(
    wanted: Iterable[Wanted],
    folder: Path,
    precision: Precision = "fp32",
    *,
    on_layer: Callable[[int], None] = lambda n: None,
) -> None:
    """Write one file per (signature, choice), and `layers.json`, which lists them.

    Files are named by their content, so existing ones are not written again. The weights are
    random, since the speed of a kernel does not depend on their values.

    Raises:
        DeliveryError: onnx is not installed.
        RankError: a choice does not fit its layer.
    """
    listed = []
    for signature, choice in wanted:
        name = DENSE if choice is None else str(choice)
        digest = hashlib.sha256(f"{signature}\n{name}\n{precision}".encode()).hexdigest()
        path = folder / f"{digest[:16]}.onnx"
        if not path.exists():
            write_bytes(path, model_of(signature, choice, precision))
        listed.append(
            {
                "file": path.name,
                "sha256": sha256(path),
                "signature": str(signature),
                "choice": name,
            }
        )
        on_layer(1)
    write_json(folder / FILE, {"format": FORMAT, "precision": precision, "layers": listed})


def model_of(
    signature: LayerSignature | ActivationSignature,
    choice: Replacement | None,
    precision: Precision,
) -> bytes:
    """A layer or an activation under a choice as an ONNX file; None is the dense one.

    Raises:
        DeliveryError: onnx is not installed.
        RankError: the choice does not fit.
    """
    if isinstance(signature, ActivationSignature):
        module = signature.module if choice is None else FORMS[choice.method].folded
        return activation_model(module, signature.input_shape, DTYPES[precision])
    layer = signature.build()
    if choice is None:
        return to_onnx(layer, signature.input_shape, precision)
    if isinstance(choice, ActivationForm):
        raise RankError(f"{choice} does not fit a {signature.kind}, which is not an activation")
    factors = random_factors(cast(Layer, layer), choice)
    return to_onnx(factors, signature.input_shape, precision)


def to_onnx(module: nn.Module, input_shape: Sequence[int], precision: Precision = "fp32") -> bytes:
    """A convolution, a linear layer or an `nn.Sequential` of them as an ONNX file.

    The graph maps `x (batch, *input_shape)` to `y`, with a dynamic batch, all in `precision`.

    Raises:
        DeliveryError: onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise DeliveryError(
            "writing layers to be timed needs onnx, which is not installed: pip install onnx"
        ) from error
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    graph = _Graph(np.float16 if precision == "fp16" else np.float32)
    tensor, positions = INPUT, len(input_shape) > 1
    for place, layer in enumerate(layers):
        output = OUTPUT if place == len(layers) - 1 else f"h{place}"
        if isinstance(layer, nn.Linear):
            graph.add_linear(layer, tensor, output, positions=positions)
        else:
            graph.add_convolution(cast(_ConvNd, layer), tensor, output, f"{place}")
        tensor = output
    dtype = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    rank = len(input_shape)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "layer",
            [helper.make_tensor_value_info(INPUT, dtype, [BATCH, *input_shape])],
            [helper.make_tensor_value_info(OUTPUT, dtype, [BATCH, *[None] * rank])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and weights, collected one layer after another."""

    def __init__(self, dtype: type[np.floating[Any]]) -> None:
        self.dtype = dtype
        self.opset = OPSET
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add_linear(self, layer: nn.Linear, source: str, output: str, *, positions: bool) -> None:
        weight = self._weight(layer.weight.T, f"{output}_weight")
        bias = None if layer.bias is None else self._weight(layer.bias, f"{output}_bias")
        if not positions:
            self._add("Gemm", [source, weight, *([bias] if bias else [])], output)
        elif bias is None:
            self._add("MatMul", [source, weight], output)
        else:
            self._add("MatMul", [source, weight], f"{output}_unbiased")
            self._add("Add", [f"{output}_unbiased", bias], output)

    def add_convolution(self, layer: _ConvNd, source: str, output: str, name: str) -> None:
        inputs = [source, self._weight(layer.weight, f"{output}_weight")]
        if layer.bias is not None:
            inputs.append(self._weight(layer.bias, f"{output}_bias"))
        attributes = {
            "kernel_shape": list(layer.kernel_size),
            "strides": list(layer.stride),
            "dilations": list(layer.dilation),
            "group": layer.groups,
        }
        if isinstance(layer, _ConvTransposeNd):
            pads = [*cast("tuple[int, ...]", layer.padding)] * 2
            extra = {"pads": pads, "output_padding": list(layer.output_padding)}
            self._add("ConvTranspose", inputs, output, **attributes, **extra)
            return
        pads = _pads(layer)
        if layer.padding_mode != "zeros" and any(pads):
            half = len(pads) // 2
            around = [0, 0, *pads[:half], 0, 0, *pads[half:]]  # batch and channels: none
            amounts = self._constant(np.array(around, np.int64), f"{output}_pads")
            mode = PAD_MODES[layer.padding_mode]
            self.opset = max(self.opset, WRAP_OPSET if mode == "wrap" else OPSET)
            self._add("Pad", [source, amounts], f"padded{name}", mode=mode)
            inputs[0], pads = f"padded{name}", [0] * len(pads)
        self._add("Conv", inputs, output, **attributes, pads=pads)

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def _weight(self, tensor: Tensor, name: str) -> str:
        return self._constant(tensor.detach().cpu().numpy().astype(self.dtype), name)

    def _constant(self, array: npt.NDArray[Any], name: str) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _pads(layer: _ConvNd) -> list[int]:
    """Amounts before each axis, then after each; torch keeps them in pairs, the last axis first.

    That list also resolves the paddings "same" and "valid".
    """
    pairs = list(layer._reversed_padding_repeated_twice)
    before, after = pairs[-2::-2], pairs[::-2]
    return [*before, *after]
