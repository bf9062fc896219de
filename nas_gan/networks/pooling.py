"""A convolution and the pooling behind it, computed as one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledConv2d(nn.Conv2d):
    """A convolution with stride 1, and the mean of every 2 x 2 of its outputs.

    Maps `(n, c_in, h, w)` to `(n, c_out, h // 2, w // 2)`, as `Conv2d` and `AvgPool2d(2)` do but
    for rounding, and has the weights of the former. A mean of shifted kernels is a kernel that is
    one wider: a 3 x 3 one takes 36 multiply-adds for the four outputs of a mean, and a 4 x 4 one
    with stride 2 takes 16.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: an odd number; the input is padded by half of it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight  # once: a spectral norm iterates whenever it is asked for
        shifted = [F.pad(weight, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1)]
        kernel = torch.stack(shifted).mean(0)
        return F.conv2d(x, kernel, self.bias, stride=2, padding=self.padding)
