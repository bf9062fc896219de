"""Allocation: one choice per layer, at the lowest total cost within an allowed total damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ard.plan import Replacement

N_BINS = 2000


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

    This is a multiple-choice knapsack problem, solved by dynamic programming over the damage in
    `N_BINS` bins. Damages are rounded up to whole bins, so the result is always within `allowed`,
    and it is the exact optimum for the rounded damages. Costs may be counts or milliseconds: they
    are added and compared, never rounded.

    Args:
        layers: the options of each layer, one of them with damage 0.
        allowed: the largest total damage.

    Raises:
        ValueError: `allowed` is negative, a cost or a damage is not finite, a damage is negative,
            or a layer has no option with damage 0.
    """
    if not allowed >= 0:
        raise ValueError(f"allowed damage must not be negative; got {allowed}")
    for option in (option for options in layers for option in options):
        if not (math.isfinite(option.cost) and 0 <= option.damage < math.inf):
            raise ValueError(
                f"cost and damage must be finite and the damage not negative; got {option}"
            )
    cheapest = [min(options, key=lambda o: (o.cost, o.damage)) for options in layers]
    if sum(option.damage for option in cheapest) <= allowed:  # rounding damages up could miss it
        return cheapest
    width = allowed / N_BINS or 1.0  # 1 if nothing is allowed, or too little to divide
    best = np.zeros(N_BINS + 1)  # lowest cost so far, by damage spent
    offered = [_by_bins(options, allowed, width) for options in layers]
    if not all(offered):
        raise ValueError("every layer needs an option without damage")
    picks: list[np.ndarray] = []
    for options in offered:
        costs = np.full((len(options), N_BINS + 1), np.inf)
        for row, (bins, option) in zip(costs, options, strict=True):
            row[bins:] = best[: N_BINS + 1 - bins] + option.cost
        picks.append(costs.argmin(axis=0))
        best = costs.min(axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError("every layer needs an option without damage")
    left = N_BINS
    chosen: list[Option] = []
    for options, pick in zip(reversed(offered), reversed(picks), strict=True):
        bins, option = options[int(pick[left])]
        left -= bins
        chosen.append(option)
    return chosen[::-1]


def _by_bins(options: Sequence[Option], allowed: float, width: float) -> list[tuple[int, Option]]:
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
