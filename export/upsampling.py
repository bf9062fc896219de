"""Upsampling moved to where it is cheapest, without changing an image.

To enlarge a feature map and then work on it repeats the same work for equal pixels. A rewrite walks
the graph and postpones each upsampling as long as the next node gives the same on the small map:

- nearest, by whole factors: every pointwise operator, and every convolution along an axis on which
  its kernel is one pixel, or its dilation and padding are multiples of the factor (a 5x5 kernel
  with dilation 2 behind a factor of 2 is a plain 5x5 kernel on the small map);
- nearest, other convolutions: each output pixel reads only a few different pixels, so taps that
  meet the same pixel are summed beforehand. 25 taps become 9, and 9 become 4. This is the sub-pixel
  convolution of Shi et al., CVPR 2016 (arXiv:1609.05158), with weights that are known to be equal;
- linear and cubic: 1x1 convolutions. The weights of these upsamplings sum to one at every pixel,
  including borders, so they commute with any affine map of the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from export.graph import Array, Graph

if TYPE_CHECKING:
    import onnx

Scales = tuple[float, float]
UNARY = frozenset(
    {
        *("Abs", "Cast", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *("LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus"),
        *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    }
)
POINTWISE = UNARY | {"Add", "Clip", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"}
# How a Resize finds its source pixel if a whole factor repeats each pixel that many times.
REPEATS = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
}
SMOOTH_COORDINATES = {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"}
# A multiply-add of a transposed convolution takes about 1.7 times as long as that of a convolution
# (ONNX Runtime, CPU), so summing taps has to halve their number to be a sure gain.
MIN_GAIN = 2.0
# Enlarging one value takes about as long as this many multiply-adds of a convolution (ditto).
RESIZE_MACS = 32


@dataclass(frozen=True)
class _Pending:
    """A tensor `(n, c, h, w)` that equals `small`, upsampled by `scales` along h and w."""

    small: str
    scales: Scales
    attributes: tuple[tuple[str, Any], ...]
    nearest: bool


@dataclass(frozen=True)
class _Axis:
    """A convolution along one axis, and the upsampling in front of it that it absorbs."""

    kernel: int
    dilation: int
    pads: tuple[int, int]
    taken: int = 1
    left: int = 1

    @property
    def span(self) -> int:
        """Pixels from the first tap to the last."""
        return (self.kernel - 1) * self.dilation

    @property
    def length(self) -> int:
        """Size of the transposed kernel."""
        return self.span + self.taken

    @property
    def crop(self) -> tuple[int, int]:
        """How many pixels a transposed convolution cuts off at either end."""
        return self.span - self.pads[0], self.span - self.pads[1]

    @property
    def offsets(self) -> range:
        """The small pixels, relative to its own, that some output pixel reads."""
        first = -((self.length - 1 - self.crop[0]) // self.taken)
        return range(first, (self.taken - 1 + self.crop[0]) // self.taken + 1)

    @property
    def keeps_size(self) -> bool:
        return sum(self.pads) == self.span

    def transposed(self) -> Array:
        """`(length, kernel)`: which taps sum to each weight of the transposed kernel."""
        matrix = np.zeros((self.length, self.kernel))
        for tap in range(self.kernel):
            start = self.span - tap * self.dilation
            matrix[start : start + self.taken, tap] = 1
        return matrix

    def phases(self) -> Array:
        """`(taken, offsets, kernel)`: the same for each output pixel of a small pixel."""
        transposed = self.transposed()
        matrix = np.zeros((self.taken, len(self.offsets), self.kernel))
        for phase in range(self.taken):
            for place, offset in enumerate(self.offsets):
                index = phase + self.crop[0] - self.taken * offset
                if 0 <= index < self.length:
                    matrix[phase, place] = transposed[index]
        return matrix


def delay_upsampling(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move every upsampling as late as the images allow, behind convolutions."""
    return _Walk(Graph(model)).run()


