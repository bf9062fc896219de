"""The cheapest choice for every layer whose damages add up to no more than allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ard.plan import Factorization

N_BINS = 2000


@dataclass(frozen=True)
class Option:
    """One choice for a layer: what it costs, and the damage that it is expected to do."""

    choice: Factorization | None
    cost: float
    damage: float


def monotone(damages: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `damages` in squares (pool adjacent violators).

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
    """The options that no other beats in both cost and damage, cheapest last."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.damage, o.cost)):
        if not kept or option.cost < kept[-1].cost:
            kept.append(option)
    return kept


def allocate(layers: Sequence[Sequence[Option]], allowed: float) -> list[Option]:
    """One option for each layer: least total cost with total damage of at most `allowed`.

    A multiple-choice knapsack, solved by dynamic programming over the damage in `N_BINS` bins.
    Damages are rounded up to whole bins, so the result is always within `allowed`; it is the
    exact optimum for the rounded damages. Every layer needs an option with damage 0. Costs may be
    counts or milliseconds: they are only added and compared, never rounded.

    Raises:
        ValueError: `allowed` is negative, a cost or a damage is not a finite number or a damage is
            negative, or a layer has no option without damage.
    """
    if not allowed >= 0:
        raise ValueError(f"allowed damage must not be negative; got {allowed}")
    for option in (option for options in layers for option in options):
        if not (math.isfinite(option.cost) and 0 <= option.damage < math.inf):
            raise ValueError(
                f"cost and damage must be finite and the damage not negative; got {option}"
            )
    cheapest = [min(options, key=lambda o: (o.cost, o.damage)) for options in layers]
    if sum(option.damage for option in cheapest) <= allowed:  # rounding up could miss it
        return cheapest
    width = allowed / N_BINS or 1.0  # 0 where nothing is allowed, or too little to divide
    best = np.zeros(N_BINS + 1)  # least cost so far, by damage spent
    picks: list[np.ndarray] = []
    for options in layers:
        costs = np.full((len(options), N_BINS + 1), np.inf)
        for i, option in enumerate(options):
            # The tolerance keeps a damage that is exactly a number of bins from taking one more.
            # Too much is one bin too many: with next to nothing allowed the quotient is infinite.
            share = min(option.damage / width, N_BINS + 1)
            bins = int(np.ceil(share - 1e-9)) if option.damage > 0 else 0
            if bins <= N_BINS and option.damage <= allowed:
                costs[i, bins:] = best[: N_BINS + 1 - bins] + option.cost
        picks.append(costs.argmin(axis=0))
        best = costs.min(axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError("every layer needs an option without damage")
    left = N_BINS
    chosen: list[Option] = []
    for options, pick in zip(reversed(layers), reversed(picks), strict=True):
        option = options[int(pick[left])]
        left -= int(np.ceil(option.damage / width - 1e-9)) if option.damage > 0 else 0
        chosen.append(option)
    return chosen[::-1]
