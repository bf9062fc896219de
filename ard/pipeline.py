"""A compression from start to finish: profile, rank candidates, sweep, search, recover, verify."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from ard.assembly.assembler import Assembler, passes_of
from ard.assembly.closed_form import Fit
from ard.costs.cost import LayerCost, cost_of, params_cost
from ard.errors import NothingToFactorizeError
from ard.factorization.methods import COMPETITORS
from ard.grid import DEFAULT_GRID, RankGrid
from ard.layers import LayerProfile, Part, Profile, profile_layers
from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.executors import Executor, SerialExecutor
from ard.measuring.journal import Journal, MemoryJournal
from ard.measuring.measurement import History, Measurement, Stage
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.measuring.sweep import Measure, only_score, single_layer_plans, sweep
from ard.plan import DENSE, RankPlan, Replacement
from ard.recovery.recover import InRounds, Recover, Recovered, closed_form_only
from ard.recovery.store import Bringing, RecoveredStore
from ard.search.candidates import competing_choices, competing_forms
from ard.search.controller import BudgetController
from ard.search.ladder import Ladder, single_damage
from ard.search.proxy import Movement, choose_anchors, estimate
from nas_gan.progress import Progress, no_progress

# A layer with a smaller share of the cost stays dense: it is not worth its measurements.
MIN_SHARE = 0.004
# Latents on which the candidates of a layer are ranked.
N_RANKED = 16
# How often a plan that relies on estimates is measured layer by layer and chosen again, before it
# is accepted as it is.
MAX_CONFIRMATIONS = 2
# An estimated damage below this share of its plan's is taken as it is: if it were three times as
# large, the plan would hardly change, and a measurement costs as much as that of any other.
DOUBTFUL = 0.03
# How often a plan is corrected by its measured cost; within CLOSE of the limit there is no need.
# Times vary, so the prediction aims a little below.
MAX_CORRECTIONS, CLOSE, AIM = 4, 0.95, 0.98

Choice = tuple[str, Replacement]  # a part and what replaces it


@dataclass(frozen=True)
class Evaluators:
    """The evaluators of a search, each on latents of its own.

    Attributes:
        single: scores single-layer plans; there are many, so it should be cheap.
        joint: scores whole plans, to choose among them.
        final: scores the result that is reported, on held-out latents.
        fresh: makes the evaluator of the k-th further plan that is tested before one is reported,
            on held-out latents of its own; k counts from 1. Without it `final` tests them all, and
            latents that rejected one plan judge the next.
        factorized: scores the chosen plan before recovery, for the report; `final` if None.
        proxy: a cheap stand-in for `single` (see `ard.search.proxy`). With one, only some
            single-layer plans are scored, and the others are estimated from it.
    """

    single: Evaluator
    joint: Evaluator
    final: Evaluator
    factorized: Evaluator | None = None
    proxy: Evaluator | None = None
    fresh: Callable[[int], Evaluator] | None = None

    def held_out(self, bank: int) -> Evaluator:
        """The evaluator on the held-out latents of this number."""
        return self.fresh(bank) if bank and self.fresh is not None else self.final

    @staticmethod
    def all_alike(evaluate: Evaluator) -> Evaluators:
        """The same evaluator for every purpose, which is fine if it uses many samples."""
        return Evaluators(evaluate, evaluate, evaluate)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        anchors: single-layer plans to score if there is a proxy; 0 scores all of them.
        max_trials: rounds of recovery at most, of all whole plans together; each is scored. The
            last third is a reserve, for searches with near misses.
        max_rounds: rounds of one plan at most, if `recover` works in rounds.
        earlier: what `max_trials` was before, if the search was finished with less and goes on.
    """

    anchors: int = 0
    max_trials: int = 9
    max_rounds: int = 8
    earlier: tuple[int, ...] = ()


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Run:
    """The environment of a search: where it runs and where it reports to.

    Attributes:
        journal: records every score; another search with the same journal resumes from it.
        executor: runs the measurements.
        progress: makes a progress bar from a description and a total.
        clock: the time in seconds, for the timings of the result.
        trials_at_once: whole plans that are chosen, recovered and scored at a time.
    """

    journal: Journal = field(default_factory=MemoryJournal)
    executor: Executor = field(default_factory=SerialExecutor)
    progress: Progress = no_progress
    clock: Callable[[], float] = time.monotonic
    trials_at_once: int = 1


