"""The search for the cheapest plan within a budget, with an ask-and-tell interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ard.costs.cost import LayerCost
from ard.errors import BudgetError
from ard.layers import Part
from ard.measuring.measurement import History, Measurement
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.ladder import Ladder, Rung
from ard.search.outlook import Known, Outlook, outlook

# A search ends when the next round is expected to save less than WORTHWHILE, in log cost, or less
# than UNSPENT as long as it has not used WELL_SPENT of its budget.
WORTHWHILE, UNSPENT, WELL_SPENT = 0.05, 0.02, 0.85
# What a plan beside the next one must add: it takes no time but that of workers that would idle.
BESIDE = 0.005
# The last third of the rounds is a reserve: no search plans with it, but one whose plans missed by
# a little goes on into it.
RESERVE = 3
# Where no plan can be continued, and unless a trial is the last one, what a plan may save counts
# for more than its chance: to this power. A near miss tells as much as a near hit; with rounds it
# is worth something anyway.
EAGER = 1.5
# Below this chance, and if nothing met the budget so far, the likeliest plan is tried.
HOPELESS = 0.05
# A plan that costs nothing counts as this share of the dense cost.
MIN_SHARE = 1e-6


def reserved(max_trials: int) -> int:
    """How many of its rounds of recovery a search keeps in reserve.

    >>> [reserved(n) for n in (1, 2, 3, 9)]
    [0, 0, 1, 3]
    """
    return max_trials // RESERVE


@dataclass(frozen=True)
class _Trial:
    """A finished trial; an `inherited` one was made under another budget and is not counted."""

    measurement: Measurement
    damage: float
    cost: float
    inherited: bool = False

    @property
    def plan(self) -> RankPlan:
        """Its plan."""
        return self.measurement.plan


@dataclass(frozen=True)
class _Prospect:
    """A plan that may be tried, and after how many rounds of recovery; 0 if it gets no more."""

    plan: RankPlan
    cost: float
    known: Known
    rounds: int


class BudgetController:
    """Chooses whole plans from single-layer damages, and corrects itself by measured plans.

    The damages of single layers nearly add up, but layers interact and recovery undoes part of the
    damage. So the controller searches over one number, the total damage that it allows. Each
    allowance gives one plan, by `allocate`: these are the rungs of a ladder. Measured plans say how
    likely each rung is within the budget (`ard.search.outlook`), and the next one to try is that
    with the largest expected saving.

    A trial is one round of recovery, and no round is lost: it begins a plan with the weights of the
    milder one that has had the most, or continues a plan that missed the budget with its own. What
    a plan may save counts with its chance to hold after all the rounds that are left; so many plans
    are tried for a short time, and few for a long one (freeze-thaw, as Swersky, Snoek and Adams,
    2014, call it).
    """

    def __init__(
        self,
        table: SensitivityTable,
        layers: Sequence[Part],
        cost: LayerCost,
        budget: float,
        *,
        max_trials: int = 9,
        max_rounds: int = 1,
        known: Sequence[Measurement] = (),
    ) -> None:
        """Start from the single-layer scores.

        Args:
            table: single-layer scores.
            layers: the layers that a plan may factorize.
            cost: the cost to minimise.
            budget: the allowed rise in the table's metric.
            max_trials: rounds of recovery to ask for at most, of all plans together. The last
                third is a reserve, which no plan counts on.
            max_rounds: those of one plan at most; 1 if a recovery cannot be continued.
            known: trials of an earlier search under another budget.

        Raises:
            BudgetError: the budget is negative or not a number.
        """
        if not (math.isfinite(budget) and budget >= 0):
            raise BudgetError(f"the budget must be 0 or more; got {budget}")
        self.layers, self.cost, self.budget = tuple(layers), cost, budget
        self.max_trials, self._most_trials = max_trials, 2 * max_trials
        self._reserved = reserved(max_trials)
        self.max_rounds = max_rounds
        self._finished: list[_Trial] = []
        self._asked: dict[RankPlan, History] = {}
        # By how much held-out latents rated a plan worse than those that choose.
        self._worse: dict[RankPlan, float] = {}
        self.learn(table)
        for measurement in known:
            damage = self._ladder.damage_of(measurement.plan)
            if damage is not None:
                price = self._ladder.cost_of(measurement.plan)
                self._finished.append(_Trial(measurement, damage, price, inherited=True))

    def allow(self, max_trials: int) -> None:
        """Allow a search that has ended more rounds of recovery than before."""
        self.max_trials += max_trials - self._most_trials // 2
        self._most_trials, self._reserved = 2 * max_trials, reserved(max_trials)

    def learn(self, table: SensitivityTable) -> None:
        """Replace the table by a better one: plans that were asked for may be others now."""
        self._ladder = Ladder(table, self.layers, self.cost)
        self._asked = {}
        for i, trial in enumerate(self._finished):
            damage = self._ladder.damage_of(trial.measurement.plan)
            if damage is not None:
                self._finished[i] = replace(trial, damage=damage)

    def plan_for(self, allowed: float) -> RankPlan:
        """The cheapest plan whose single-layer damages add up to at most `allowed`."""
        return self._ladder.rung(allowed).plan

    def ask(self, n: int) -> tuple[RankPlan, ...]:
        """The next plans to recover and measure, side by side; none when the search is over.

        Args:
            n: how many plans can be tried at a time. Plans that were asked for and not told yet
                count as tried.

        Returns:
            Up to `n` plans, the most promising first. Each is chosen for what it adds to the others
            before it.
        """
        rungs = self._ladder.rungs()
        if len(rungs) == 1:  # nothing to factorize
            return self._offer([] if self.trials or self._asked else [DENSE])
        best = self._best()
        bar = rungs[0].cost if best is None else best.cost
        room = self._room(n)
        known = self._known()
        ahead = max(1, math.ceil(room / n))  # rounds that one more plan can get
        prospects = [
            prospect for prospect in self._prospects(rungs[1:], known, ahead) if prospect.cost < bar
        ]
        if not prospects:
            return ()
        chances = self._chances(prospects, known)
        if best is None and self._is_hopeless(rungs[1], prospects, chances):
            return ()
        gains = np.array([math.log(bar / max(p.cost, MIN_SHARE * bar)) for p in prospects])
        n = min(n, room)
        picked = self._pick(prospects, chances, gains, n, room, best is None)
        return self._offer([prospects[i].plan for i in picked])

    def _room(self, n: int) -> int:
        """The rounds that are left to plan with: in the reserve no more than the next ones."""
        left = self.max_trials - len(self.trials) - len(self._asked)
        return left - self._reserved if left > self._reserved else min(n, left)

    def _pick(
        self,
        prospects: Sequence[_Prospect],
        chances: Outlook,
        gains: np.ndarray,
        n: int,
        room: int,
        nothing_yet: bool,
    ) -> list[int]:
        """Which prospects to try, each for what it adds to the others before it.

        Args:
            prospects: the plans that may be tried.
            chances: of each to be within the budget.
            gains: what each saves if it is.
            n: how many to pick at most.
            room: rounds that are left to plan with.
            nothing_yet: whether nothing met the budget so far.
        """
        tried = [i for i, prospect in enumerate(prospects) if prospect.plan in self._asked]
        open_ = [i for i, p in enumerate(prospects) if p.rounds and i not in tried]
        picked: list[int] = []
        while open_ and len(picked) < n:
            eager = self.max_rounds == 1 and room - len(picked) > 1
            expected = chances.expected(gains**EAGER if eager else gains, [*tried, *picked])
            best = max(open_, key=lambda i: expected[i])
            if nothing_yet and chances.of(best) < HOPELESS:
                best = max(open_, key=chances.of)
            others = chances.largest(gains, [*tried, *picked])
            adds = chances.largest(gains, [*tried, *picked, best]) - others
            # Something is tried until something meets the budget.
            first = not tried and not picked
            if adds < (self._worthwhile() if first else BESIDE) and not (first and nothing_yet):
                break
            open_.remove(best)
            picked.append(best)
        return picked

    def _worthwhile(self) -> float:
        """What the next round must be expected to save, in log cost."""
        best = self._best()
        used = 0.0
        if best is not None and self.budget:
            used = best.measurement.score.ci_high / self.budget
        return WORTHWHILE if used >= WELL_SPENT else UNSPENT

    def _is_hopeless(self, mildest: Rung, prospects: Sequence[_Prospect], chances: Outlook) -> bool:
        """Whether even the mildest plan missed, and no round will help; the others hurt more."""
        i, prospect = next((i, p) for i, p in enumerate(prospects) if p.plan == mildest.plan)
        missed = bool(prospect.known.uppers)
        return missed and (not prospect.rounds or chances.of(i) < HOPELESS)

    def history_of(self, plan: RankPlan) -> History:
        """The rounds before the one after which a plan that was asked for is measured."""
        return self._asked[plan]

    def _history(self, plan: RankPlan, damage: float) -> History:
        """The rounds that the next one of a plan begins after: its own, or those of a milder plan.

        A milder plan cannot begin with the weights of a harsher one: what low ranks have lost, a
        recovery does not bring back. Nor does a plan begin with those of a trial under another
        budget, so that a search for fewer budgets finds what the search for more has measured.
        """
        own = [t for t in self._finished if t.plan == plan]
        milder: list[_Trial] = []
        if self.max_rounds > 1:
            milder = [t for t in self._finished if t.damage < damage and not t.inherited]
        before = max(own or milder, key=lambda t: (t.measurement.rounds, t.damage), default=None)
        return (*before.measurement.history, before.plan) if before is not None else ()

    def _known(self) -> dict[RankPlan, Known]:
        """The outcome of every round of every plan.

        If held-out latents rejected a plan, its rounds count as worse by as much: otherwise the
        step from one bank of latents to another would look like a round that gained nothing.
        """
        uppers: dict[RankPlan, dict[int, float]] = {}
        damages = {trial.plan: trial.damage for trial in self._finished}
        for trial in self._finished:
            measured = trial.measurement
            worse = 0.0 if measured.stage == "final" else self._worse.get(trial.plan, 0.0)
            rounds = uppers.setdefault(trial.plan, {})
            rounds[measured.rounds] = measured.score.ci_high + worse
        return {
            plan: Known(damages[plan], tuple(rounds[m] for m in sorted(rounds)), min(rounds) - 1)
            for plan, rounds in uppers.items()
        }

    def _prospects(
        self, rungs: Sequence[Rung], known: Mapping[RankPlan, Known], ahead: int
    ) -> list[_Prospect]:
        """The rungs, and the plans that missed the budget, with the rounds that each could get."""
        found = []
        for rung in rungs:
            if rung.plan not in known:
                behind = len(self._history(rung.plan, rung.damage))
                rounds = behind + min(ahead, self.max_rounds)
                found.append(
                    _Prospect(rung.plan, rung.cost, Known(rung.damage, (), behind), rounds)
                )
        costs = {trial.plan: trial.cost for trial in self._finished}
        for tried, of_plan in known.items():
            done = len(of_plan.uppers)
            most = min(done + ahead, self.max_rounds)
            rounds = of_plan.behind + most if most > done else 0
            found.append(_Prospect(tried, costs[tried], of_plan, rounds))
        return sorted(found, key=lambda prospect: prospect.known.damage)

    def _offer(self, plans: Sequence[RankPlan]) -> tuple[RankPlan, ...]:
        for plan in plans:
            damage = self._ladder.damage_of(plan)
            assert damage is not None, "plans are made of the choices on offer"
            self._asked[plan] = self._history(plan, damage)
        return tuple(plans)

    def tell(self, measurement: Measurement) -> None:
        """Record the score of a plan that was asked for, after recovery, in any order.

        Raises:
            ValueError: it was not asked for.
        """
        if self._asked.get(measurement.plan) != measurement.history:
            raise ValueError(
                f"nobody asked for {measurement.plan} after {measurement.rounds} rounds, with "
                "that history"
            )
        del self._asked[measurement.plan]
        damage = self._ladder.damage_of(measurement.plan)
        assert damage is not None, "plans are made of the choices on offer"
        price = self._ladder.cost_of(measurement.plan)
        self._finished.append(_Trial(measurement, damage, price))

    def reject(self, measurement: Measurement) -> None:
        """Replace the score of a plan by a later one, measured on held-out latents."""
        for i, trial in enumerate(self._finished):
            if (trial.plan, trial.measurement.history) == (measurement.plan, measurement.history):
                worse = measurement.score.ci_high - trial.measurement.score.ci_high
                self._worse[trial.plan] = worse
                self._finished[i] = replace(trial, measurement=measurement)
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

    def _chances(self, prospects: Sequence[_Prospect], known: Mapping[RankPlan, Known]) -> Outlook:
        return outlook(
            list(known.values()),
            [prospect.known for prospect in prospects],
            [prospect.rounds for prospect in prospects],
            self.budget,
            self.budget or prospects[-1].known.damage,
        )

    def _best(self) -> _Trial | None:
        met = [t for t in self._finished if self.meets(t.measurement)]
        return min(met, key=lambda t: t.cost) if met else None
