"""The search for the cheapest plan within a budget, with an ask-and-tell interface."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ard.costs.cost import LayerCost, cost_of
from ard.errors import BudgetError
from ard.layers import LayerProfile
from ard.measuring.measurement import Measurement
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.allocation import Option, allocate, monotone, undominated
from ard.search.outlook import Outlook, outlook

# A search ends when what the next plan is expected to save, in log cost, falls below this.
WORTHWHILE = 0.005
# Unless a trial is the last one, what a plan may save counts for more than its chance: to this
# power. A plan that just misses the budget tells as much as one that just meets it.
EAGER = 1.5
# Below this chance, and if nothing met the budget so far, the likeliest plan is tried.
HOPELESS = 0.05
# A plan that costs nothing counts as this share of the dense cost.
MIN_SHARE = 1e-6
# Plans between dense and the cheapest that a search chooses among.
N_RUNGS = 64


@dataclass(frozen=True)
class Rung:
    """The cheapest plan for a sum of single-layer damages."""

    plan: RankPlan
    damage: float
    cost: float


@dataclass(frozen=True)
class _Trial:
    """A finished trial; an `inherited` one was made under another budget and is not counted."""

    measurement: Measurement
    damage: float
    cost: float
    inherited: bool = False


class BudgetController:
    """Chooses whole plans from single-layer damages, and corrects itself by measured plans.

    The damages of single layers nearly add up, but layers interact and recovery undoes part of the
    damage. So the controller searches over one number, the total damage that it allows. Each
    allowance gives one plan, by `allocate`: these are the rungs of a ladder. Measured plans say how
    likely each rung is within the budget (`ard.search.outlook`), and the next one to try is that
    with the largest expected saving.
    """

    def __init__(
        self,
        table: SensitivityTable,
        layers: Sequence[LayerProfile],
        cost: LayerCost,
        budget: float,
        *,
        max_trials: int = 6,
        known: Sequence[Measurement] = (),
    ) -> None:
        """Start from the single-layer scores.

        Args:
            table: single-layer scores.
            layers: the layers that a plan may factorize.
            cost: the cost to minimise.
            budget: the allowed rise in the table's metric.
            max_trials: whole plans to ask for at most.
            known: trials of an earlier search under another budget.

        Raises:
            BudgetError: the budget is negative or not a number.
        """
        if not (math.isfinite(budget) and budget >= 0):
            raise BudgetError(f"the budget must be 0 or more; got {budget}")
        self.layers, self.cost, self.budget = tuple(layers), cost, budget
        self.max_trials, self._most_trials = max_trials, 2 * max_trials
        self._finished: list[_Trial] = []
        self._asked: list[RankPlan] = []
        self.learn(table)
        for measurement in known:
            damage = self._summed_damage(measurement.plan)
            if damage is not None:
                price = self._cost_of(measurement.plan)
                self._finished.append(_Trial(measurement, damage, price, inherited=True))

    def learn(self, table: SensitivityTable) -> None:
        """Replace the table by a better one: plans that were asked for may be others now."""
        every = [
            layer_damages(layer, table.of_layer(layer.name), self.cost) for layer in self.layers
        ]
        self._damages = [{option.choice: option.damage for option in options} for options in every]
        self._options = [undominated(options) for options in every]
        self._rungs: tuple[Rung, ...] | None = None
        self._asked = []
        for i, trial in enumerate(self._finished):
            damage = self._summed_damage(trial.measurement.plan)
            if damage is not None:
                self._finished[i] = replace(trial, damage=damage)

    def plan_for(self, allowed: float) -> RankPlan:
        """The cheapest plan whose single-layer damages add up to at most `allowed`."""
        return self._rung(allowed).plan

    def ask(self, n: int) -> tuple[RankPlan, ...]:
        """The next plans to recover and measure, side by side; none when the search is over.

        Args:
            n: how many plans can be tried at a time. Plans that were asked for and not told yet
                count as tried.

        Returns:
            Up to `n` plans, the most promising first. Each is chosen for what it adds to the others
            before it.
        """
        rungs = self.rungs()
        if len(rungs) == 1:  # nothing to factorize
            return self._offer([] if self.trials or self._asked else [DENSE])
        best = self._best()
        bar = rungs[0].cost if best is None else best.cost
        cheaper = [rung for rung in rungs[1:] if rung.cost < bar]
        plans = [rung.plan for rung in cheaper]
        missed = {t.measurement.plan for t in self._finished}
        # Damage only grows along the ladder.
        if not cheaper or (best is None and plans[0] in missed):
            return ()
        gains = np.array([math.log(bar / max(r.cost, MIN_SHARE * bar)) for r in cheaper])
        chances = self._chances(cheaper)
        tried = [plans.index(plan) for plan in self._asked if plan in plans]
        open_ = [i for i, p in enumerate(plans) if p not in missed and p not in self._asked]
        new: list[int] = []
        room = self.max_trials - len(self.trials) - len(self._asked)
        while open_ and len(new) < min(n, room):
            last = room - len(new) == 1
            expected = chances.expected(gains if last else gains**EAGER, [*tried, *new])
            pick = max(open_, key=lambda i: expected[i])
            if best is None and chances.of(pick) < HOPELESS:
                pick = max(open_, key=chances.of)
            others = chances.largest(gains, [*tried, *new])
            adds = chances.largest(gains, [*tried, *new, pick]) - others
            # Something is tried until something meets the budget.
            if adds < WORTHWHILE and (best is not None or tried or new):
                break
            open_.remove(pick)
            new.append(pick)
        return self._offer([plans[i] for i in new])

    def _offer(self, plans: Sequence[RankPlan]) -> tuple[RankPlan, ...]:
        self._asked += plans
        return tuple(plans)

    def tell(self, measurement: Measurement) -> None:
        """Record the score of a plan that was asked for, after recovery, in any order.

        Raises:
            ValueError: it was not asked for.
        """
        if measurement.plan not in self._asked:
            raise ValueError(f"asked for {self._asked}, but was told about {measurement.plan}")
        self._asked.remove(measurement.plan)
        damage = self._summed_damage(measurement.plan)
        assert damage is not None, "plans are made of the choices on offer"
        self._finished.append(_Trial(measurement, damage, self._cost_of(measurement.plan)))

    def reject(self, measurement: Measurement) -> None:
        """Replace the score of a plan by a later one, measured on held-out latents."""
        self._finished = [
            replace(t, measurement=measurement) if t.measurement.plan == measurement.plan else t
            for t in self._finished
        ]
        # Allow one more trial for each rejected plan, up to twice the original number.
        self.max_trials = min(self.max_trials + 1, self._most_trials)

    @property
    def trials(self) -> tuple[Measurement, ...]:
        """The plans that were asked for and measured in this search, in order."""
        return tuple(t.measurement for t in self._finished if not t.inherited)

    def best(self) -> Measurement | None:
        """The cheapest measured plan within the budget, or None."""
        best = self._best()
        return best.measurement if best else None

    def closest(self) -> Measurement | None:
        """The measured plan with the lowest upper end of its interval, or None."""
        measured = [t.measurement for t in self._finished]
        return min(measured, key=lambda m: m.score.ci_high) if measured else None

    def meets(self, measurement: Measurement) -> bool:
        """Whether the upper end of the interval is within the budget."""
        return measurement.score.ci_high <= self.budget

    def rungs(self) -> tuple[Rung, ...]:
        """Plans from dense to the cheapest of all, each cheaper and more damaging than the last.

        The widest gap in log cost is halved, in log damage, until there are `N_RUNGS` of them or
        no gap is left.
        """
        if self._rungs is None:
            steps = [options[1].damage for options in self._options if len(options) > 1]
            most = sum(options[-1].damage for options in self._options)
            dense = self._rung(0.0)
            found = [dense]
            if steps:
                found = _distinct([dense, self._rung(min(steps)), self._rung(most)])
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
            rung = self._rung(allowed := math.sqrt(least * most))
            if low.cost > rung.cost > high.cost:
                return rung
            least = allowed
        return None

    def _rung(self, allowed: float) -> Rung:
        chosen = allocate(self._options, allowed)
        pairs = zip(self.layers, chosen, strict=True)
        plan = RankPlan({layer.name: o.choice for layer, o in pairs if o.choice is not None})
        damage = math.fsum(option.damage for option in chosen)
        return Rung(plan, damage, self._cost_of(plan))

    def _chances(self, rungs: Sequence[Rung]) -> Outlook:
        outcomes = [(t.damage, t.measurement.score.ci_high) for t in self._finished]
        damages = [rung.damage for rung in rungs]
        return outlook(outcomes, damages, self.budget, self.budget or damages[-1])

    def _best(self) -> _Trial | None:
        met = [t for t in self._finished if self.meets(t.measurement)]
        return min(met, key=lambda t: t.cost) if met else None

    def _summed_damage(self, plan: RankPlan) -> float | None:
        """The sum of the single-layer damages of a plan; None if one of its choices is unknown."""
        total = 0.0
        for layer, damages in zip(self.layers, self._damages, strict=True):
            choice = plan.get(layer.name)
            if choice not in damages:
                return None
            total += damages[choice]
        return total

    def _cost_of(self, plan: RankPlan) -> float:
        return cost_of(self.cost, self.layers, plan)


def _distinct(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs that no other beats in damage and cost, the mildest first."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda r: (r.damage, r.cost)):
        if not kept or rung.cost < kept[-1].cost:
            kept.append(rung)
    return kept


def layer_options(layer: LayerProfile, rows: Sequence[Row], cost: LayerCost) -> list[Option]:
    """The options of one layer: dense, and every row that is Pareto-optimal."""
    return undominated(layer_damages(layer, rows, cost))


def layer_damages(layer: LayerProfile, rows: Sequence[Row], cost: LayerCost) -> list[Option]:
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
        damages = monotone([_damage(row) for row in of_method])
        options += [
            Option(row.choice, cost(layer, row.choice), damage)
            for row, damage in zip(of_method, damages, strict=True)
        ]
    return options


def _damage(row: Row) -> float:
    return max(row.score.rise, row.score.ci_high / 2, 1e-12)
