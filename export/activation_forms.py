"""Activations in the form that a runtime computes fastest and that never overflows.

`x * tanh(softplus(beta x) / beta)` reaches a graph in several shapes. The Softplus in one of them
takes ONNX Runtime longer than all the rest together. The forms written here, with the sigmoid s:

- beta = 1, Mish: `x n / (2 - n)` with `n = q (2 - q)` and `q = s(x)`: no logarithm;
- |beta| up to 2: `x tanh(log(s(-beta x)) / -beta)`;
- above 2: `x tanh((relu(u) - log(s(|u|))) / beta)` with `u = beta x`. Where s(-u) rounds to
  zero, the second form takes softplus(u) for infinite, which is right once tanh(u / beta) is one.
  ONNX Runtime rounds it to zero from u = 18 on; at beta = 5, tanh is still 9e-5 short of one there.

A clip of `a x + b` to [0, 1], which opens a hard gate, becomes one HardSigmoid.

`benchmarks/latency.py` compares their speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.graph import Graph

if TYPE_CHECKING:
    import onnx

# In the least exact runtime s(-u) is zero from u = 18 on, where 1 - tanh(u / beta) is 3e-8.
LOG_SIGMOID_BETA = 2.0


@dataclass(frozen=True)
class _Gate:
    """`x * tanh(softplus(beta * x) * factor)`, where `factor * beta` is one."""

    x: str
    beta: float


def choose_activation_forms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write every PMish, Mish and clipped line in its fastest form."""
    graph = Graph(model)
    for node in list(graph.nodes):
        gate = _find_gate(graph, node)
        if gate is not None:
            place = graph.nodes.index(node)
            graph.nodes[place : place + 1] = _write_gate(graph, gate, node.output[0])
            graph.index()
        line = _find_line(graph, node)
        if line is not None:
            x, slope, shift = line
            place = graph.nodes.index(node)
            graph.nodes[place] = graph.make(
                "HardSigmoid", [x], node.output[0], alpha=slope, beta=shift
            )
            graph.index()
    return graph.to_model()


def _find_line(graph: Graph, node: onnx.NodeProto) -> tuple[str, float, float] | None:
    """`(x, a, b)` of a node that clips `a x + b` to [0, 1]; none for others."""
    if node.op_type != "Clip" or [graph.scalar(name) for name in node.input[1:]] != [0.0, 1.0]:
        return None
    source, shift = node.input[0], 0.0
    added = graph.producer(source)
    if added is not None and added.op_type == "Add":
        constants = [graph.scalar(name) for name in added.input]
        known = [value for value in constants if value is not None]
        if len(known) != 1:
            return None
        shift, source = known[0], added.input[constants.index(None)]
    slope, x = _scale(graph, source)
    return x, slope, shift


def _find_gate(graph: Graph, node: onnx.NodeProto) -> _Gate | None:
    """The gate that a Mish node, or the last Mul of its expansion, computes; none for others."""
    if node.op_type == "Mish":
        return _Gate(node.input[0], 1.0)
    if node.op_type != "Mul":
        return None
    for x, other in (tuple(node.input), tuple(reversed(node.input))):
        tanh = graph.producer(other)
        if tanh is None or tanh.op_type != "Tanh":
            continue
        factor, inner = _scale(graph, tanh.input[0])
        sign, beta, source = _softplus(graph, inner)
        # beta and 1 / beta are each rounded to float32 once.
        if source == x and np.isclose(factor * sign * beta, 1, rtol=1e-6, atol=0):
            return _Gate(x, beta)
    return None


def _scale(graph: Graph, name: str) -> tuple[float, str]:
    """`(factor, source)` of a tensor that is `factor * source` by Mul, Div or Neg; or factor 1."""
    node = graph.producer(name)
    if node is None:
        return 1.0, name
    if node.op_type == "Neg":
        return -1.0, node.input[0]
    if node.op_type in {"Mul", "Div"}:
        first, second = (graph.scalar(n) for n in node.input)
        if second is not None and (node.op_type == "Mul" or second != 0):
            return (second if node.op_type == "Mul" else 1 / second), node.input[0]
        if first is not None and node.op_type == "Mul":
            return first, node.input[1]
    return 1.0, name


def _softplus(graph: Graph, name: str) -> tuple[float, float, str]:
    """`(sign, beta, x)` of a tensor that is `sign * softplus(beta * x)`; or sign 0."""
    node = graph.producer(name)
    if node is not None and node.op_type == "Softplus":
        beta, x = _scale(graph, node.input[0])
        return 1.0, beta, x
    if node is not None and node.op_type == "Log":
        sigmoid = graph.producer(node.input[0])
        if sigmoid is not None and sigmoid.op_type == "Sigmoid":
            negated, x = _scale(graph, sigmoid.input[0])
            return -1.0, -negated, x
    return 0.0, 0.0, ""


def _write_gate(graph: Graph, gate: _Gate, output: str) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []

    def add(op_type: str, *inputs: str | float) -> str:
        names = [
            value
            if isinstance(value, str)
            else graph.constant(np.array([value], np.float32), "scalar")
            for value in inputs
        ]
        nodes.append(graph.make(op_type, names, graph.fresh(f"{output}_{op_type.lower()}")))
        return nodes[-1].output[0]

    x, beta = gate.x, gate.beta
    if beta == 1:
        q = add("Sigmoid", x)
        n = add("Mul", q, add("Sub", 2.0, q))
        tanh = add("Div", n, add("Sub", 2.0, n))
    elif abs(beta) <= LOG_SIGMOID_BETA:
        tanh = add("Tanh", add("Mul", add("Log", add("Sigmoid", add("Mul", x, -beta))), -1 / beta))
    else:
        u = add("Mul", x, beta)
        small = add("Log", add("Sigmoid", add("Abs", u)))
        tanh = add("Tanh", add("Mul", add("Sub", add("Relu", u), small), 1 / beta))
    nodes.append(graph.make("Mul", [x, tanh], output))
    return nodes
