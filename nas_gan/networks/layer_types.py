"""The classes of torch for convolutions and linear maps, and their differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = Conv | Transposed | nn.Linear
Kind = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]


@dataclass(frozen=True)
class LayerType:
    """One of torch's layer classes.

    Attributes:
        kind: its name in tables and signatures.
        module: the class.
        n_axes: number of axes along which it moves; 0 for a linear layer.
        transposed: whether it is a transposed convolution, whose weight has its inputs first.
    """

    kind: Kind
    module: type[Layer]
    n_axes: int
    transposed: bool = False


LAYER_TYPES: dict[Kind, LayerType] = {
    known.kind: known
    for known in (
        LayerType("linear", nn.Linear, 0),
        LayerType("conv1d", nn.Conv1d, 1),
        LayerType("conv2d", nn.Conv2d, 2),
        LayerType("conv3d", nn.Conv3d, 3),
        LayerType("conv_transpose1d", nn.ConvTranspose1d, 1, transposed=True),
        LayerType("conv_transpose2d", nn.ConvTranspose2d, 2, transposed=True),
        LayerType("conv_transpose3d", nn.ConvTranspose3d, 3, transposed=True),
    )
}


def layer_type_of(module: nn.Module) -> LayerType | None:
    """The type of a layer, subclasses included; None for any other module."""
    return next((t for t in LAYER_TYPES.values() if isinstance(module, t.module)), None)


def is_plain(module: nn.Module) -> bool:
    """Whether a module is exactly of one of these classes, and computes what they do."""
    return any(type(module) is known.module for known in LAYER_TYPES.values())


def convolution_type(n_axes: int, *, transposed: bool) -> type[nn.Module]:
    """The class of convolutions along that number of axes."""
    return next(
        known.module
        for known in LAYER_TYPES.values()
        if (known.n_axes, known.transposed) == (n_axes, transposed)
    )