@dataclass(frozen=True)
class Search:
    """A search for ranks: what is compressed, how it is scored, and which cost is minimised.

    Attributes:
        generator: maps `(n, latent_dim)` latents to images; it is not changed.
        latents: `(n, latent_dim)` latents for activation statistics.
        evaluators: how quality is scored.
        cost: the cost of a layer under a choice; the sum over the layers is minimised.
        recover: `recover(build, plan)` calls `build()` for the factorized generator and returns
            the recovered one. One that is `InRounds` continues plans that miss the budget.
        grid: the rank candidates.
        fit: closed-form correction of factorized layers.
        effort: how much is measured.
        run: the environment of the search.
    """

    generator: nn.Module
    latents: Tensor
    evaluators: Evaluators
    cost: LayerCost = params_cost
    recover: Recover = closed_form_only
    grid: RankGrid = DEFAULT_GRID
    fit: Fit = "none"
    effort: Effort = DEFAULT_EFFORT
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class Prepared:
    """A profiled generator: which layers can be replaced, by what, and how to build the result.

    Attributes:
        profile: the sizes and costs of all layers.
        parts: the layers worth factorizing, and the activations worth a gate.
        skipped: the other layers, each with the reason.
        choices: the pairs of a part and what replaces it that are worth measuring.
        assemble: builds the factorized generator of a plan.
    """

    profile: Profile
    parts: tuple[Part, ...]
    skipped: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    assemble: Assembler


@dataclass(frozen=True)
class Reach:
    """A cost of the whole network that a plan has to reach, in the unit of the search's cost.

    Attributes:
        limit: the largest cost that reaches it.
        fixed: the cost of what no plan changes.
        measured: measures the cost of a factorized generator with this plan; None if the sum over
            the layers is exact.
    """

    limit: float
    fixed: float = 0.0
    measured: Callable[[nn.Module, RankPlan], float] | None = None


@dataclass(frozen=True)
class Goal:
    """What a search is for: a budget to save within, a cost to reach at the smallest rise, or both.

    With both it is the cheapest plan within the budget that also reaches the cost.
    """

    budget: float | None = None
    reach: Reach | None = None


@dataclass(frozen=True)
class Found:
    """The outcome of a search for one goal.

    Attributes:
        budget: the allowed rise; None if a cost was to be reached at any.
        budget_met: whether the upper end of the 95 % interval of the recovered generator's rise is
            within the budget, if there is one.
        plan: the cheapest plan within the budget, or the closest to it if there is none; without a
            budget the mildest plan that reaches the cost, or the cheapest of all.
        generator: the recovered generator with that plan.
        factorized: its score before recovery.
        recovered: its score on held-out latents that tested no other plan.
        history: the rounds of its recovery before the last one; see `Measurement`.
        trials: the whole plans that this search recovered and scored, in order.
        table: the single-layer scores at the end of the search.
        cost: the cost of the whole network, measured if it can be; None if none was to be reached.
        beyond: if a budget and a cost cannot be had together, the plan on the other side: `plan` is
            the cheapest within the budget, and this the mildest that reaches the cost.
    """

    budget: float | None
    budget_met: bool
    plan: RankPlan
    generator: nn.Module
    factorized: Score
    recovered: Score
    history: History
    trials: tuple[Measurement, ...]
    table: SensitivityTable
    cost: float | None = None
    beyond: Found | None = None

    @property
    def rounds(self) -> int:
        """How many rounds of recovery made its weights."""
        return len(self.history) + 1


@dataclass(frozen=True, kw_only=True)
class CompressionResult(Found):
    """The outcome of a compression.

    Attributes:
        profile: the sizes and costs of all layers.
        skipped: layers that stayed dense, each with the reason.
        timings: seconds per stage, of this process only.
    """

    profile: Profile
    skipped: tuple[tuple[str, str], ...]
    timings: dict[str, float]