class _Walk:
    """One walk along the graph; `pending` holds the tensors that are not upsampled yet."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.pending: dict[str, _Pending] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.done: dict[tuple[_Pending, str | None], str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            if not (self._upsamples(node) or self._passes(node) or self._convolves(node)):
                for name in node.input:
                    self._finish(name)
                self.nodes.append(node)
        for name in self.graph.outputs:
            self._finish(name)
        self.graph.nodes = self.nodes
        return self.graph.to_model()

    def _upsamples(self, node: onnx.NodeProto) -> bool:
        found = self._resize(node)
        if found is None:
            return False
        inner = self.pending.get(found.small)
        if inner is not None and inner.nearest and found.nearest:
            (a, b), (c, d) = inner.scales, found.scales
            found = replace(found, small=inner.small, scales=(a * c, b * d))
        else:
            self._finish(found.small)
        self.pending[node.output[0]] = found
        return True

    def _resize(self, node: onnx.NodeProto) -> _Pending | None:
        if node.op_type != "Resize" or len(node.input) != 3:
            return None
        scales = self.graph.constants.get(node.input[2])
        if scales is None or scales.shape != (4,) or not (scales[:2] == 1).all():
            return None
        height, width = float(scales[2]), float(scales[3])
        attributes = self.graph.attributes(node)
        coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
        mode = attributes.get("mode", "nearest")
        kept = tuple(sorted(attributes.items()))
        if mode == "nearest":
            rounding = attributes.get("nearest_mode", "round_prefer_floor")
            whole = height == int(height) and width == int(width)
            if not whole or (coordinates, rounding) not in REPEATS:
                return None
            return _Pending(node.input[0], (height, width), kept, nearest=True)
        if coordinates not in SMOOTH_COORDINATES or attributes.get("axes"):
            return None
        return _Pending(node.input[0], (height, width), kept, nearest=False)

    def _passes(self, node: onnx.NodeProto) -> bool:
        """Move a pointwise operator to the small maps if all its inputs are upsampled nearest."""
        graph = self.graph
        if node.op_type == "BatchNormalization" and len(node.output) == 1:
            varying = [node.input[0]]
        elif node.op_type in POINTWISE:
            varying = [name for name in node.input if name and name not in graph.constants]
            if not all(_even(graph.constants[n]) for n in node.input if n in graph.constants):
                return False
        else:
            return False
        found = [self.pending[name] for name in varying if name in self.pending]
        if not found or len(found) != len(varying) or not all(p.nearest for p in found):
            return False
        common = (
            float(gcd(*(int(p.scales[0]) for p in found))),
            float(gcd(*(int(p.scales[1]) for p in found))),
        )
        if common == (1, 1):
            return False
        smaller = {
            name: self._enlarge(p, (p.scales[0] / common[0], p.scales[1] / common[1]))
            for name, p in zip(varying, found, strict=True)
        }
        self._put_small(
            node, [smaller.get(n, n) for n in node.input], replace(found[0], scales=common)
        )
        return True

    def _convolves(self, node: onnx.NodeProto) -> bool:
        pending = self.pending.get(node.input[0]) if node.op_type == "Conv" else None
        weight = self.graph.constants.get(node.input[1]) if pending else None
        if pending is None or weight is None or weight.ndim != 4:
            return False
        attributes = self.graph.attributes(node)
        if attributes.get("auto_pad", "NOTSET") != "NOTSET" or any(
            stride != 1 for stride in attributes.get("strides", (1, 1))
        ):
            return False
        pads, dilations = attributes.get("pads", [0] * 4), attributes.get("dilations", [1, 1])
        axes = [
            _Axis(int(weight.shape[2 + i]), dilations[i], (pads[i], pads[2 + i])) for i in (0, 1)
        ]
        pays = self._pays(node, weight, pending)
        if not pending.nearest:
            if not pays or any(axis.span or sum(axis.pads) for axis in axes):
                return False
            self._put_small(node, [pending.small, *node.input[1:]], pending)
            return True
        axes = [_take(axis, int(s)) for axis, s in zip(axes, pending.scales, strict=True)]
        left = (float(axes[0].left), float(axes[1].left))
        if all(axis.taken == 1 for axis in axes):
            if not pays and not self._leads_on(node.output[0]):
                return False
            self._put_small(
                node,
                [pending.small, *node.input[1:]],
                replace(pending, scales=left),
                dilations=[axis.dilation for axis in axes],
                pads=[axis.pads[0] for axis in axes] + [axis.pads[1] for axis in axes],
            )
            return True
        before = axes[0].kernel * axes[1].kernel * pending.scales[0] * pending.scales[1]
        if (
            attributes.get("group", 1) != 1
            or min(*axes[0].crop, *axes[1].crop) < 0
            or before < MIN_GAIN * axes[0].length * axes[1].length
        ):
            return False
        small = node.output[0] if left == (1, 1) else self._small(node, left)
        self._put_summed(node, pending.small, small, weight, axes)
        if left != (1, 1):
            self.pending[node.output[0]] = replace(pending, small=small, scales=left)
        return True

    def _pays(self, node: onnx.NodeProto, weight: Array, pending: _Pending) -> bool:
        """Whether convolving before a Resize saves more than the Resize behind it costs.

        The Resize behind enlarges the output channels. The one in front is saved if nothing else
        reads it.
        """
        c_out, taps = weight.shape[0], int(np.prod(weight.shape[1:]))
        alone = self.graph.is_private(node.input[0])
        groups = self.graph.attributes(node).get("group", 1)
        saved_channels = weight.shape[1] * groups if alone else 0
        saved = c_out * taps * (1 - 1 / (pending.scales[0] * pending.scales[1]))
        return bool(saved >= RESIZE_MACS * (c_out - saved_channels))

    def _leads_on(self, name: str) -> bool:
        """Whether an activation or another convolution follows, which is cheaper on a small map."""
        known = self.graph.constants.keys()
        return any(
            reader.op_type in UNARY
            or (reader.op_type == "Conv" and reader.input[0] == name)
            or (reader.op_type in POINTWISE and not known.isdisjoint(reader.input))
            for reader in self.graph.readers(name)
        )

    def _put_small(
        self, node: onnx.NodeProto, inputs: Sequence[str], pending: _Pending, **changed: Any
    ) -> None:
        """Add the same node on small maps; its output is upsampled once something needs it."""
        small = self._small(node, pending.scales)
        attributes = self.graph.attributes(node) | changed
        self.nodes.append(self.graph.make(node.op_type, inputs, small, **attributes))
        self.pending[node.output[0]] = replace(pending, small=small)

    def _small(self, node: onnx.NodeProto, scales: Scales) -> str:
        small = self.graph.fresh(f"{node.output[0]}_small")
        self.graph.describe_small(small, node.output[0], scales)
        return small

    def _put_summed(
        self, node: onnx.NodeProto, source: str, output: str, weight: Array, axes: Sequence[_Axis]
    ) -> None:
        """Add a convolution that upsamples; taps that meet the same pixel are summed."""
        graph, (rows, columns) = self.graph, axes
        bias = list(node.input[2:])
        phased = rows.taken * len(rows.offsets) * columns.taken * len(columns.offsets)
        if (
            rows.taken == columns.taken
            and rows.keeps_size
            and columns.keeps_size
            and phased <= rows.length * columns.length
        ):
            # No more work than a transposed one, and every runtime is best at convolutions.
            block = rows.taken
            summed = np.einsum(
                "oiyx,auy,bvx->oabiuv", weight.astype(np.float64), rows.phases(), columns.phases()
            ).reshape(-1, weight.shape[1], len(rows.offsets), len(columns.offsets))
            if bias:
                bias = [
                    graph.constant(np.repeat(graph.constants[bias[0]], block**2), f"{bias[0]}_up")
                ]
            deep = graph.fresh(f"{output}_deep")
            pads = [-rows.offsets[0], -columns.offsets[0], rows.offsets[-1], columns.offsets[-1]]
            name = graph.constant(summed.astype(weight.dtype), f"{node.input[1]}_up")
            self.nodes.append(
                graph.make(
                    "Conv", [source, name, *bias], deep, kernel_shape=summed.shape[2:], pads=pads
                )
            )
            self.nodes.append(
                graph.make("DepthToSpace", [deep], output, blocksize=block, mode="CRD")
            )
            return
        summed = np.einsum(
            "oiyx,uy,vx->iouv", weight.astype(np.float64), rows.transposed(), columns.transposed()
        )
        name = graph.constant(summed.astype(weight.dtype), f"{node.input[1]}_up")
        self.nodes.append(
            graph.make(
                "ConvTranspose",
                [source, name, *bias],
                output,
                kernel_shape=summed.shape[2:],
                strides=[rows.taken, columns.taken],
                pads=[rows.crop[0], columns.crop[0], rows.crop[1], columns.crop[1]],
            )
        )

    def _finish(self, name: str) -> None:
        """Upsample a tensor for a node that needs it large."""
        if name in self.pending:
            self._enlarge(self.pending[name], self.pending[name].scales, name)

    def _enlarge(self, pending: _Pending, scales: Scales, name: str | None = None) -> str:
        """The tensor `pending.small`, upsampled by `scales`; made on first use."""
        if scales == (1, 1):
            return pending.small
        key = replace(pending, scales=scales), name
        if key not in self.done:
            output = name or self.graph.fresh(f"{pending.small}_up")
            if name is None:
                inverse = 1 / scales[0], 1 / scales[1]
                self.graph.describe_small(output, pending.small, inverse)
            factors = np.array([1, 1, *scales], np.float32)
            inputs = [pending.small, "", self.graph.constant(factors, "resize_scales")]
            self.nodes.append(self.graph.make("Resize", inputs, output, **dict(pending.attributes)))
            self.done[key] = output
        return self.done[key]


def _take(axis: _Axis, scale: int) -> _Axis:
    """How a convolution treats a nearest upsampling by `scale`: it leaves it behind or absorbs it.

    If every tap steps from copy to copy, all output pixels of a small pixel are equal.
    """
    steps = axis.kernel == 1 or axis.dilation % scale == 0
    if steps and all(pad % scale == 0 for pad in axis.pads):
        dilation = axis.dilation if axis.kernel == 1 else axis.dilation // scale
        first, last = axis.pads
        return replace(axis, dilation=dilation, pads=(first // scale, last // scale), left=scale)
    return replace(axis, taken=scale)


def _even(constant: Array) -> bool:
    """Whether a constant is the same at every pixel of `(n, c, h, w)`."""
    return constant.size == 1 or (constant.ndim >= 3 and constant.shape[-2:] == (1, 1))
