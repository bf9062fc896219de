"""How large a rank may be, what it costs in weights, and which one comes near a fraction.

A weight is described by `shape = (c_out, c_in, k_h, k_w)`; a matrix has `k_h = k_w = 1`.
"""

from __future__ import annotations

import math

from ard.errors import RankError
from ard.plan import RANK_LENGTH, Method

Shape = tuple[int, int, int, int]


def max_rank(method: Method, shape: Shape) -> tuple[int, ...]:
    """The largest rank that makes sense, at which the factorization is exact.

    For `cp` this is the product of all dimensions but the largest: with that many terms every
    weight can be written down exactly, one term for each vector along the largest dimension.

    >>> max_rank("tucker2", (256, 128, 3, 3))
    (256, 128)
    >>> max_rank("spatial_svd", (16, 8, 5, 3))
    (40,)
    """
    c_out, c_in, k_h, k_w = shape
    if method == "tucker2":
        return (c_out, c_in)
    if method == "svd":
        return (min(c_out, c_in * k_h * k_w),)
    if method == "spatial_svd":
        return (min(c_out * k_w, c_in * k_h),)
    return (math.prod(shape) // max(shape),)


def check_rank(method: Method, rank: tuple[int, ...], shape: Shape) -> None:
    """Do nothing if `rank` can be used on a weight of `shape`.

    Raises:
        RankError: the rank is below 1, above `max_rank`, or has the wrong number of entries.
    """
    largest = max_rank(method, shape)
    fits = len(rank) == len(largest) and all(
        1 <= r <= m for r, m in zip(rank, largest, strict=True)
    )
    if not fits:
        raise RankError(
            f"rank {rank} does not fit a weight of shape {shape}; "
            f"{method} ranks there go up to {largest}"
        )


def factor_sizes(method: Method, rank: tuple[int, ...], shape: Shape) -> tuple[int, ...]:
    """Number of weights in each factor, in the order in which the factors are applied.

    >>> sum(factor_sizes("cp", (128,), (256, 256, 3, 3)))  # R (c_in + c_out + k_h + k_w)
    66304
    """
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
    method: Method, shape: Shape, fraction: float, multiple_of: int = 1
) -> tuple[int, ...]:
    """The rank whose factors hold about `fraction` of the weights of `shape`.

    Tucker-2 has two ranks; both take the same share of their channels.

    >>> rank_for_fraction("svd", (64, 64, 1, 1), 0.5)
    (16,)
    >>> rank_for_fraction("svd", (64, 64, 1, 1), 0.4, multiple_of=8)
    (16,)
    """
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
