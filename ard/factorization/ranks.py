"""How large a rank may be, what it costs in weights, and which one comes near a fraction.

A weight is described by `shape = (c_out, c_in, k_h, k_w)` with all channels of all groups; a
matrix has `k_h = k_w = 1`. A convolution with groups is factorized group by group. Its rank is
counted over all groups, each of which gets the same share: a rank is a multiple of their number.
"""

from __future__ import annotations

import math

from ard.errors import RankError
from ard.plan import RANK_LENGTH, Method

Shape = tuple[int, int, int, int]


def group_shape(shape: Shape, groups: int) -> Shape:
    """The shape of one group's kernel.

    >>> group_shape((32, 16, 3, 3), 4)
    (8, 4, 3, 3)
    """
    c_out, c_in, k_h, k_w = shape
    return (c_out // groups, c_in // groups, k_h, k_w)


def max_rank(method: Method, shape: Shape, groups: int = 1) -> tuple[int, ...]:
    """The largest rank that makes sense, at which the factorization is exact.

    For `cp` this is the product of all dimensions but the largest: with that many terms every
    weight can be written down exactly, one term for each vector along the largest dimension.

    >>> max_rank("tucker2", (256, 128, 3, 3))
    (256, 128)
    >>> max_rank("spatial_svd", (16, 8, 5, 3))
    (40,)
    >>> max_rank("spatial_svd", (16, 8, 5, 3), groups=2)
    (40,)
    """
    c_out, c_in, k_h, k_w = one = group_shape(shape, groups)
    if method == "tucker2":
        return (groups * c_out, groups * c_in)
    if method == "svd":
        return (groups * min(c_out, c_in * k_h * k_w),)
    if method == "spatial_svd":
        return (groups * min(c_out * k_w, c_in * k_h),)
    return (groups * math.prod(one) // max(one),)


def check_rank(method: Method, rank: tuple[int, ...], shape: Shape, groups: int = 1) -> None:
    """Do nothing if `rank` can be used on a weight of `shape`.

    Raises:
        RankError: the rank is below 1, above `max_rank`, not a multiple of `groups`, or has the
            wrong number of entries.
    """
    largest = max_rank(method, shape, groups)
    fits = len(rank) == len(largest) and all(
        1 <= r <= m for r, m in zip(rank, largest, strict=True)
    )
    if not fits:
        raise RankError(
            f"rank {rank} does not fit a weight of shape {shape}; "
            f"{method} ranks there go up to {largest}"
        )
    if any(r % groups for r in rank):
        nearest = tuple(groups * max(1, round(r / groups)) for r in rank)
        raise RankError(
            f"rank {rank} is not a multiple of the {groups} groups of a weight of shape {shape}; "
            f"each group gets the same share, {nearest} would do"
        )


def factor_sizes(
    method: Method, rank: tuple[int, ...], shape: Shape, groups: int = 1
) -> tuple[int, ...]:
    """Number of weights in each factor, in the order in which the factors are applied.

    >>> sum(factor_sizes("cp", (128,), (256, 256, 3, 3)))  # R (c_in + c_out + k_h + k_w)
    66304
    """
    if groups > 1:
        share = tuple(r // groups for r in rank)
        sizes = factor_sizes(method, share, group_shape(shape, groups))
        return tuple(groups * size for size in sizes)
    c_out, c_in, k_h, k_w = shape
    if method == "tucker2":
        r_out, r_in = rank
        return (c_in * r_in, r_in * r_out * k_h * k_w, r_out * c_out)
    (r,) = rank
    if method == "svd":
        return (c_in * k_h * k_w * r, r * c_out)
    if method == "spatial_svd":
        return (c_in * k_h * r, r * k_w * c_out)
    return (c_in * r, r * k_h, r * k_w, r * c_out)


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


def rank_for_fraction(
    method: Method, shape: Shape, fraction: float, multiple_of: int = 1, groups: int = 1
) -> tuple[int, ...]:
    """The rank whose factors hold about `fraction` of the weights.

    Tucker-2 has two ranks; both take the same share of their channels. A rank is a multiple of the
    groups too, which comes first where `multiple_of` cannot be had as well.

    >>> rank_for_fraction("svd", (64, 64, 1, 1), 0.5)
    (16,)
    >>> rank_for_fraction("svd", (64, 64, 1, 1), 0.4, multiple_of=8)
    (16,)
    >>> rank_for_fraction("svd", (64, 64, 1, 1), 0.5, groups=2)
    (16,)
    """
    if groups > 1:
        step = multiple_of // math.gcd(multiple_of, groups)  # of one group's rank
        of_one = rank_for_fraction(method, group_shape(shape, groups), fraction, step)
        return tuple(groups * r for r in of_one)
    largest = max_rank(method, shape)
    dense = math.prod(shape)
    if RANK_LENGTH[method] == 1:
        ranks = [fraction * dense / sum(factor_sizes(method, (1,), shape))]
    else:
        # A share a of the channels costs a (c_in^2 + c_out^2) + a^2 c_out c_in k_h k_w weights.
        c_out, c_in = shape[:2]
        linear = c_in**2 + c_out**2
        share = (math.sqrt(linear**2 + 4 * dense * fraction * dense) - linear) / (2 * dense)
        ranks = [share * c_out, share * c_in]
    return tuple(snap(r, m, multiple_of) for r, m in zip(ranks, largest, strict=True))