def compress_generator(
    generator: nn.Module,
    latents: Tensor,
    *,
    budget: float,
    evaluators: Evaluators | Evaluator,
    cost: LayerCost = params_cost,
    recover: Recover = closed_form_only,
    grid: RankGrid = DEFAULT_GRID,
    fit: Fit = "none",
    effort: Effort = DEFAULT_EFFORT,
    run: Run | None = None,
) -> CompressionResult:
    """Find, recover and verify the cheapest factorization within a budget.

    Args:
        generator: maps `(n, latent_dim)` latents to images; it is not changed.
        latents: `(n, latent_dim)` latents for activation statistics.
        budget: the allowed rise in the evaluators' metric. A plan meets it if the upper end of the
            95 % interval of its rise after recovery does.
        evaluators: how quality is scored; a single evaluator is fine if it uses many samples.
        cost: the cost to minimise, per layer and choice.
        recover: trains a factorized generator; the default trains nothing.
        grid: the rank candidates.
        fit: closed-form correction of factorized layers.
        effort: how much is measured.
        run: the environment of the search; by default this process, with a journal in memory.

    Returns:
        The plan, its recovered generator, and every score that was measured.

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
        BudgetError: the budget is negative or not a number.
    """
    if not isinstance(evaluators, Evaluators):
        evaluators = Evaluators.all_alike(evaluators)
    search = Search(generator, latents, evaluators, cost, recover, grid, fit, effort, run or Run())
    [result] = compress_within(search, [budget])
    return result


def compress_within(
    search: Search,
    budgets: Sequence[float],
    *,
    profile: Profile | None = None,
    on_table: Callable[[Prepared, SensitivityTable], None] = lambda prepared, table: None,
) -> Iterator[CompressionResult]:
    """Sweep the single layers once, then search under each budget, the smallest first.

    All searches share their measurements. A plan within a budget is within every larger one, so if
    the search under a larger budget finds nothing cheaper, the smaller budget's result stands.

    Args:
        search: what is compressed, and how.
        budgets: allowed rises, in any order.
        profile: the layers of the generator, if they are known already.
        on_table: called with the single-layer scores before any whole plan is recovered.

    Yields:
        One result per budget, in ascending order of budgets.

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
        BudgetError: a budget is negative or not a number.
    """
    goals = [Goal(budget) for budget in sorted(budgets)]
    smaller: CompressionResult | None = None
    for result in compress_for(search, goals, profile=profile, on_table=on_table):
        found = result
        if smaller is not None:
            parts = result.profile.parts
            found = cheaper_within(smaller, result, partial(cost_of, search.cost, parts))
            found = replace(found, timings=result.timings)
        smaller = found
        yield found


def compress_for(
    search: Search,
    goals: Sequence[Goal],
    *,
    profile: Profile | None = None,
    on_table: Callable[[Prepared, SensitivityTable], None] = lambda prepared, table: None,
) -> Iterator[CompressionResult]:
    """Sweep the single layers once, then search for each goal in turn.

    Args:
        search: what is compressed, and how.
        goals: budgets to save within, costs to reach, or both.
        profile: the layers of the generator, if they are known already.
        on_table: called with the single-layer scores before any whole plan is recovered.

    Yields:
        One result per goal, in their order.

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
        BudgetError: a budget is negative or not a number.
    """
    timings = Stopwatch(search.run.clock)
    with timings("profile and methods"):
        prepared = prepare(search, profile)
    with timings("sweep"):
        table = measure_sensitivities(search, prepared)
    on_table(prepared, table)
    trials: list[Measurement] = []
    for goal in goals:
        found = find(search, prepared, table, goal, known=trials, timings=timings)
        trials += (trial for trial in found.trials if trial not in trials)
        table = found.table
        yield CompressionResult(
            **vars(found),
            profile=prepared.profile,
            skipped=prepared.skipped,
            timings=dict(timings.seconds),
        )


