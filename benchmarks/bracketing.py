"""The search before `ard.search.outlook`, which `controller.py` compares with the present one.

It bracketed the budget by single outcomes: the largest allowance within it and the smallest beyond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ard.costs.cost import LayerCost, cost_of
from ard.errors import BudgetError
from ard.layers import LayerProfile
from ard.measuring.measurement import Measurement
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.allocation import allocate, undominated
from ard.search.ladder import layer_damages

# After a plan over the budget, the next one aims at this fraction of the budget: each trial costs a
# recovery, and a narrow miss gains nothing.
AIM = 0.85
# The search ends when no plan that it could still find would be cheaper by more than this fraction.
WORTHWHILE = 0.02


@dataclass(frozen=True)
class _Trial:
    """A finished trial: the total single-layer damage that was allowed, and the outcome.

    An `inherited` trial was made under another budget and does not count as one here.
    """

    allowed: float
    measurement: Measurement
    cost: float
    inherited: bool = False


class BracketingController:
    """Chooses whole plans from single-layer damages, and corrects itself by measured plans.

    The damages of single layers nearly add up, but layers interact and recovery undoes part of the
    damage. So the controller searches over one number, the total damage that it allows. Each
    allowance gives one plan, by `allocate`, and each measured plan tells whether its allowance was
    too large. The bracket closes around the largest allowance whose recovered plan is within the
    budget.
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
        self._asked: tuple[float, RankPlan] | None = None
        self.learn(table)
        # Layers lose more together than alone, and recovery regains some of it. The sum of the
        # damages is as good a first guess as any, and every outcome corrects it.
        self._next = min(budget, self._largest)
        for measurement in known:
            allowed = self._summed_damage(measurement.plan)
            if allowed is not None:
                known_cost = self._cost_of(measurement.plan)
                self._finished.append(_Trial(allowed, measurement, known_cost, inherited=True))

    def learn(self, table: SensitivityTable) -> None:
        """Replace the table by a better one, and update the allowances of finished trials."""
        every = [
            layer_damages(layer, table.of_layer(layer.name), self.cost) for layer in self.layers
        ]
        self._damages = [{option.choice: option.damage for option in options} for options in every]
        self._options = [undominated(options) for options in every]
        self._largest = sum(options[-1].damage for options in self._options)
        self._asked = None
        for i, trial in enumerate(self._finished):
            allowed = self._summed_damage(trial.measurement.plan)
            if allowed is not None:
                self._finished[i] = replace(trial, allowed=allowed)

    def plan_for(self, allowed: float) -> RankPlan:
        """The cheapest plan whose single-layer damages add up to at most `allowed`."""
        chosen = allocate(self._options, allowed)
        return RankPlan(
            {
                layer.name: option.choice
                for layer, option in zip(self.layers, chosen, strict=True)
                if option.choice is not None
            }
        )

    def ask(self) -> RankPlan | None:
        """The next plan to recover and measure, or None when the search is over."""
        while len(self.trials) < self.max_trials:
            allowed = self._proposal()
            if allowed is None:
                return None
            plan = self.plan_for(allowed)
            if plan == DENSE:  # a trial of the dense generator would be wasted
                allowed = self._smallest_step()
                plan = self.plan_for(allowed)
            known = next((t for t in self._finished if t.measurement.plan == plan), None)
            if known is None:
                self._asked = (allowed, plan)
                return plan
            if not self._widen(known, allowed):
                return None
        return None

    def tell(self, measurement: Measurement) -> None:
        """Record the score of the plan that was asked for, after recovery."""
        if self._asked is None or self._asked[1] != measurement.plan:
            raise ValueError(f"asked for {self._asked}, but was told about {measurement.plan}")
        self._finished.append(_Trial(self._asked[0], measurement, self._cost_of(measurement.plan)))
        self._asked = None

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
        met = [t for t in self._finished if self.meets(t.measurement)]
        return min(met, key=lambda t: t.cost).measurement if met else None

    def closest(self) -> Measurement | None:
        """The measured plan with the lowest upper end of its interval, or None."""
        measured = [t.measurement for t in self._finished]
        return min(measured, key=lambda m: m.score.ci_high) if measured else None

    def meets(self, measurement: Measurement) -> bool:
        """Whether the upper end of the interval is within the budget."""
        return measurement.score.ci_high <= self.budget

    def _within(self) -> _Trial | None:
        met = [t for t in self._finished if self.meets(t.measurement)]
        return max(met, key=lambda t: t.allowed) if met else None

    def _beyond(self) -> _Trial | None:
        within = self._within()
        floor = within.allowed if within else -math.inf
        missed = [t for t in self._finished if not self.meets(t.measurement) and t.allowed > floor]
        return min(missed, key=lambda t: t.allowed) if missed else None

    def _proposal(self) -> float | None:
        within, beyond = self._within(), self._beyond()
        if within is None and beyond is None:
            return self._next
        if beyond is None:
            assert within is not None
            if within.allowed >= self._largest:
                return None
            return min(self._largest, within.allowed * self._growth(within))
        if within is None:
            if beyond.allowed <= self._smallest_step():
                return None
            return max(self._milder(beyond), self._smallest_step())
        if self._cost_of(self.plan_for(beyond.allowed)) > (1 - WORTHWHILE) * within.cost:
            return None
        return self._between(within, beyond)

    def _milder(self, beyond: _Trial) -> float:
        """A smaller allowance, if no plan has met the budget yet: on the line through two outcomes.

        With one outcome, the line goes through the origin. The step is bounded on both sides: the
        line is only a guess, and too small a step would give the same plan again.
        """
        allowed, upper = beyond.allowed, beyond.measurement.score.ci_high
        harsher = [t for t in self._finished if t.allowed > allowed]
        slope = upper / allowed
        if harsher:
            other = min(harsher, key=lambda t: t.allowed)
            slope = (other.measurement.score.ci_high - upper) / (other.allowed - allowed)
        wanted = allowed - (upper - AIM * self.budget) / slope if slope > 0 else 0.0
        return min(max(wanted, 0.1 * allowed), 0.8 * allowed)

    def _growth(self, within: _Trial) -> float:
        upper = within.measurement.score.ci_high
        return 4.0 if upper <= 0 else min(max(0.95 * self.budget / upper, 1.2), 4.0)

    def _between(self, within: _Trial, beyond: _Trial) -> float:
        """Where the line between two outcomes meets the budget, kept away from both ends."""
        low, high = within.allowed, beyond.allowed
        u_low = within.measurement.score.ci_high
        u_high = beyond.measurement.score.ci_high
        share = (self.budget - u_low) / max(u_high - u_low, 1e-12)
        return low + min(max(0.95 * share, 0.15), 0.85) * (high - low)

    def _widen(self, known: _Trial, allowed: float) -> bool:
        """Move a measured plan to the new allowance; returns False if that ends the search.

        There are finitely many plans. If an allowance on either side of the bracket gives a plan
        that is known, the bracket may have no plan left inside.
        """
        within, beyond = self._within(), self._beyond()
        if self.meets(known.measurement):
            moved = max(allowed, known.allowed)
            if within is None or moved <= known.allowed or moved >= self._largest:
                return False
        else:
            moved = min(allowed, known.allowed)
            if beyond is None or moved >= known.allowed:
                return False
        self._finished[self._finished.index(known)] = replace(known, allowed=moved)
        within, beyond = self._within(), self._beyond()
        if within is None or beyond is None:
            return moved > self._smallest_step()
        return beyond.allowed - within.allowed > 1e-3 * beyond.allowed

    def _smallest_step(self) -> float:
        """The smallest damage that reduces the cost at all."""
        return min((options[1].damage for options in self._options if len(options) > 1), default=0)

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
