"""The ladder of a search: plans from dense to the cheapest, the best at every sum of damages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ard.costs.cost import LayerCost, cost_of
from ard.layers import Part
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import RankPlan
from ard.search.allocation import Knapsack, Option, monotone, undominated

# Plans between dense and the cheapest that a search chooses among.
N_RUNGS = 64


@dataclass(frozen=True)
class Rung:
    """The cheapest plan for a sum of single-layer damages."""

    plan: RankPlan
    damage: float
    cost: float


class Ladder:
    """The plans worth trying, by the sum of their single-layer damages."""

    def __init__(self, table: SensitivityTable, layers: Sequence[Part], cost: LayerCost) -> None:
        """Start from the single-layer scores.

        Args:
            table: single-layer scores.
            layers: the layers that a plan may factorize.
            cost: the cost to minimise.
        """
        self.layers, self.cost = tuple(layers), cost
        every = [layer_damages(layer, table.of_layer(layer.name), cost) for layer in self.layers]
        self._damages = [{option.choice: option.damage for option in options} for options in every]
        self._options = [undominated(options) for options in every]
        self._knapsack = Knapsack(self._options)
        self._rungs: tuple[Rung, ...] | None = None

    @property
    def most(self) -> float:
        """The sum of damages of the plan that is the cheapest of all."""
        return sum(options[-1].damage for options in self._options)

    def rungs(self) -> tuple[Rung, ...]:
        """Plans from dense to the cheapest of all, each cheaper and more damaging than the last.

        The widest gap in log cost is halved, in log damage, until there are `N_RUNGS` of them or
        no gap is left.
        """
        if self._rungs is None:
            step = self._knapsack.least_step()
            dense = self.rung(0.0)
            found = [dense]
            if step is not None:
                found = _distinct([dense, self.rung(step), self.rung(self.most)])
                # Between these allowances no further plan was found.
                closed: set[tuple[RankPlan, RankPlan]] = set()
                for _ in range(N_RUNGS):
                    pairs = itertools.pairwise(found[1:])
                    gaps = [
                        (low, high) for low, high in pairs if (low.plan, high.plan) not in closed
                    ]
                    if not gaps:
                        break
                    low, high = max(gaps, key=lambda gap: gap[0].cost / max(gap[1].cost, 1e-300))
                    between = self._between(low, high)
                    if between is None:
                        closed.add((low.plan, high.plan))
                    else:
                        found = _distinct([*found, between])
            self._rungs = tuple(found)
        return self._rungs

    def _between(self, low: Rung, high: Rung) -> Rung | None:
        """A rung between two others, or None if none was found."""
        least, most = low.damage, high.damage
        for _ in range(6):
            if most <= least * (1 + 1e-3):
                return None
            rung = self.rung(allowed := math.sqrt(least * most))
            if low.cost > rung.cost > high.cost:
                return rung
            least = allowed
        return None

    def rung(self, allowed: float) -> Rung:
        """The cheapest plan whose single-layer damages add up to at most `allowed`."""
        chosen = self._knapsack.within(allowed)
        pairs = zip(self.layers, chosen, strict=True)
        plan = RankPlan({layer.name: o.choice for layer, o in pairs if o.choice is not None})
        damage = math.fsum(option.damage for option in chosen)
        return Rung(plan, damage, sum(option.cost for option in chosen))

    def reaching(self, limit: float) -> Rung | None:
        """The mildest rung that costs at most `limit`; None if even the cheapest costs more."""
        rungs = self.rungs()
        if rungs[-1].cost > limit:
            return None
        found = next(rung for rung in rungs if rung.cost <= limit)
        least, most = max((r.damage for r in rungs if r.cost > limit), default=0.0), found.damage
        while most > least * (1 + 1e-3) and least > 0:
            between = self.rung(math.sqrt(least * most))
            if between.cost > limit:
                least = math.sqrt(least * most)
            else:
                found, most = between, min(between.damage, math.sqrt(least * most))
        return found

    def damage_of(self, plan: RankPlan) -> float | None:
        """The sum of the single-layer damages of a plan; None if one of its choices is unknown."""
        total = 0.0
        for layer, damages in zip(self.layers, self._damages, strict=True):
            choice = plan.get(layer.name)
            if choice not in damages:
                return None
            total += damages[choice]
        return total

    def cost_of(self, plan: RankPlan) -> float:
        """The cost of its layers under a plan."""
        return cost_of(self.cost, self.layers, plan)


def _distinct(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs that no other beats in damage and cost, the mildest first."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda r: (r.damage, r.cost)):
        if not kept or rung.cost < kept[-1].cost:
            kept.append(rung)
    return kept


def layer_options(layer: Part, rows: Sequence[Row], cost: LayerCost) -> list[Option]:
    """The options of one layer: dense, and every row that is Pareto-optimal."""
    return undominated(layer_damages(layer, rows, cost))


def layer_damages(layer: Part, rows: Sequence[Row], cost: LayerCost) -> list[Option]:
    """The dense option and one option per row of a layer, with their damages.

    Scores are noisy, and the best of many noisy scores tends to be too good. So each method's
    damages are made monotone in cost, and a damage is at least half the upper end of its interval,
    which is never zero for a plan that changes an image.
    """
    options = [Option(None, cost(layer, None), 0.0)]
    for method in dict.fromkeys(row.choice.method for row in rows):
        of_method = sorted(
            (row for row in rows if row.choice.method == method),
            key=lambda row: -cost(layer, row.choice),
        )
        damages = monotone([single_damage(row) for row in of_method])
        options += [
            Option(row.choice, cost(layer, row.choice), damage)
            for row, damage in zip(of_method, damages, strict=True)
        ]
    return options


def single_damage(row: Row) -> float:
    """The damage that a single-layer score stands for."""
    return max(row.score.rise, row.score.ci_high / 2, 1e-12)