def find(
    search: Search,
    prepared: Prepared,
    table: SensitivityTable,
    goal: Goal,
    *,
    known: Sequence[Measurement],
    timings: Stopwatch,
) -> Found:
    """Find a plan for a goal; see `find_plan` and `find_reaching`."""
    if goal.budget is None:
        assert goal.reach is not None, "a goal has a budget or a cost"
        return find_reaching(search, prepared, table, goal.reach, None, timings=timings)
    found = find_plan(search, prepared, table, goal.budget, known=known, timings=timings)
    reach = goal.reach
    if reach is None:
        return found
    found = replace(found, cost=whole_cost(search, prepared, reach, found.plan, found.generator))
    if found.cost is not None and found.cost <= reach.limit:
        return found
    # The cheapest within the budget costs too much. The mildest that costs little enough may be
    # within the budget nevertheless, because a search with few trials can miss it.
    other = find_reaching(search, prepared, found.table, reach, goal.budget, timings=timings)
    both = (*found.trials, *(trial for trial in other.trials if trial not in found.trials))
    within = other.recovered.ci_high <= goal.budget
    if within and other.cost is not None and other.cost <= reach.limit:
        return replace(other, budget=goal.budget, budget_met=True, trials=both)
    return replace(found, beyond=other, table=other.table, trials=both)


def prepare(search: Search, profile: Profile | None = None) -> Prepared:
    """Profile the generator and rank the candidates: which layers and choices to measure?

    Args:
        search: what is compressed, and how.
        profile: the layers of the generator, if they are known already.

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
    """
    if profile is None:
        profile = profile_layers(search.generator, search.latents[:2])
    layers, left = worthwhile_layers(profile, search.cost)
    with search.run.progress("statistics of layers", passes_of(len(search.latents))) as advance:
        assemble = Assembler.measure(
            search.generator,
            search.latents,
            layers,
            fit=search.fit,
            activations=profile.activations,
            on_passes=advance,
        )
    methods = search.grid.methods
    with search.run.progress("ranking methods", len(layers)) as advance:
        choices = competing_choices(
            search.generator,
            layers,
            search.latents[:N_RANKED],
            assemble.statistics,
            grid=search.grid,
            cost=search.cost,
            on_layer=advance,
        )
    if not choices:
        raise NothingToFactorizeError(
            f"none of the methods ({', '.join(methods) or 'none given'}) makes any layer cheaper; "
            f"try {', '.join(COMPETITORS)}"
        )
    forms = competing_forms(search.generator, profile.activations, assemble.entering, search.cost)
    slow = {name for name, _ in forms}
    parts: tuple[Part, ...] = (
        *layers,
        *(part for part in profile.activations if part.name in slow),
    )
    return Prepared(profile, parts, (*profile.skipped, *left), (*choices, *forms), assemble)


def measure_sensitivities(
    search: Search, prepared: Prepared, also: Sequence[Choice] = ()
) -> SensitivityTable:
    """Measure the sensitivities: how much does factorizing each layer alone hurt?

    With a proxy, every choice is rated by how far it moves the images of a few latents. Only the
    anchors, as many as `search.effort` says, and the choices in `also` are scored; they calibrate
    the proxy, which estimates the rest. Without a proxy, or with 0 anchors, every choice is scored.
    """
    choices, evaluators, run = list(prepared.choices), search.evaluators, search.run
    movements: dict[Choice, float] = {}
    scored = choices

    def scores(
        plans: list[RankPlan], measure: Callable[[RankPlan], Score], stage: Stage, title: str
    ) -> list[Score]:
        known = {m.plan for m in run.journal.measurements() if m.stage == stage}
        show = no_progress if known.issuperset(plans) else run.progress
        with show(title, len(plans)) as advance:
            done = sweep(
                plans, measure, run.executor, run.journal, stage=stage, on_measured=advance
            )
        return [measurement.score for measurement in done]

    if evaluators.proxy is not None and search.effort.anchors:
        movement = Movement(prepared.assemble, evaluators.proxy)
        moved = scores(single_layer_plans(choices), movement, "proxy", "movement of images")
        # A choice whose images are NaN is no candidate.
        movements = {
            choice: score.value
            for choice, score in zip(choices, moved, strict=True)
            if math.isfinite(score.value)
        }
        sizes = {layer.name: layer.params() for layer in prepared.parts}
        anchors = choose_anchors(movements, sizes, search.effort.anchors)
        asked_for = (choice for choice in also if choice in movements)
        scored = list(dict.fromkeys([*anchors, *asked_for]))
    plans = [DENSE, *single_layer_plans(scored)]
    single = Measure(prepared.assemble, evaluators.single)
    dense, *singles = scores(plans, single, "single", "one layer at a time")
    measured = dict(zip(scored, singles, strict=True))
    if movements:
        measured = estimate(movements, measured)
    return SensitivityTable.of(dense, measured, prepared.parts)


