"""The story of a compression, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor, nn

from ard.competition import competing_choices
from ard.controller import BudgetController
from ard.cost import LayerCost
from ard.errors import NothingToFactorizeError
from ard.evaluate import Evaluation, Evaluator
from ard.executors import Executor, SerialExecutor
from ard.factorization.statistics import input_covariances
from ard.journal import Journal
from ard.layers import LayerProfile, Profile, profile_layers
from ard.plan import DENSE, Method, RankPlan
from ard.recovery import batch_moments, correct_batchnorm
from ard.sensitivity import (
    Measure,
    Measurement,
    SensitivityTable,
    single_layer_plans,
    sweep,
)
from ard.surgery import apply_plan

FRACTIONS = (0.5, 0.25, 0.12, 0.06)
METHODS: tuple[Method, ...] = ("tucker2", "spatial_svd", "svd")
# A layer below this share of the objective is left dense: measuring it costs more than it holds.
MIN_SHARE = 0.004

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
Recover = Callable[[Callable[[], nn.Module], RankPlan], nn.Module]


@dataclass(frozen=True)
class Evaluators:
    """The three looks at quality, each on its own latents.

    `single` scores single-layer plans, many and cheap; `joint` decides about whole plans; `final`
    is for what is reported, and nothing was ever chosen by it before. `factorized` scores the
    chosen plan before recovery, for the record; it is `final` if not given.
    """

    single: Evaluator
    joint: Evaluator
    final: Evaluator
    factorized: Evaluator | None = None


@dataclass(frozen=True)
class CompressionResult:
    """What the pipeline found.

    `plan` is the cheapest one within the budget, or the closest to it where `budget_met` is
    false; `generator` is the recovered net with it. `timings` are seconds of this session.
    """

    plan: RankPlan
    generator: nn.Module
    budget_met: bool
    factorized: Evaluation
    recovered: Evaluation
    profile: Profile
    skipped: tuple[tuple[str, str], ...]
    table: SensitivityTable
    trials: tuple[Measurement, ...]
    timings: dict[str, float] = field(default_factory=dict)


def _no_progress(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda n: None)


def compress_generator(
    generator: nn.Module,
    latents: Tensor,
    *,
    fid_budget: float,
    evaluators: Evaluators,
    cost: LayerCost,
    recover: Recover,
    journal: Journal,
    executor: Executor | None = None,
    methods: Sequence[Method] = METHODS,
    fractions: Sequence[float] = FRACTIONS,
    max_trials: int = 6,
    progress: Progress = _no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> CompressionResult:
    """Find, recover and verify the cheapest factorization within an FID budget.

    `generator` maps `(n, latent_dim)` latents to images and is not changed. `latents` serve for
    activation statistics. `fid_budget` is an absolute rise; a plan meets it when the upper end of
    the interval of its recovered ΔFID does. `recover(build, plan)` calls `build()` for the
    factorized generator and returns the recovered one.
    The journal remembers every score, so a second call with the same one goes on.

    Raises:
        NothingToFactorizeError: none of `methods` makes any layer of the generator smaller.
    """
    executor = executor or SerialExecutor()
    timings = _Stopwatch(clock)

    # What is there to factorize, and which ways to do it deserve a measurement?
    with timings("profile"):
        profile = profile_layers(generator, latents[:2])
        layers, skipped = worthwhile_layers(profile, cost)
        statistics = input_covariances(generator, latents, [layer.name for layer in layers])
        moments = batch_moments(generator, latents)
    with timings("compete"), progress("ranking methods", len(layers)) as advance:
        choices = competing_choices(
            generator,
            layers,
            latents[:16],
            statistics,
            methods=methods,
            fractions=fractions,
            on_layer=advance,
        )
    if not choices:
        raise NothingToFactorizeError(
            f"none of the methods ({', '.join(methods) or 'none given'}) makes a layer smaller; "
            f"try {', '.join(METHODS)}"
        )

    def factorized(plan: RankPlan) -> nn.Module:
        if plan == DENSE:
            return generator
        changed = apply_plan(generator, plan, statistics)
        return correct_batchnorm(changed, generator, latents, dense_moments=moments)

    # How much does each layer hurt, alone?
    plans = [DENSE, *single_layer_plans(choices)]
    with timings("sweep"), progress("one layer at a time", len(plans)) as advance:
        dense, *singles = sweep(
            plans,
            Measure(factorized, evaluators.single),
            executor,
            journal,
            on_measured=advance,
        )
    table = SensitivityTable.from_measurements(dense, singles, layers)

    # Which plan is the cheapest that the budget allows, measured as a whole and after recovery?
    def recovered(plan: RankPlan) -> nn.Module:
        return recover(lambda: factorized(plan), plan)

    measure_joint = Measure(recovered, evaluators.joint)
    measure_final = Measure(recovered, evaluators.final)
    controller = BudgetController(table, layers, cost, fid_budget, max_trials=max_trials)
    with timings("joint plans"), progress("joint plans, recovered", max_trials) as advance:
        while True:
            while (plan := controller.ask()) is not None:
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
            Measure(factorized, evaluators.factorized or evaluators.final),
            executor,
            journal,
            stage="factorized",
        )
    return CompressionResult(
        plan=chosen.plan,
        generator=recovered(chosen.plan),
        budget_met=met,
        factorized=before.evaluation,
        recovered=final.evaluation,
        profile=profile,
        skipped=(*profile.skipped, *skipped),
        table=table,
        trials=controller.trials,
        timings=timings.seconds,
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


class _Stopwatch:
    """Seconds spent under each name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Lap:
        return _Lap(self, name)


class _Lap(AbstractContextManager[None]):
    def __init__(self, watch: _Stopwatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __enter__(self) -> None:
        self.started = self.watch.clock()

    def __exit__(self, *exception: object) -> None:
        elapsed = self.watch.clock() - self.started
        self.watch.seconds[self.name] = self.watch.seconds.get(self.name, 0.0) + elapsed
