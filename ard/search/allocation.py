"""Allocation: one choice per layer, at the lowest total cost within an allowed total damage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ard.plan import Replacement

N_BINS = 2000
# Layers from which on a bin each would be more than a tenth of what is allowed.
MANY = 200
UNDAMAGED = "every layer needs an option without damage"


@dataclass(frozen=True)
class Option:
    """A choice for a layer (None is dense), its cost, and the expected rise in the score."""

    choice: Replacement | None
    cost: float
    damage: float


def monotone(damages: Sequence[float]) -> list[float]:
    """The least-squares non-decreasing fit to `damages` (pool adjacent violators).

    >>> monotone([0.0, 3.0, 1.0, 5.0])
    [0.0, 2.0, 2.0, 5.0]
    """
    blocks: list[list[float]] = []  # [sum, count]
    for damage in damages:
        blocks.append([damage, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    return [total / count for total, count in blocks for _ in range(int(count))]


def undominated(options: Sequence[Option]) -> list[Option]:
    """The Pareto-optimal options in cost and damage, the cheapest last."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.damage, o.cost)):
        if not kept or option.cost < kept[-1].cost:
            kept.append(option)
    return kept


def allocate(layers: Sequence[Sequence[Option]], allowed: float) -> list[Option]:
    """One option per layer: the lowest total cost with a total damage of at most `allowed`.

    See `Knapsack`, which is prepared once for many allowances.

    Raises:
        ValueError: as `Knapsack` and `Knapsack.within`.
    """
    return Knapsack(layers).within(allowed)


class Knapsack:
    """The multiple-choice knapsack problem of an allocation.

    Up to `MANY` layers it is solved by dynamic programming over the damage in `N_BINS` bins.
    Damages are rounded up to whole bins, so the result is always within what is allowed, and it is
    the exact optimum for the rounded damages. Costs may be counts or milliseconds: they are added
    and compared, never rounded.

    Of more layers rounding would waste too much, a bin each. There the steps along the convex hulls
    of the layers are taken by what they save per damage, as long as they fit. The cost is then
    above the optimum by less than the largest step saves.
    """

    def __init__(self, layers: Sequence[Sequence[Option]]) -> None:
        """Check the options.

        Args:
            layers: the options of each layer, one of them with damage 0.

        Raises:
            ValueError: a cost or a damage is not finite, or a damage is negative.
        """
        self.layers = [list(options) for options in layers]
        for option in (option for options in self.layers for option in options):
            if not (math.isfinite(option.cost) and 0 <= option.damage < math.inf):
                raise ValueError(
                    f"cost and damage must be finite and the damage not negative; got {option}"
                )
        self.cheapest = [min(options, key=lambda o: (o.cost, o.damage)) for options in self.layers]
        self._least = sum(option.damage for option in self.cheapest)
        self._many = len(self.layers) > MANY

    @cached_property
    def _hulls(self) -> list[list[Option]]:
        return [hull(options) for options in self.layers]

    @cached_property
    def _steps(self) -> list[tuple[float, int]]:
        """The damage and the layer of each step along a hull, the best saving first."""
        steps = [
            (_rate(low, high), high.damage - low.damage, number)
            for number, options in enumerate(self._hulls)
            for low, high in itertools.pairwise(options)
        ]
        return [(damage, number) for _, damage, number in sorted(steps)]

    def least_step(self) -> float | None:
        """The smallest damage that saves anything; None if nothing does."""
        offered = self._hulls if self._many else map(undominated, self.layers)
        return min((options[1].damage for options in offered if len(options) > 1), default=None)

    def within(self, allowed: float) -> list[Option]:
        """One option per layer, in their order, with a total damage of at most `allowed`.

        Raises:
            ValueError: `allowed` is negative, or a layer has no option with damage 0.
        """
        if not allowed >= 0:
            raise ValueError(f"allowed damage must not be negative; got {allowed}")
        if self._least <= allowed:  # rounding damages up could miss it
            return list(self.cheapest)
        return self._by_steps(allowed) if self._many else self._by_bins(allowed)

    def _by_bins(self, allowed: float) -> list[Option]:
        width = allowed / N_BINS or 1.0  # 1 if nothing is allowed, or too little to divide
        best = np.zeros(N_BINS + 1)  # lowest cost so far, by damage spent
        offered = [_in_bins(options, allowed, width) for options in self.layers]
        if not all(offered):
            raise ValueError(UNDAMAGED)
        picks: list[np.ndarray] = []
        for options in offered:
            costs = np.full((len(options), N_BINS + 1), np.inf)
            for row, (bins, option) in zip(costs, options, strict=True):
                row[bins:] = best[: N_BINS + 1 - bins] + option.cost
            picks.append(costs.argmin(axis=0))
            best = costs.min(axis=0)
        if not np.isfinite(best[-1]):
            raise ValueError(UNDAMAGED)
        left = N_BINS
        chosen: list[Option] = []
        for options, pick in zip(reversed(offered), reversed(picks), strict=True):
            bins, option = options[int(pick[left])]
            left -= bins
            chosen.append(option)
        return chosen[::-1]

    def _by_steps(self, allowed: float) -> list[Option]:
        taken, ended = [0] * len(self.layers), [False] * len(self.layers)
        spent = 0.0
        for damage, number in self._steps:
            if ended[number]:
                continue
            if spent + damage > allowed:
                ended[number] = True
            else:
                spent += damage
                taken[number] += 1
        return [options[n] for options, n in zip(self._hulls, taken, strict=True)]


def hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull of cost over damage, from the best option without damage.

    Raises:
        ValueError: no option is without damage.
    """
    kept: list[Option] = []
    for option in undominated(options):
        while len(kept) > 1 and _rate(kept[-1], option) <= _rate(kept[-2], kept[-1]):
            kept.pop()
        kept.append(option)
    if not kept or kept[0].damage > 0:
        raise ValueError(UNDAMAGED)
    return kept


def _rate(low: Option, high: Option) -> float:
    """What the cost changes by per damage between two options."""
    return (high.cost - low.cost) / (high.damage - low.damage)


def _in_bins(options: Sequence[Option], allowed: float, width: float) -> list[tuple[int, Option]]:
    """The cheapest option for each number of bins of damage, of those that are allowed."""
    cheapest: dict[int, Option] = {}
    for option in options:
        # The share is capped, because it is infinite if next to nothing is allowed.
        share = min(option.damage / width, N_BINS + 1)
        # The tolerance keeps a damage of exactly a whole number of bins from taking one more.
        bins = math.ceil(share - 1e-9) if option.damage > 0 else 0
        if bins > N_BINS or option.damage > allowed:
            continue
        known = cheapest.get(bins)
        if known is None or option.cost < known.cost:
            cheapest[bins] = option
    return list(cheapest.items())