def find_plan(
    search: Search,
    prepared: Prepared,
    table: SensitivityTable,
    budget: float,
    *,
    known: Sequence[Measurement] = (),
    timings: Stopwatch | None = None,
) -> Found:
    """Find the cheapest plan within the budget, measured as a whole after recovery.

    A plan chosen from estimates tends to be made of those that are too low. So its choices are
    measured, and a plan is chosen again, before time is spent on a recovery.

    Args:
        search: what is compressed, and how.
        prepared: the result of `prepare`.
        table: the single-layer scores.
        budget: the allowed rise.
        known: trials of an earlier search with the same evaluators and recovery under another
            budget; they are not repeated.
        timings: adds up the seconds of each stage; a new stopwatch by default.

    Raises:
        BudgetError: the budget is negative or not a number.
    """
    timings = timings or Stopwatch(search.run.clock)
    run, whole = search.run, WholePlans(search, prepared)
    first, *more = (*search.effort.earlier, search.effort.max_trials)
    controller = BudgetController(
        table,
        prepared.parts,
        search.cost,
        budget,
        max_trials=first,
        max_rounds=whole.max_rounds,
        known=known,
    )

    def next_plans() -> tuple[RankPlan, ...]:
        nonlocal table
        for _ in range(MAX_CONFIRMATIONS):
            plans = controller.ask(run.trials_at_once)
            doubtful = [pair for plan in plans for pair in doubtful_choices(table, plan)]
            if not doubtful:
                return plans
            also = [*table.measured(), *doubtful]
            table = measure_sensitivities(search, prepared, also=also)
            controller.learn(table)
        return controller.ask(run.trials_at_once)

    with (
        timings("joint plans"),
        run.progress("joint plans, recovered", search.effort.max_trials) as advance,
    ):
        while True:
            while plans := next_plans():
                histories = {plan: controller.history_of(plan) for plan in plans}
                for measured in whole.measure(histories, "recovered", advance):
                    controller.tell(measured)
            # The winner was picked for its score, so check that score on held-out latents. Each
            # plan is checked on its own: latents that decided about one are no judge of another.
            chosen = controller.best() or controller.closest()
            assert chosen is not None, "the controller always asks for at least one plan"
            [final] = whole.measure({chosen.plan: chosen.history}, "final", no_advance)
            met = controller.meets(final)
            if controller.meets(chosen) and not met:
                controller.reject(final)
            elif more:
                controller.allow(more.pop(0))
            else:
                break

    with timings("report"):
        [before] = whole.measure({chosen.plan: ()}, "factorized", no_advance)
    return Found(
        budget=budget,
        budget_met=met,
        plan=chosen.plan,
        generator=whole.recovered(chosen.plan, chosen.history),
        factorized=before.score,
        recovered=final.score,
        history=chosen.history,
        trials=controller.trials,
        table=table,
    )


