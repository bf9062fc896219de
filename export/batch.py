"""A dynamic batch for generators whose code makes the batch a constant.

`len(x)` is a plain number to torch's exporter, so a generator that uses it is exported for the
batch of the example alone. Exported for two batches, it gives two graphs that differ in a few
constants only. Whatever differs is a multiple of the batch and something fixed, which the two
determine, and is computed from the batch of the input instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

# Batches that are traced. As primes they are unlikely to be anything else in a graph.
FIRST, SECOND = 7, 11
_BATCH = "batch_of_the_input"


def has_dynamic_batch(model: onnx.ModelProto) -> bool:
    """Whether the first size of every input is a symbol."""
    sizes = [value.type.tensor_type.shape.dim[0] for value in model.graph.input]
    return all(size.dim_param for size in sizes)


def with_dynamic_batch(traced: Callable[[int], onnx.ModelProto], symbol: str) -> onnx.ModelProto:
    """One graph for every batch, from graphs for single ones.

    Args:
        traced: exports the generator for a batch of that size.
        symbol: the name of the batch in the shapes of inputs and outputs.

    Raises:
        ExportError: the two graphs differ in more than constants that depend on the batch.
    """
    import onnx
    from onnx import helper, numpy_helper

    model, other = (_with_initializers(traced(size)) for size in (FIRST, SECOND))
    if list(map(_shape_of_node, model.graph.node)) != list(map(_shape_of_node, other.graph.node)):
        raise _refused("it computes different things for different batches")
    others = {tensor.name: tensor for tensor in other.graph.initializer}
    kept, computed = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in others:
            raise _refused(f"{tensor.name} is there for one batch only")
        first, second = (numpy_helper.to_array(t) for t in (tensor, others[tensor.name]))
        if first.shape == second.shape and np.array_equal(first, second):
            kept.append(tensor)
            continue
        if first.shape != second.shape or first.dtype != np.int64:
            raise _refused(f"{tensor.name} holds values for each image of the batch")
        slope, rest = np.divmod(second - first, SECOND - FIRST)
        if rest.any():
            raise _refused(f"{tensor.name} is no multiple of the batch")
        fixed = first - slope * FIRST
        if _only_reshapes(model, tensor.name) and np.count_nonzero(slope) == 1 and first.min() > 0:
            # The one size that is left open follows from the others.
            kept.append(numpy_helper.from_array(np.where(slope, -1, first), tensor.name))
            continue
        kept += [
            numpy_helper.from_array(np.asarray(slope), f"{tensor.name}_per_image"),
            numpy_helper.from_array(np.asarray(fixed), f"{tensor.name}_fixed"),
        ]
        computed += [
            helper.make_node(
                "Mul", [f"{tensor.name}_per_image", _BATCH], [f"{tensor.name}_of_batch"]
            ),
            helper.make_node(
                "Add", [f"{tensor.name}_of_batch", f"{tensor.name}_fixed"], [tensor.name]
            ),
        ]
    batch = [
        helper.make_node("Shape", [model.graph.input[0].name], ["shape_of_the_input"]),
        helper.make_node("Gather", ["shape_of_the_input", "first_size"], [_BATCH], axis=0),
    ]
    kept.append(numpy_helper.from_array(np.asarray(0, np.int64), "first_size"))
    nodes = [*(batch if computed else []), *computed, *model.graph.node]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for part in ("node", "initializer", "value_info"):
        result.graph.ClearField(part)
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(kept)
    for value in (*result.graph.input, *result.graph.output):
        size = value.type.tensor_type.shape.dim[0]
        size.Clear()
        size.dim_param = symbol
    return result


def _with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its Constant nodes as initializers."""
    nodes = []
    for node in model.graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is None:
            nodes.append(node)
        else:
            model.graph.initializer.append(value)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return model


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor; None if it is text or sparse."""
    import onnx
    from onnx import numpy_helper

    [attribute] = node.attribute
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    if attribute.name not in ("value_int", "value_ints", "value_float", "value_floats"):
        return None
    kind = np.int64 if attribute.name.startswith("value_int") else np.float32
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.from_array(np.asarray(value, dtype=kind), node.output[0])


def _shape_of_node(node: onnx.NodeProto) -> tuple[Any, ...]:
    """All of a node but its name and where it comes from."""
    attributes = sorted(
        (attribute.name, attribute.SerializeToString()) for attribute in node.attribute
    )
    return node.op_type, tuple(node.input), tuple(node.output), tuple(attributes)


def _only_reshapes(model: onnx.ModelProto, name: str) -> bool:
    """Whether a tensor is nothing but the shape of Reshape nodes."""
    users = [node for node in model.graph.node if name in node.input]
    return bool(users) and all(
        node.op_type == "Reshape" and list(node.input).index(name) == 1 for node in users
    )


def _refused(reason: str) -> ExportError:
    return ExportError(
        f"the generator makes its batch a constant, as len(x) does, and {reason}; use x.shape[0] "
        "in its forward"
    )
