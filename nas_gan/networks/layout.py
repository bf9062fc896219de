"""How feature maps lie in memory: with channels last, convolutions on a CPU are faster.

Weights decide: a convolution with channels-last weights returns channels-last maps, which the next
one passes on. The numbers are the same but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_gan.networks.randomness import run_repeatably
from nas_gan.networks.rounding import same_but_for_rounding
from nas_gan.networks.structure import evaluating


def put_channels_last_(network: nn.Module, inputs: Tensor) -> bool:
    """Lay a network's weights out with channels last, if it makes the same images then.

    It need not: what looks at the memory of a feature map, as `view` does, can refuse the layout.

    Args:
        network: changed in place, or left as it is.
        inputs: `(n, ...)` inputs to try it on; two rows are enough.

    Returns:
        Whether it was changed.
    """
    if is_channels_last(network):
        return False
    with evaluating(network):
        expected = run_repeatably(network, inputs)
        network.to(memory_format=torch.channels_last)
        try:
            same = same_but_for_rounding(run_repeatably(network, inputs), expected)
        except Exception:  # whatever a stranger's module raises, such as for a `view`
            same = False
        if not same:
            network.to(memory_format=torch.contiguous_format)
    return is_channels_last(network)


def lay_out_like_(network: nn.Module, other: nn.Module) -> nn.Module:
    """Lay a network's weights out with channels last if those of `other` are; returns it."""
    if is_channels_last(other):
        network.to(memory_format=torch.channels_last)
    return network


def is_channels_last(network: nn.Module) -> bool:
    """Whether any weight of a network says so; those of 1 x 1 convolutions say nothing."""
    return any(
        parameter.ndim == 4
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in network.parameters()
    )
