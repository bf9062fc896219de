"""Measuring plans one after another; what a journal knows is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.executors import Executor
from ard.measuring.journal import Journal
from ard.measuring.measurement import Measurement, Stage
from ard.measuring.score import Score
from ard.plan import Factorization, RankPlan


@dataclass(frozen=True)
class Measure:
    """Plan to score: build the candidate, then score it."""

    build: Callable[[RankPlan], nn.Module]
    evaluate: Evaluator

    def __call__(self, plan: RankPlan) -> Score:
        return self.evaluate(Candidate(partial(self.build, plan), plan))


def sweep(
    plans: Sequence[RankPlan],
    measure: Callable[[RankPlan], Score],
    executor: Executor,
    journal: Journal,
    *,
    stage: Stage = "single",
    on_measured: Callable[[int], None] = lambda n: None,
) -> list[Measurement]:
    """Measure every plan, in order, reading from the journal what it already holds.

    Each new measurement is in the journal before the next one starts, so an interrupted sweep
    resumes without measuring anything twice. `on_measured(n)` is told of finished plans.
    """
    known = {m.plan: m for m in journal.measurements() if m.stage == stage}
    pending = [plan for plan in dict.fromkeys(plans) if plan not in known]
    on_measured(len(plans) - len(pending))
    for plan, score in executor.run(measure, pending):
        known[plan] = Measurement(stage, plan, score)
        journal.append(known[plan])
        on_measured(1)
    return [known[plan] for plan in plans]


def single_layer_plans(choices: Iterable[tuple[str, Factorization]]) -> list[RankPlan]:
    """One plan for each (layer, choice)."""
    return [RankPlan({name: choice}) for name, choice in choices]
