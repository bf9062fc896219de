"""A factorization method as one value: its ranks, its factors, and how they are computed.

Everything that depends on the method is derived from this value: the numbers of weights and
multiply-adds, the layers that replace the dense one, the ranks worth trying, the methods that
compete on a layer, and the mark in figures. `ard.factorization.methods` registers the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ard.errors import RankError
from ard.factorization.ranks import Rank, Shape, group_shape, snap

Along = Literal["none", "rows", "columns", "both"]
C_IN, C_OUT = "c_in", "c_out"


@dataclass(frozen=True)
class Factor:
    """One factor of a kernel, as the layer that it becomes.

    Attributes:
        inputs: the channels that it reads: `c_in`, or the name of a rank.
        outputs: the channels that it writes: `c_out`, or the name of a rank.
        along: the axes along which it moves. It is `k_h x 1` along the rows, `1 x k_w` along the
            columns, `k_h x k_w` along both and `1 x 1` along none, and it carries the stride,
            padding and dilation of the layer along these axes.
        depthwise: whether each channel is filtered separately; inputs and outputs are then equal.
    """

    inputs: str
    outputs: str
    along: Along = "none"
    depthwise: bool = False

    @property
    def rows(self) -> bool:
        """Whether it moves along the rows of the kernel."""
        return self.along in ("rows", "both")

    @property
    def columns(self) -> bool:
        """Whether it moves along the columns of the kernel."""
        return self.along in ("columns", "both")

    def size(self, channels: Mapping[str, float], k_h: int, k_w: int) -> float:
        """Its number of weights."""
        taps = (k_h if self.rows else 1) * (k_w if self.columns else 1)
        return channels[self.outputs] * (1 if self.depthwise else channels[self.inputs]) * taps


@dataclass(frozen=True)
class Mark:
    """How a method looks in figures: its colour, and its markers for matplotlib and plotly."""

    colour: str
    marker: str
    symbol: str


@dataclass(frozen=True, eq=False)
class Covariances:
    """What is known about the inputs and outputs of one group of a layer, in float64.

    Attributes:
        channel: `(c_in, c_in)`, the second moment of the input channels at one position.
        vertical: `(c_in k_h, c_in k_h)`, that of vertical patches of the input, channel-major.
        output: `(c_out, c_out)`, that of the image's gradients with respect to the outputs.
    """

    channel: Tensor | None = None
    vertical: Tensor | None = None
    output: Tensor | None = None


Factorize = Callable[[Tensor, Rank, Covariances], Sequence[Tensor]]


@dataclass(frozen=True)
class Method:
    """A factorization method.

    Attributes:
        name: its name in plans, tables and options.
        ranks: the names of its ranks, in the order in which plans list them.
        factors: the factors in the order in which they are applied. Together they lead from `c_in`
            to `c_out` and move once along the rows, then once along the columns, or along both.
        max_rank_of: the ranks of a kernel `(c_out, c_in, k_h, k_w)` at which it is exact.
        factorize: maps `(kernel, rank, covariances)` to one kernel `(out, in, k_h, k_w)` per
            factor, in float64. The error is weighted by the covariances that are known. `in` is 1
            for a depthwise factor.
        fits: whether it can replace a kernel of a given shape, in a layer that moves along a given
            number of axes (0 for a linear layer).
        mark: how it looks in figures.
        transposed_factors: the factors in a transposed convolution, if they differ: it upsamples
            last, so that all other factors work on the small map.
        proportions: the ratio of its ranks when they are chosen by the number of weights; by
            default that of the largest ranks.
        unfoldings: the matrices whose ranks are those of the method, for rules based on singular
            values; None if there are none.
        max_weights: a kernel with more weights is expensive to factorize, and is left to other
            methods if any fits.

    Raises:
        RankError: the factors do not form a layer.
    """

    name: str
    ranks: tuple[str, ...]
    factors: tuple[Factor, ...]
    max_rank_of: Callable[[Shape], Rank]
    factorize: Factorize
    fits: Callable[[Shape, int], bool]
    mark: Mark
    transposed_factors: tuple[Factor, ...] | None = None
    proportions: Callable[[Shape], tuple[float, ...]] | None = None
    unfoldings: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    max_weights: int | None = None

    def __post_init__(self) -> None:
        for factors in (self.factors, self.transposed_factors or self.factors):
            if problem := _problem(factors, self.ranks):
                raise RankError(f"the factors of the method {self.name!r} {problem}")

    def of_layer(self, *, transposed: bool) -> tuple[Factor, ...]:
        """The factors in a convolution or linear layer, or in a transposed convolution."""
        return (self.transposed_factors if transposed else None) or self.factors

    def max_rank(self, shape: Shape, groups: int = 1) -> Rank:
        """The largest useful rank, at which the factorization is exact."""
        return tuple(groups * rank for rank in self.max_rank_of(group_shape(shape, groups)))

    def check_rank(self, rank: Rank, shape: Shape, groups: int = 1) -> None:
        """Check that `rank` can be used on a weight of `shape`.

        Raises:
            RankError: the rank is below 1, above `max_rank`, not a multiple of `groups`, or has the
                wrong number of entries.
        """
        largest = self.max_rank(shape, groups)
        fits = len(rank) == len(largest) and all(
            1 <= r <= m for r, m in zip(rank, largest, strict=True)
        )
        if not fits:
            raise RankError(
                f"rank {rank} does not fit a weight of shape {shape}; "
                f"its {self.name} ranks go up to {largest}"
            )
        if any(r % groups for r in rank):
            nearest = tuple(groups * max(1, round(r / groups)) for r in rank)
            raise RankError(
                f"rank {rank} is not a multiple of the {groups} groups of a weight of shape "
                f"{shape}; every group gets the same share, so use {nearest}"
            )

    def factor_sizes(self, rank: Rank, shape: Shape, groups: int = 1) -> tuple[int, ...]:
        """Number of weights in each factor, in the order in which the factors are applied."""
        share = {name: r // groups for name, r in zip(self.ranks, rank, strict=True)}
        sizes = self._sizes(share, group_shape(shape, groups))
        return tuple(groups * int(size) for size in sizes)

    def rank_for_fraction(
        self, shape: Shape, fraction: float, multiple_of: int = 1, groups: int = 1
    ) -> Rank:
        """The rank whose factors have about `fraction` of the dense weights.

        If there are several ranks, they keep their `proportions`. A rank is also a multiple of
        `groups`, which takes precedence if both are not possible.
        """
        if groups > 1:
            step = multiple_of // math.gcd(multiple_of, groups)  # of one group's rank
            of_one = self.rank_for_fraction(group_shape(shape, groups), fraction, step)
            return tuple(groups * r for r in of_one)
        largest = dict(zip(self.ranks, self.max_rank(shape), strict=True))
        parts: Sequence[float] = (1.0,)  # of a single rank
        if len(self.ranks) > 1:
            parts = (self.proportions or self.max_rank_of)(shape)
        ratio, found = dict(zip(self.ranks, parts, strict=True)), dict[str, float]()
        while free := {name: part for name, part in ratio.items() if name not in found}:
            share = self._share(free, found, shape, fraction * math.prod(shape))
            # A rank that reaches its maximum stays there, and the others share the rest.
            capped = {name for name, most in largest.items() if share * ratio[name] > most}
            found |= {name: float(largest[name]) for name in free if name in capped} or {
                name: share * part for name, part in free.items()
            }
        return tuple(snap(found[name], most, multiple_of) for name, most in largest.items())

    def _share(
        self, free: Mapping[str, float], fixed: Mapping[str, float], shape: Shape, wanted: float
    ) -> float:
        """The number by which to multiply the free ranks to get `wanted` weights.

        The size of a factor is quadratic in it between two free ranks, and linear next to one.
        """
        constant = linear = quadratic = 0.0
        for factor, size in zip(self.factors, self._sizes({**free, **fixed}, shape), strict=True):
            ends = {factor.outputs} if factor.depthwise else {factor.inputs, factor.outputs}
            n_free = len(ends & set(free))
            constant += size * (n_free == 0)
            linear += size * (n_free == 1)
            quadratic += size * (n_free == 2)
        if not quadratic:
            return (wanted - constant) / linear
        root = math.sqrt(linear**2 + 4 * quadratic * (wanted - constant))
        return (root - linear) / (2 * quadratic)

    def _sizes(self, ranks: Mapping[str, float], shape: Shape) -> Iterator[float]:
        c_out, c_in, k_h, k_w = shape
        channels = {C_IN: c_in, C_OUT: c_out, **ranks}
        return (factor.size(channels, k_h, k_w) for factor in self.factors)


def _problem(factors: Sequence[Factor], ranks: Sequence[str]) -> str | None:
    """Why a list of factors does not form a layer, or None if it does."""
    reached = C_IN
    for factor in factors:
        if factor.inputs != reached:
            return f"do not fit together: one reads {factor.inputs}, after {reached} was written"
        if factor.depthwise and factor.inputs != factor.outputs:
            return f"filter {factor.inputs} each for itself, and write {factor.outputs}"
        reached = factor.outputs
    if reached != C_OUT:
        return f"end at {reached} instead of {C_OUT}"
    named = {end for factor in factors for end in (factor.inputs, factor.outputs)}
    if named != {C_IN, C_OUT, *ranks}:
        return f"lead through {sorted(named - {C_IN, C_OUT})} instead of the ranks {sorted(ranks)}"
    if [factor.along for factor in factors if factor.along != "none"] not in (
        ["both"],
        ["rows", "columns"],
    ):
        return "must move along both axes at once, or along the rows and then along the columns"
    return None
