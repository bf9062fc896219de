"""Candidate operations on an edge, and the cell that they form."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import make_activation
from nas_gan.networks.genotype import EDGES, Genotype

# name -> (kernel, padding, dilation); with stride 1 all of them keep height and width.
CONVOLUTIONS = {
    "conv_1x1": (1, 0, 1),
    "conv_3x3": (3, 1, 1),
    "conv_5x5": (5, 2, 1),
    "dil_conv_3x3": (3, 2, 2),
    "dil_conv_5x5": (5, 4, 2),
}
# How a cell resizes the features of an earlier cell to its own size.
SKIP_MODE = {1: "nearest", 2: "bilinear", 3: "nearest"}


def resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Interpolate `(n, c, h, w)` to `(n, c, *size)`; smooth modes align areas, not corners."""
    return F.interpolate(
        x, size=size, mode=mode, align_corners=None if mode == "nearest" else False
    )


class ConvOp(nn.Module):
    """Activation, then a convolution with bias; `(n, c, h, w)` keeps its shape."""

    def __init__(self, name: str, channels: int, activation: str) -> None:
        super().__init__()
        kernel, padding, dilation = CONVOLUTIONS[name]
        conv = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation)
        self.op = nn.Sequential(make_activation(activation), conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class InterpolateUp(nn.Module):
    """Interpolate to twice the size, then activation and a 1x1 convolution."""

    def __init__(self, mode: str, channels: int, activation: str) -> None:
        super().__init__()
        self.mode = mode
        self.c = nn.Sequential(make_activation(activation), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = (2 * x.shape[-2], 2 * x.shape[-1])
        return self.c(resize(x, size, self.mode))


class ConvTransposeUp(nn.Module):
    """Activation, depthwise transposed convolution with stride 2, 1x1 convolution."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        depthwise = nn.ConvTranspose2d(
            channels,
            channels,
            3,
            stride=2,
            padding=1,
            output_padding=1,
            groups=channels,
            bias=False,
        )
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.c = nn.Sequential(make_activation(activation), depthwise, pointwise)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x)


class Edge(nn.Module):
    """One derived edge. Its only operation is `ops.0`, its name in the published nets."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.ops = nn.ModuleList([op])

    def forward(self, x: Tensor) -> Tensor:
        return self.ops[0](x)


class UpEdge(nn.Module):
    """A derived upsampling edge; its only operation is `ups.0`."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.ups = nn.ModuleList([op])

    def forward(self, x: Tensor) -> Tensor:
        return self.ups[0](x)


def make_edge(name: str, channels: int, activation: str) -> Edge | None:
    """The normal operation `name` as an edge; None for the operation `none`."""
    if name == "none":
        return None
    if name == "skip_connect":
        return Edge(nn.Identity())
    return Edge(ConvOp(name, channels, activation))


def make_up_edge(name: str, channels: int, activation: str) -> UpEdge:
    """The upsampling operation `name` as an edge."""
    if name == "conv_transpose":
        return UpEdge(ConvTransposeUp(channels, activation))
    return UpEdge(InterpolateUp(name, channels, activation))


class Cell(nn.Module):
    """Two upsampling edges and up to five normal ones between the nodes 0 to 3.

    It takes `(n, c, h, w)` and the skip features of earlier cells, and returns `(skip_out, node3)`,
    both `(n, c, 2h, 2w)`.

    Raises:
        InvalidValueError: The genotype leaves node 2 or node 3 without input.
    """

    up0: UpEdge
    up1: UpEdge
    c0: Edge | None
    c1: Edge | None
    c2: Edge | None
    c3: Edge | None
    c4: Edge | None

    def __init__(self, genotype: Genotype, number: int, channels: int, activation: str) -> None:
        super().__init__()
        for edge in EDGES[:2]:
            self.add_module(
                edge, make_up_edge(genotype.operation(number, edge), channels, activation)
            )
        for edge in EDGES[2:]:
            self.add_module(edge, make_edge(genotype.operation(number, edge), channels, activation))
        for node, inputs in ((2, ("c0", "c1")), (3, ("c2", "c3", "c4"))):
            if all(getattr(self, edge) is None for edge in inputs):
                raise InvalidValueError(
                    f"cell{number}: node {node} has no input; "
                    f"one of {', '.join(inputs)} must not be none"
                )
        self.skip_mode = SKIP_MODE[number]
        self.skip_in_ops = nn.ModuleList(
            nn.Conv2d(channels, channels, 1) for _ in range(number - 1)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        node0, node1 = self.up0(x), self.up1(x)  # (n, c, 2h, 2w)
        size = (node0.shape[-2], node0.shape[-1])
        node2 = _sum_present((self.c0, node0), (self.c1, node1))
        for conv, skip in zip(self.skip_in_ops, skips, strict=True):
            node2 = node2 + conv(resize(skip, size, self.skip_mode))
        node3 = _sum_present((self.c2, node0), (self.c3, node1), (self.c4, node2))
        # The published weights were trained with a skip output that includes the earlier skips, so
        # later cells receive them too.
        return node2, node3


def _sum_present(*edges: tuple[nn.Module | None, Tensor]) -> Tensor:
    outputs = [edge(x) for edge, x in edges if edge is not None]
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total
