"""The story of a compression, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ard.assembly.assembler import Assembler
from ard.assembly.closed_form import Fit
from ard.costs.cost import LayerCost, params_cost
from ard.errors import NothingToFactorizeError
from ard.factorization.methods import COMPETITORS
from ard.layers import LayerProfile, Profile, profile_layers
from ard.measuring.evaluate import Evaluation, Evaluator
from ard.measuring.executors import Executor, SerialExecutor
from ard.measuring.journal import Journal, MemoryJournal
from ard.measuring.measurement import Measurement, Stage
from ard.measuring.sensitivity import SensitivityTable
from ard.measuring.sweep import Measure, single_layer_plans, sweep
from ard.plan import DENSE, Factorization, RankPlan
from ard.recovery.recover import Recover, closed_form_only
from ard.search.candidates import competing_choices
from ard.search.controller import BudgetController
from ard.search.proxy import choose_anchors, estimate

FRACTIONS = (0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)
# A layer below this share of the objective is left dense: measuring it costs more than it holds.
MIN_SHARE = 0.004
# How often a plan is chosen again, because measuring its layers one by one changed what is known,
# before it is taken as it is.
MAX_CONFIRMATIONS = 2

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Evaluators:
    """The looks at quality, each on its own latents.

    `single` scores single-layer plans, many and cheap; `joint` decides about whole plans; `final`
    is for what is reported, and nothing was ever chosen by it before. `factorized` scores the
    chosen plan before recovery, for the record; it is `final` if not given. With a `proxy` (see
    `ard.search.proxy`) only some of the single-layer plans are scored, and it fills in the others.
    """

    single: Evaluator
    joint: Evaluator
    final: Evaluator
    factorized: Evaluator | None = None
    proxy: Evaluator | None = None


@dataclass(frozen=True)
class Prepared:
    """A generator taken apart: what can be replaced, by what, and how to build it.

    `choices` are (layer, factorization) pairs that deserve a measurement.
    """

    profile: Profile
    layers: tuple[LayerProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    choices: tuple[tuple[str, Factorization], ...]
    assemble: Assembler


@dataclass(frozen=True)
class Found:
    """The outcome of a search under one budget.

    `plan` is the cheapest one within the budget, or the closest to it where `budget_met` is
    false; `generator` is the recovered net with it. `table` is what was known of single layers in
    the end.
    """

    plan: RankPlan
    generator: nn.Module
    budget_met: bool
    factorized: Evaluation
    recovered: Evaluation
    trials: tuple[Measurement, ...]
    table: SensitivityTable


@dataclass(frozen=True)
class CompressionResult(Found):
    """What the pipeline found; `timings` are seconds of this session."""

    profile: Profile
    skipped: tuple[tuple[str, str], ...]
    timings: dict[str, float] = field(default_factory=dict)


def _no_progress(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda n: None)


def compress_generator(
    generator: nn.Module,
    latents: Tensor,
    *,
    fid_budget: float,
    evaluators: Evaluators | Evaluator,
    cost: LayerCost = params_cost,
    recover: Recover = closed_form_only,
    journal: Journal | None = None,
    executor: Executor | None = None,
    methods: Sequence[str] = COMPETITORS,
    fractions: Sequence[float] = FRACTIONS,
    multiple_of: int = 1,
    fit: Fit = "none",
    anchors: int = 0,
    max_trials: int = 6,
    on_table: Callable[[Prepared, SensitivityTable], None] = lambda prepared, table: None,
    progress: Progress = _no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> CompressionResult:
    """Find, recover and verify the cheapest factorization within an FID budget.

    `generator` maps `(n, latent_dim)` latents to images and is not changed. `latents` serve for
    activation statistics. `fid_budget` is an absolute rise; a plan meets it when the upper end of
    the interval of its recovered ΔFID does. `recover(build, plan)` calls `build()` for the
    factorized generator and returns the recovered one. One evaluator for everything is fine where
    latents are plenty; `anchors` is how many single-layer plans it scores where there is a proxy
    (0: all). `on_table` is told of the table before anything is spent on whole plans.
    The journal remembers every score, so a second call with the same one goes on.

    Raises:
        NothingToFactorizeError: none of `methods` makes any layer of the generator smaller.
    """
    executor, journal = executor or SerialExecutor(), journal or MemoryJournal()
    if not isinstance(evaluators, Evaluators):
        evaluators = Evaluators(evaluators, evaluators, evaluators)
    timings = Stopwatch(clock)

    with timings("profile and methods"):
        prepared = prepare(
            generator,
            latents,
            cost=cost,
            methods=methods,
            fractions=fractions,
            multiple_of=multiple_of,
            fit=fit,
            progress=progress,
        )
    measure_singles = partial(
        measure_sensitivities,
        prepared,
        evaluators,
        executor,
        journal,
        anchors=anchors,
        progress=progress,
    )
    with timings("sweep"):
        table = measure_singles()
    on_table(prepared, table)
    found = find_plan(
        prepared,
        table,
        fid_budget=fid_budget,
        cost=cost,
        evaluators=evaluators,
        recover=recover,
        executor=executor,
        journal=journal,
        max_trials=max_trials,
        confirm=lambda choices: measure_singles(also=choices),
        progress=progress,
        timings=timings,
    )
    return CompressionResult(
        **vars(found),
        profile=prepared.profile,
        skipped=prepared.skipped,
        timings=timings.seconds,
    )


def prepare(
    generator: nn.Module,
    latents: Tensor,
    *,
    cost: LayerCost = params_cost,
    methods: Sequence[str] = COMPETITORS,
    fractions: Sequence[float] = FRACTIONS,
    multiple_of: int = 1,
    fit: Fit = "none",
    progress: Progress = _no_progress,
) -> Prepared:
    """What is there to factorize, and which ways to do it deserve a measurement?

    Raises:
        NothingToFactorizeError: none of `methods` makes any layer of the generator smaller.
    """
    profile = profile_layers(generator, latents[:2])
    layers, left = worthwhile_layers(profile, cost)
    assemble = Assembler.measure(generator, latents, layers, fit=fit)
    with progress("ranking methods", len(layers)) as advance:
        choices = competing_choices(
            generator,
            layers,
            latents[:16],
            assemble.statistics,
            methods=methods,
            fractions=fractions,
            multiple_of=multiple_of,
            cost=cost,
            on_layer=advance,
        )
    if not choices:
        raise NothingToFactorizeError(
            f"none of the methods ({', '.join(methods) or 'none given'}) makes a layer cheaper; "
            f"try {', '.join(COMPETITORS)}"
        )
    return Prepared(profile, layers, (*profile.skipped, *left), tuple(choices), assemble)


def measure_sensitivities(
    prepared: Prepared,
    evaluators: Evaluators,
    executor: Executor,
    journal: Journal,
    *,
    anchors: int = 0,
    also: Sequence[tuple[str, Factorization]] = (),
    progress: Progress = _no_progress,
) -> SensitivityTable:
    """How much does each layer hurt, alone?

    With a proxy every choice moves the images of a few latents, `anchors` choices and those of
    `also` are scored, and these tell what a movement means. Without one, or with 0 anchors, every
    choice is scored.
    """
    choices = list(prepared.choices)
    costs = {layer.name: layer.params() for layer in prepared.layers}
    movements: dict[tuple[str, Factorization], float] = {}
    scored = choices

    def run(
        plans: list[RankPlan], evaluate: Evaluator, stage: Stage, title: str
    ) -> list[Evaluation]:
        known = {m.plan for m in journal.measurements() if m.stage == stage}
        show = _no_progress if known.issuperset(plans) else progress
        with show(title, len(plans)) as advance:
            measure = Measure(prepared.assemble, evaluate)
            done = sweep(plans, measure, executor, journal, stage=stage, on_measured=advance)
        return [measurement.evaluation for measurement in done]

    if evaluators.proxy is not None and anchors:
        moved = run(single_layer_plans(choices), evaluators.proxy, "proxy", "how far images move")
        # A choice that makes images of NaN is none.
        movements = {
            choice: evaluation.fid
            for choice, evaluation in zip(choices, moved, strict=True)
            if math.isfinite(evaluation.fid)
        }
        asked_for = (choice for choice in also if choice in movements)
        scored = list(dict.fromkeys([*choose_anchors(movements, costs, anchors), *asked_for]))
    plans = [DENSE, *single_layer_plans(scored)]
    dense, *singles = run(plans, evaluators.single, "single", "one layer at a time")
    measured = dict(zip(scored, singles, strict=True))
    if movements:
        measured = estimate(movements, measured)
    return SensitivityTable.of(dense, measured, prepared.layers)


def find_plan(
    prepared: Prepared,
    table: SensitivityTable,
    *,
    fid_budget: float,
    cost: LayerCost,
    evaluators: Evaluators,
    recover: Recover,
    executor: Executor,
    journal: Journal,
    max_trials: int,
    known: Sequence[Measurement] = (),
    confirm: Callable[[Sequence[tuple[str, Factorization]]], SensitivityTable] | None = None,
    progress: Progress = _no_progress,
    timings: Stopwatch | None = None,
) -> Found:
    """Which plan is the cheapest that the budget allows, measured as a whole and after recovery?

    `known` are trials of an earlier search with the same table, evaluators and recovery, under
    another budget; they are not made again. `confirm(choices)` is a table in which these are
    measured. A plan made of estimates is made of those that were too low, so its choices are
    measured, and it is chosen again, before a recovery is spent on it.
    """
    timings = timings or Stopwatch(time.monotonic)
    assemble = prepared.assemble

    def recovered(plan: RankPlan) -> nn.Module:
        def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
            return assemble(plan if part is None else part, base)

        return recover(build, plan)

    measure_joint = Measure(recovered, evaluators.joint)
    measure_final = Measure(recovered, evaluators.final)
    controller = BudgetController(
        table, prepared.layers, cost, fid_budget, max_trials=max_trials, known=known
    )

    def next_plan() -> RankPlan | None:
        nonlocal table
        for _ in range(MAX_CONFIRMATIONS if confirm else 0):
            plan = controller.ask()
            measured = table.measured()
            if plan is None or confirm is None or measured.keys() >= set(plan.items()):
                return plan
            table = confirm([*measured, *plan.items()])
            controller.learn(table)
        return controller.ask()

    with timings("joint plans"), progress("joint plans, recovered", max_trials) as advance:
        while True:
            while (plan := next_plan()) is not None:
                [measured] = sweep(
                    [plan], measure_joint, executor, journal, stage="recovered", on_measured=advance
                )
                controller.tell(measured)
            # The winner was picked for its score. Does it hold on latents that picked nothing?
            chosen = controller.best() or controller.closest()
            assert chosen is not None, "the controller always asks for at least one plan"
            [final] = sweep([chosen.plan], measure_final, executor, journal, stage="final")
            met = controller.meets(final)
            if met or not controller.meets(chosen):
                break
            controller.reject(final)

    with timings("report"):
        [before] = sweep(
            [chosen.plan],
            Measure(assemble, evaluators.factorized or evaluators.final),
            executor,
            journal,
            stage="factorized",
        )
    return Found(
        plan=chosen.plan,
        generator=recovered(chosen.plan),
        budget_met=met,
        factorized=before.evaluation,
        recovered=final.evaluation,
        trials=controller.trials,
        table=table,
    )


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