def find_reaching(
    search: Search,
    prepared: Prepared,
    table: SensitivityTable,
    reach: Reach,
    enough: float | None,
    *,
    timings: Stopwatch,
) -> Found:
    """Find the plan with the least damage that reaches a cost, and measure it after recovery.

    A cost that is measured does not depend on the weights, so plans are corrected by measured costs
    before any is recovered, and only one is. It is recovered for as many rounds as lower its rise.

    Args:
        search: what is compressed, and how.
        prepared: the result of `prepare`.
        table: the single-layer scores.
        reach: the cost to reach.
        enough: a rise within which no further round is needed.
        timings: adds up the seconds of each stage.

    Returns:
        The plan, or the cheapest of all if none reaches the cost.
    """
    whole = WholePlans(search, prepared)
    with timings("joint plans"):
        costs: dict[RankPlan, float] = {}
        ratio = 1.0  # of measured to predicted cost
        for _ in range(1 if reach.measured is None else MAX_CORRECTIONS):
            plan, table = plan_reaching(search, prepared, table, reach, ratio)
            if plan in costs:
                break
            costs[plan] = whole_cost(search, prepared, reach, plan, prepared.assemble(plan))
            if CLOSE * reach.limit <= costs[plan] <= reach.limit:
                break
            ratio = costs[plan] / predicted_cost(search, prepared, reach, plan)
        reached = [plan for plan in costs if costs[plan] <= reach.limit]
        # Of those that reach the cost the most expensive, which is the mildest.
        chosen = (
            max(reached, key=costs.__getitem__) if reached else min(costs, key=costs.__getitem__)
        )
        trials = whole.in_rounds(chosen, enough)
        best = min(trials, key=lambda trial: trial.score.ci_high)
        [final] = whole.measure({chosen: best.history}, "final", no_advance)
    with timings("report"):
        [before] = whole.measure({chosen: ()}, "factorized", no_advance)
    return Found(
        budget=None,
        budget_met=True,
        plan=chosen,
        generator=whole.recovered(chosen, best.history),
        factorized=before.score,
        recovered=final.score,
        history=best.history,
        trials=trials,
        table=table,
        cost=costs[chosen],
    )


def plan_reaching(
    search: Search, prepared: Prepared, table: SensitivityTable, reach: Reach, ratio: float
) -> tuple[RankPlan, SensitivityTable]:
    """The plan with the least damage that is expected to reach a cost, and the table behind it.

    Those of its choices that are estimates are measured, and it is chosen again, as in `find_plan`.
    If no plan reaches the cost, it is the cheapest.
    """
    left = reach.limit / ratio if reach.measured is None else AIM * reach.limit / ratio
    others = [layer for layer in prepared.profile.parts if layer not in prepared.parts]
    left -= reach.fixed + cost_of(search.cost, others, DENSE)
    for confirmed in range(MAX_CONFIRMATIONS + 1):
        ladder = Ladder(table, prepared.parts, search.cost)
        plan = (ladder.reaching(left) or ladder.rungs()[-1]).plan
        doubtful = doubtful_choices(table, plan)
        if not doubtful or confirmed == MAX_CONFIRMATIONS:
            break
        table = measure_sensitivities(search, prepared, also=[*table.measured(), *doubtful])
    return plan, table


def predicted_cost(search: Search, prepared: Prepared, reach: Reach, plan: RankPlan) -> float:
    """The cost of the whole network under a plan, summed over its layers."""
    return reach.fixed + cost_of(search.cost, prepared.profile.parts, plan)


def whole_cost(
    search: Search, prepared: Prepared, reach: Reach, plan: RankPlan, generator: nn.Module
) -> float:
    """The cost of a whole network, measured if the sum over its layers is not exact."""
    if reach.measured is not None:
        return reach.measured(generator, plan)
    return predicted_cost(search, prepared, reach, plan)


