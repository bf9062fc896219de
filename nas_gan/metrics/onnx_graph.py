"""Feature networks as ONNX graphs, written node by node.

torch's exporter takes ten seconds, which every command would have to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nas_gan.errors import MissingDataError


class OnnxGraph:
    """An ONNX graph under construction; each method adds nodes and returns the output's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, value: npt.NDArray[Any]) -> str:
        import onnx.numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        import onnx.helper

        name = f"x{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def conv(
        self,
        x: str,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        activation: Literal["relu", "relu6"] | None = None,
        pads: Sequence[int] | None = None,
    ) -> str:
        """A convolution with batch normalisation folded in, followed by an activation.

        `pads` (top, left, bottom, right) replaces the even padding of the layer.
        """
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        parameters = [self.constant(p.detach().cpu().numpy()) for p in (weight, bias)]
        pads = list(pads or (*map(int, conv.padding), *map(int, conv.padding)))
        strides = list(conv.stride)
        x = self.node("Conv", x, *parameters, group=conv.groups, strides=strides, pads=pads)
        if activation == "relu":
            return self.node("Relu", x)
        if activation == "relu6":
            bounds = [self.constant(np.array(value, np.float32)) for value in (0, 6)]
            return self.node("Clip", x, *bounds)
        return x

    def serialize(
        self, name: str, element: int, shape: Sequence[int | str], output: str, dim: int
    ) -> bytes:
        """The finished model: `images` of an ONNX element type to `features` `(n, dim)`."""
        import onnx
        from onnx import TensorProto, helper

        nodes = [*self.nodes, helper.make_node("Flatten", [output], ["features"])]
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("images", element, shape)],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", dim])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def check_onnx() -> None:
    """Raise MissingDataError if the packages for features on a CPU are missing."""
    try:
        import onnx  # noqa: F401  (used where the graph is written)
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDataError(
            f"features on a CPU need ONNX Runtime ({error}); run: pip install onnx onnxruntime"
        ) from error


class GraphInParts:
    """An ONNX model on the CPU that runs on a batch in small parts, as many at once as threads.

    A part of eight images fits into a core's cache. Each has one thread: two parts side by side
    take less time than one after the other with two threads each, which wait for one another at
    every operator. What comes out does not depend on the number of threads.

    Args:
        model: the model, with one input and one output.
        threads: how many parts run at once; by default the threads of torch in this process.
    """

    ROWS = 8

    def __init__(self, model: bytes, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        [given] = self._session.get_inputs()
        self._name = given.name
        self._threads = ThreadPoolExecutor(threads or torch.get_num_threads())

    def __call__(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The outputs `(n, ...)` of a batch `(n, ...)`; an empty one runs as a whole."""
        starts = range(0, max(len(batch), 1), self.ROWS)
        parts = [batch[start : start + self.ROWS] for start in starts]
        return np.concatenate([*self._threads.map(self._run, parts)])

    def _run(self, part: npt.NDArray[Any]) -> Any:
        return self._session.run(None, {self._name: part})[0]
