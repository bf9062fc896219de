"""Names of nodes: a node with weights of a layer is called after the layer.

Profilers of ONNX Runtime and TensorRT report times under the names of nodes and of what they
compute. `cell1.c0/Conv` says which layer that was; `node_conv2d_17` does not.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# Rewrites and conversions add to the names of tensors, as in `c0.weight_scaled_fp16`.
_OF_LAYER = re.compile(r"(?P<layer>.+)\.(?:weight|bias)(?:_.*)?")


def name_after_layers_(model: onnx.ModelProto) -> None:
    """Rename, in place, the nodes that use a weight, and what they compute, to `LAYER/OPERATOR`.

    A layer that is used several times is counted: `l1/Gemm`, `l1/Gemm_2`. The inputs and outputs
    of the graph keep their names.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in (*graph.input, *graph.output)} | weights
    used: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in graph.node:
        layer = _layer(node, weights)
        if layer is None:
            continue
        used[f"{layer}/{node.op_type}"] += 1
        count = used[f"{layer}/{node.op_type}"]
        node.name = f"{layer}/{node.op_type}" + (f"_{count}" if count > 1 else "")
        if node.output[0] not in kept:
            renamed[node.output[0]] = node.name
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _layer(node: onnx.NodeProto, weights: set[str]) -> str | None:
    for name in node.input:
        found = _OF_LAYER.fullmatch(name) if name in weights else None
        if found is not None:
            return found["layer"]
    return None
