"""The story of a compression, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn

from ard.assembly.assembler import Assembler
from ard.assembly.closed_form import Fit
from ard.costs.cost import LayerCost, cost_of, params_cost
from ard.errors import NothingToFactorizeError
from ard.factorization.methods import COMPETITORS
from ard.grid import DEFAULT_GRID, RankGrid
from ard.layers import LayerProfile, Profile, profile_layers
from ard.measuring.evaluate import Evaluator
from ard.measuring.executors import Executor, SerialExecutor
from ard.measuring.journal import Journal, MemoryJournal
from ard.measuring.measurement import Measurement, Stage
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.measuring.sweep import Measure, single_layer_plans, sweep
from ard.plan import DENSE, Factorization, RankPlan
from ard.recovery.recover import Recover, closed_form_only
from ard.search.candidates import competing_choices
from ard.search.controller import BudgetController
from ard.search.proxy import choose_anchors, estimate
from nas_gan.progress import Progress, no_progress

# A layer below this share of the objective is left dense: measuring it costs more than it holds.
MIN_SHARE = 0.004
# How often a plan is chosen again, because measuring its layers one by one changed what is known,
# before it is taken as it is.
MAX_CONFIRMATIONS = 2

Choice = tuple[str, Factorization]  # a layer and what replaces it


@dataclass(frozen=True)
class Evaluators:
    """The looks at quality, each on its own latents.

    Attributes:
        single: scores single-layer plans, many and cheap.
        joint: decides between whole plans.
        final: scores what is reported, on held-out latents that no choice was made by.
        factorized: scores the chosen plan before recovery, for the record; `final` if not given.
        proxy: with one (see `ard.search.proxy`) only some single-layer plans are scored, and it
            fills in the others.
    """

    single: Evaluator
    joint: Evaluator
    final: Evaluator
    factorized: Evaluator | None = None
    proxy: Evaluator | None = None

    @staticmethod
    def all_alike(evaluate: Evaluator) -> Evaluators:
        """One evaluator for every look, which is fine where samples are plenty."""
        return Evaluators(evaluate, evaluate, evaluate)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        anchors: single-layer plans that are scored where there is a proxy; 0 scores all of them.
        max_trials: whole plans that are recovered and scored.
    """

    anchors: int = 0
    max_trials: int = 6


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Run:
    """Where a search happens, and who hears of it.

    Attributes:
        journal: remembers every score, so that a second search with the same one resumes.
        executor: runs measurements of single layers.
        progress: shows how far it is, given a description and a total.
        clock: seconds, for the timings of the result.
    """

    journal: Journal = field(default_factory=MemoryJournal)
    executor: Executor = field(default_factory=SerialExecutor)
    progress: Progress = no_progress
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Search:
    """A search for ranks: what is compressed, how it is scored, and what is to become small.

    Attributes:
        generator: maps `(n, latent_dim)` latents to images; it is not changed.
        latents: `(n, latent_dim)` latents behind activation statistics.
        evaluators: how quality is scored.
        cost: of a layer under a choice; the sum over layers is to become small.
        recover: `recover(build, plan)` calls `build()` for the factorized generator and returns
            the recovered one.
        grid: the rank candidates.
        fit: closed-form repair of replaced layers.
        effort: how much is measured.
        run: where that happens.
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
    """A generator taken apart: what can be replaced, by what, and how to build it.

    `choices` are the (layer, factorization) pairs that deserve a measurement.
    """

    profile: Profile
    layers: tuple[LayerProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    assemble: Assembler


@dataclass(frozen=True)
class Found:
    """The outcome of a search under one budget.

    Attributes:
        budget: the allowed rise.
        budget_met: whether the upper end of the interval of the recovered plan's rise is within it.
        plan: the cheapest plan within the budget, or the closest to it where there is none.
        generator: the recovered net with that plan.
        factorized: its score before recovery.
        recovered: its score on held-out latents.
        trials: the whole plans that this search recovered and scored, in order.
        table: what was known of single layers in the end.
    """

    budget: float
    budget_met: bool
    plan: RankPlan
    generator: nn.Module
    factorized: Score
    recovered: Score
    trials: tuple[Measurement, ...]
    table: SensitivityTable


@dataclass(frozen=True)
class CompressionResult(Found):
    """What the pipeline found; `timings` are seconds of this session."""

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
        latents: `(n, latent_dim)` latents behind activation statistics.
        budget: the allowed rise in the evaluators' metric. A plan meets it when the upper end of
            the interval of its recovered rise does.
        evaluators: how quality is scored; one for everything is fine where samples are plenty.
        cost: what is to become small, per layer and choice.
        recover: trains a factorized generator; nothing is trained by default.
        grid: the rank candidates.
        fit: closed-form repair of replaced layers.
        effort: how much is measured.
        run: where that happens; in this process and in memory by default.

    Returns:
        The plan, its generator, and everything that was scored on the way.

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
    on_table: Callable[[Prepared, SensitivityTable], None] = lambda prepared, table: None,
) -> Iterator[CompressionResult]:
    """One sweep of single layers, then a search under each budget, the smallest first.

    All searches share what is measured, and a plan within a budget is within every larger one: a
    result is the smaller budget's where the larger one's search found nothing cheaper.

    Args:
        search: what is compressed, and how.
        budgets: allowed rises, in any order; results come in ascending order.
        on_table: is told of the single-layer scores before anything is spent on whole plans.

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
        BudgetError: a budget is negative or not a number.
    """
    timings = Stopwatch(search.run.clock)
    with timings("profile and methods"):
        prepared = prepare(search)
    with timings("sweep"):
        table = measure_sensitivities(search, prepared)
    on_table(prepared, table)
    trials: list[Measurement] = []
    smaller: Found | None = None
    for budget in sorted(budgets):
        found = find_plan(search, prepared, table, budget, known=trials, timings=timings)
        trials += found.trials
        table = found.table
        if smaller is not None:
            found = cheaper_within(smaller, found, partial(cost_of, search.cost, prepared.layers))
        smaller = found
        yield CompressionResult(
            **vars(found),
            profile=prepared.profile,
            skipped=prepared.skipped,
            timings=dict(timings.seconds),
        )


def prepare(search: Search) -> Prepared:
    """What is there to factorize, and which ways to do it deserve a measurement?

    Raises:
        NothingToFactorizeError: no method of the grid makes any layer of the generator cheaper.
    """
    profile = profile_layers(search.generator, search.latents[:2])
    layers, left = worthwhile_layers(profile, search.cost)
    assemble = Assembler.measure(search.generator, search.latents, layers, fit=search.fit)
    methods = search.grid.methods
    with search.run.progress("ranking methods", len(layers)) as advance:
        choices = competing_choices(
            search.generator,
            layers,
            search.latents[:16],
            assemble.statistics,
            grid=search.grid,
            cost=search.cost,
            on_layer=advance,
        )
    if not choices:
        raise NothingToFactorizeError(
            f"none of the methods ({', '.join(methods) or 'none given'}) makes a layer cheaper; "
            f"try {', '.join(COMPETITORS)}"
        )
    return Prepared(profile, layers, (*profile.skipped, *left), tuple(choices), assemble)


def measure_sensitivities(
    search: Search, prepared: Prepared, also: Sequence[Choice] = ()
) -> SensitivityTable:
    """How much does each layer hurt, alone?

    With a proxy every choice moves the images of a few latents, as many choices as the effort has
    anchors and those of `also` are scored, and these tell what a movement means. Without a proxy,
    or with 0 anchors, every choice is scored.
    """
    choices, evaluators, run = list(prepared.choices), search.evaluators, search.run
    movements: dict[Choice, float] = {}
    scored = choices

    def scores(plans: list[RankPlan], evaluate: Evaluator, stage: Stage, title: str) -> list[Score]:
        known = {m.plan for m in run.journal.measurements() if m.stage == stage}
        show = no_progress if known.issuperset(plans) else run.progress
        with show(title, len(plans)) as advance:
            measure = Measure(prepared.assemble, evaluate)
            done = sweep(
                plans, measure, run.executor, run.journal, stage=stage, on_measured=advance
            )
        return [measurement.score for measurement in done]

    if evaluators.proxy is not None and search.effort.anchors:
        moved = scores(single_layer_plans(choices), evaluators.proxy, "proxy", "movement of images")
        # A choice that makes images of NaN is none.
        movements = {
            choice: score.value
            for choice, score in zip(choices, moved, strict=True)
            if math.isfinite(score.value)
        }
        sizes = {layer.name: layer.params() for layer in prepared.layers}
        anchors = choose_anchors(movements, sizes, search.effort.anchors)
        asked_for = (choice for choice in also if choice in movements)
        scored = list(dict.fromkeys([*anchors, *asked_for]))
    plans = [DENSE, *single_layer_plans(scored)]
    dense, *singles = scores(plans, evaluators.single, "single", "one layer at a time")
    measured = dict(zip(scored, singles, strict=True))
    if movements:
        measured = estimate(movements, measured)
    return SensitivityTable.of(dense, measured, prepared.layers)


def find_plan(
    search: Search,
    prepared: Prepared,
    table: SensitivityTable,
    budget: float,
    *,
    known: Sequence[Measurement] = (),
    timings: Stopwatch | None = None,
) -> Found:
    """Which plan is the cheapest that the budget allows, measured as a whole and after recovery?

    `known` are trials of an earlier search with the same table, evaluators and recovery, under
    another budget; they are not made again. A plan made of estimates is made of those that were too
    low, so its choices are measured, and it is chosen again, before a recovery is spent on it.
    """
    timings = timings or Stopwatch(search.run.clock)
    evaluators, run, assemble = search.evaluators, search.run, prepared.assemble

    def recovered(plan: RankPlan) -> nn.Module:
        def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
            return assemble(plan if part is None else part, base)

        return search.recover(build, plan)

    looks: dict[Stage, tuple[Callable[[RankPlan], nn.Module], Evaluator]] = {
        "recovered": (recovered, evaluators.joint),
        "final": (recovered, evaluators.final),
        "factorized": (assemble, evaluators.factorized or evaluators.final),
    }

    def measure(plan: RankPlan, stage: Stage, advance: Callable[[int], None]) -> Measurement:
        build, evaluate = looks[stage]
        [measured] = sweep(
            [plan],
            Measure(build, evaluate),
            run.executor,
            run.journal,
            stage=stage,
            on_measured=advance,
        )
        return measured

    controller = BudgetController(
        table,
        prepared.layers,
        search.cost,
        budget,
        max_trials=search.effort.max_trials,
        known=known,
    )

    def next_plan() -> RankPlan | None:
        nonlocal table
        for _ in range(MAX_CONFIRMATIONS):
            plan = controller.ask()
            measured = table.measured()
            if plan is None or measured.keys() >= set(plan.items()):
                return plan
            table = measure_sensitivities(search, prepared, also=[*measured, *plan.items()])
            controller.learn(table)
        return controller.ask()

    with (
        timings("joint plans"),
        run.progress("joint plans, recovered", search.effort.max_trials) as advance,
    ):
        while True:
            while (plan := next_plan()) is not None:
                controller.tell(measure(plan, "recovered", advance))
            # The winner was picked for its score. Does it hold on latents that picked nothing?
            chosen = controller.best() or controller.closest()
            assert chosen is not None, "the controller always asks for at least one plan"
            final = measure(chosen.plan, "final", lambda n: None)
            met = controller.meets(final)
            if met or not controller.meets(chosen):
                break
            controller.reject(final)

    with timings("report"):
        before = measure(chosen.plan, "factorized", lambda n: None)
    return Found(
        budget=budget,
        budget_met=met,
        plan=chosen.plan,
        generator=recovered(chosen.plan),
        factorized=before.score,
        recovered=final.score,
        trials=controller.trials,
        table=table,
    )


def cheaper_within(smaller: Found, larger: Found, price: Callable[[RankPlan], float]) -> Found:
    """What a larger budget buys: what it found, or what the smaller one found if that costs less.

    A plan within a budget is within every larger one. Few trials may miss it a second time.
    """
    if smaller.budget_met and (not larger.budget_met or price(smaller.plan) < price(larger.plan)):
        return replace(smaller, budget=larger.budget, trials=larger.trials, table=larger.table)
    return larger


def worthwhile_layers(
    profile: Profile, cost: LayerCost, min_share: float = MIN_SHARE
) -> tuple[tuple[LayerProfile, ...], tuple[tuple[str, str], ...]]:
    """The layers that hold a noticeable share of the cost, and why the others are left out.

    The largest layer always stays, so that there is something to measure.
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
