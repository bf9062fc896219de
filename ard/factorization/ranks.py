"""Shapes of kernels, and rounding ranks to multiples that suit a device.

A weight is described by `shape = (c_out, c_in, k_h, k_w)`, with channels counted over all groups; a
matrix has `k_h = k_w = 1`. A grouped convolution is factorized group by group. Its rank is counted
over all groups and shared equally, so it is a multiple of the number of groups.
"""

from __future__ import annotations

Shape = tuple[int, int, int, int]
Rank = tuple[int, ...]


def group_shape(shape: Shape, groups: int) -> Shape:
    """The shape of one group's kernel.

    >>> group_shape((32, 16, 3, 3), 4)
    (8, 4, 3, 3)
    """
    c_out, c_in, k_h, k_w = shape
    return (c_out // groups, c_in // groups, k_h, k_w)


def is_pointwise(shape: Shape) -> bool:
    """Whether the kernel is a matrix: one pixel high and wide."""
    return shape[2:] == (1, 1)


def snap(rank: float, largest: int, multiple_of: int = 1) -> int:
    """The multiple of `multiple_of` nearest to `rank`, from one multiple up to `largest`.

    A dimension that is smaller than one multiple cannot be aligned and gives the nearest integer.

    >>> [snap(r, largest=40, multiple_of=16) for r in (3, 25, 39)]
    [16, 32, 32]
    >>> snap(3.4, largest=8, multiple_of=16)
    3
    """
    step = multiple_of if multiple_of <= largest else 1
    return max(1, min(round(rank / step), largest // step)) * step
