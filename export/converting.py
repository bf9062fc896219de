"""From the float32 graph of a generator to the graph that is delivered, as a seam of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from export.precision import PRECISIONS, Delivered, Precision

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Converted:
    """A graph in the precision that it is delivered in, and the record of how that was chosen.

    Attributes:
        model: the graph.
        precision: its precision; `int8` if any node is.
        record: plain values for the manifest; None if nothing was chosen or measured.
    """

    model: onnx.ModelProto = field(repr=False)
    precision: Delivered
    record: Mapping[str, Any] | None = None


class Convert(Protocol):
    """Converts the float32 graph of a generator."""

    def __call__(self, model: onnx.ModelProto, generator: nn.Module) -> Converted:
        """Convert the graph that was exported from a generator; it is not changed.

        Raises:
            ExportError: the graph cannot be converted.
        """
        ...

    def for_dense(self, delivered: Delivered) -> Convert:
        """What converts the dense generator beside a graph of this precision."""
        ...


@dataclass(frozen=True)
class Stated:
    """Converts to a precision that needs nothing but the graph, and measures nothing."""

    precision: Precision

    def __call__(self, model: onnx.ModelProto, generator: nn.Module) -> Converted:
        """Convert the graph."""
        return Converted(PRECISIONS[self.precision].convert(model), self.precision)

    def for_dense(self, delivered: Delivered) -> Stated:
        """The same again."""
        return self
