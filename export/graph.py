"""An ONNX graph that can be edited: which node makes a tensor, which read it, which are constant.

The rewrites in this package work on it, because a `ModelProto` has no index and is awkward to edit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


class Graph:
    """The nodes and constants of a copy of `model`; `to_model` returns the edited model.

    Nodes may be added in any order and may end up unread: `to_model` sorts them and drops those
    that do not lead to an output. Constants are initialisers. `shapes` holds the shapes of the
    tensors in `model`, with 0 for a dynamic size.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self._onnx = onnx
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.constants: dict[str, Array] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        } | {name: array.shape for name, array in self.constants.items()}
        # Kept because shape inference loses the symbol of the batch behind a Resize, and ONNX
        # Runtime fuses only tensors that it knows to have the same shape.
        self._infos = {value.name: value for value in graph.value_info}
        self.outputs = {value.name for value in graph.output}
        self._names = {*self.shapes, *(name for node in self.nodes for name in node.output)}
        self.index()

    def index(self) -> None:
        """Update who makes and who reads which tensor, after nodes were changed."""
        self._producer = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                if name:
                    self._readers[name].append(node)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; none for inputs and constants."""
        return self._producer.get(name)

    def readers(self, name: str) -> Sequence[onnx.NodeProto]:
        """The nodes that read a tensor, once per read."""
        return self._readers.get(name, ())

    def is_private(self, name: str) -> bool:
        """Whether a tensor is read exactly once and is not an output of the graph."""
        return len(self.readers(name)) == 1 and name not in self.outputs

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element; none for any other tensor."""
        value = self.constants.get(name)
        return float(value.item()) if value is not None and value.size == 1 else None

    def constant(self, value: Array, stem: str) -> str:
        """The name of a new constant, which begins with `stem`."""
        name = self.fresh(stem)
        self.constants[name] = value
        self.shapes[name] = value.shape
        return name

    def fresh(self, stem: str) -> str:
        """A tensor name that is not used yet."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def describe_small(self, name: str, like: str, scales: tuple[float, float]) -> None:
        """Record that `name` is like `like`, `(n, c, h, w)`, with h and w smaller by `scales`."""
        if like in self._infos:
            info = type(self._infos[like])()
            info.CopyFrom(self._infos[like])
            info.name = name
            for dim, scale in zip(info.type.tensor_type.shape.dim[2:], scales, strict=True):
                if dim.dim_value:
                    dim.dim_value = int(dim.dim_value / scale)
            self._infos[name] = info

    def make(
        self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any
    ) -> onnx.NodeProto:
        """A new node, named like its output; it is not added to the graph."""
        return self._onnx.helper.make_node(op_type, inputs, [output], output, **attributes)

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The attributes of a node as plain values, with text as `str`."""
        values = {
            attribute.name: self._onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        return {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in values.items()
        }

    def to_model(self) -> onnx.ModelProto:
        """The edited model: nodes sorted, unread ones dropped, constants shared, shapes known."""
        from onnx import numpy_helper

        graph = self.model.graph
        nodes = self._ordered()
        self._share_equal_constants(nodes)
        read = {name for node in nodes for name in node.input}
        made = {name for node in nodes for name in node.output} - self.outputs
        infos = [info for name, info in self._infos.items() if name in made]
        for field in ("node", "initializer", "value_info"):
            graph.ClearField(field)
        graph.node.extend(nodes)
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self.constants.items()
            if name in read
        )
        graph.value_info.extend(infos)
        return self._onnx.shape_inference.infer_shapes(self.model, data_prop=True)

    def _ordered(self) -> list[onnx.NodeProto]:
        """The nodes that the outputs need, each after those whose tensors it reads.

        Among the nodes that could come next it takes the first, so a valid order is kept.
        """
        self.index()
        place = {id(node): number for number, node in enumerate(self.nodes)}
        missing: dict[int, int] = {}  # node -> how many of the nodes it needs are still to come
        needed_by: dict[int, list[int]] = defaultdict(list)
        todo = [place[id(self._producer[name])] for name in self.outputs if name in self._producer]
        while todo:
            number = todo.pop()
            if number in missing:
                continue
            names = self.nodes[number].input
            makers = {place[id(maker)] for name in names if (maker := self.producer(name))}
            missing[number] = len(makers)
            for maker_number in makers:
                needed_by[maker_number].append(number)
            todo.extend(makers)
        ready = [number for number, count in missing.items() if count == 0]
        heapify(ready)
        ordered: list[onnx.NodeProto] = []
        while ready:
            number = heappop(ready)
            ordered.append(self.nodes[number])
            for reader in needed_by[number]:
                missing[reader] -= 1
                if missing[reader] == 0:
                    heappush(ready, reader)
        return ordered

    def _share_equal_constants(self, nodes: Sequence[onnx.NodeProto]) -> None:
        first: dict[tuple[Any, ...], str] = {}
        same = {
            name: first.setdefault((array.dtype.str, array.shape, array.tobytes()), name)
            for name, array in self.constants.items()
        }
        for node in nodes:
            node.input[:] = [same.get(name, name) for name in node.input]