class WholePlans:
    """Recovers and scores whole plans, each at its stage and on its bank of latents."""

    def __init__(self, search: Search, prepared: Prepared) -> None:
        self.search, self.prepared = search, prepared
        more = isinstance(search.recover, InRounds)
        self.max_rounds = search.effort.max_rounds if more else 1

    def in_rounds(self, plan: RankPlan, enough: float | None) -> tuple[Measurement, ...]:
        """The scores of a plan after each round, until one lowers its upper end no more.

        Args:
            plan: the plan.
            enough: an upper end within which no further round is needed; None if there is none.
        """
        most = min(self.max_rounds, self.search.effort.max_trials)
        found: list[Measurement] = []
        with self.search.run.progress("joint plans, recovered", most) as advance:
            while len(found) < most:
                found += self.measure({plan: (plan,) * len(found)}, "recovered", advance)
                upper = found[-1].score.ci_high
                if enough is not None and upper <= enough:
                    break
                if len(found) > 1 and upper >= found[-2].score.ci_high:
                    break
        return tuple(found)

    def recovered(self, plan: RankPlan, history: History) -> nn.Module:
        """The generator of a plan after a round of recovery that follows those of `history`."""
        return Recovered(self.prepared.assemble, self.search.recover, {plan: history})(plan)

    def measure(
        self, histories: Mapping[RankPlan, History], stage: Stage, advance: Callable[[int], None]
    ) -> list[Measurement]:
        """The scores of plans at a stage, in their order, each after the rounds of its history."""
        evaluators, run = self.search.evaluators, self.search.run
        recovered = Recovered(self.prepared.assemble, self.search.recover, histories)
        stages: dict[Stage, tuple[Callable[[RankPlan], nn.Module], Evaluator]] = {
            "recovered": (recovered, evaluators.joint),
            "final": (recovered, evaluators.final),
            "factorized": (self.prepared.assemble, evaluators.factorized or evaluators.final),
        }
        build, evaluate = stages[stage]
        bank = 0
        if stage == "final":
            # A plan that the sweep finds in the journal keeps its bank.
            tested = [m.bank for m in run.journal.measurements() if m.stage == "final"]
            bank = max(tested, default=-1) + 1
            evaluate = partial(_lazily, evaluators.held_out, bank)
        scoring: Callable[[RankPlan], Any] = Measure(build, evaluate)
        take: Callable[[RankPlan, Any], Score] = only_score
        if build is recovered and isinstance(self.search.recover, RecoveredStore):
            # The weights are made where the plan is scored, and kept here.
            bringing = Bringing(scoring, self.search.recover, histories)
            scoring, take = bringing, bringing.take
        return sweep(
            list(histories),
            scoring,
            run.executor,
            run.journal,
            stage=stage,
            bank=bank,
            histories=histories,
            on_measured=advance,
            take=take,
        )


def no_advance(n: int) -> None:
    """Show no progress."""


def doubtful_choices(table: SensitivityTable, plan: RankPlan) -> list[Choice]:
    """The choices of a plan whose damage is an estimate, and a part of the whole that matters."""
    damages = {(row.layer, row.choice): single_damage(row) for row in table.rows}
    total = sum(damages[pair] for pair in plan.items())
    measured = table.measured()
    return [
        pair for pair in plan.items() if pair not in measured and damages[pair] >= DOUBTFUL * total
    ]


def _lazily(held_out: Callable[[int], Evaluator], bank: int, candidate: Candidate) -> Score:
    """Score a candidate on held-out latents, on which nothing is drawn before they are needed."""
    return held_out(bank)(candidate)


AnyFound = TypeVar("AnyFound", bound=Found)


def cheaper_within(
    smaller: AnyFound, larger: AnyFound, price: Callable[[RankPlan], float]
) -> AnyFound:
    """The result under the larger budget: its own, or that of the smaller one if it is cheaper.

    A plan within a budget is within every larger one, but a search with few trials may miss it.
    """
    if smaller.budget_met and (not larger.budget_met or price(smaller.plan) < price(larger.plan)):
        return replace(smaller, budget=larger.budget, trials=larger.trials, table=larger.table)
    return larger


def worthwhile_layers(
    profile: Profile, cost: LayerCost, min_share: float = MIN_SHARE
) -> tuple[tuple[LayerProfile, ...], tuple[tuple[str, str], ...]]:
    """The layers with a share of the cost of at least `min_share`, and the others with the reason.

    The most expensive layer is always kept, so that there is something to measure.
    """
    costs = {layer.name: cost(layer, None) for layer in profile.layers}
    total, largest = sum(costs.values()), max(costs.values())
    kept, left = [], []
    for layer in profile.layers:
        share = costs[layer.name] / total if total else 0.0
        if share >= min_share or costs[layer.name] == largest:
            kept.append(layer)
        else:
            left.append((layer.name, f"only {share:.1%} of the factorizable cost"))
    return tuple(kept), tuple(left)


class Stopwatch:
    """Seconds spent under each name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Lap:
        return _Lap(self, name)


class _Lap(AbstractContextManager[None]):
    def __init__(self, watch: Stopwatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __enter__(self) -> None:
        self.started = self.watch.clock()

    def __exit__(self, *exception: object) -> None:
        elapsed = self.watch.clock() - self.started
        self.watch.seconds[self.name] = self.watch.seconds.get(self.name, 0.0) + elapsed
