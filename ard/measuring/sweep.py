"""Measuring many plans, except for those that the journal already holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.executors import Executor
from ard.measuring.journal import Journal
from ard.measuring.measurement import History, Measurement, Stage
from ard.measuring.score import Score
from ard.plan import RankPlan, Replacement

NO_HISTORY: Mapping[RankPlan, History] = MappingProxyType({})


@dataclass(frozen=True)
class Measure:
    """A function from a plan to its score: build the candidate, then evaluate it."""

    build: Callable[[RankPlan], nn.Module]
    evaluate: Evaluator

    def __call__(self, plan: RankPlan) -> Score:
        return self.evaluate(Candidate(partial(self.build, plan), plan))


def only_score(plan: RankPlan, score: Score) -> Score:
    """The score of a measurement that makes nothing else."""
    return score


def sweep(
    plans: Sequence[RankPlan],
    measure: Callable[[RankPlan], Any],
    executor: Executor,
    journal: Journal,
    *,
    stage: Stage = "single",
    bank: int = 0,
    histories: Mapping[RankPlan, History] = NO_HISTORY,
    on_measured: Callable[[int], None] = lambda n: None,
    take: Callable[[RankPlan, Any], Score] = only_score,
) -> list[Measurement]:
    """Measure every plan that the journal does not hold yet.

    Each new measurement is recorded before the next one starts, so an interrupted sweep resumes
    without measuring anything twice.

    Args:
        plans: the plans to measure.
        measure: maps a plan to its score, or to whatever `take` finds a score in.
        executor: runs the measurements.
        journal: holds earlier measurements and records new ones.
        stage: how the plans are scored; only measurements of the same stage are reused.
        bank: recorded with each new measurement; see `Measurement`.
        histories: of the plans whose recovery by `measure` does not begin with the dense generator.
        on_measured: called with the number of plans that were finished since the last call.
        take: receives each plan with its result, in this process, and returns the score; it can
            keep what else a worker has made.

    Returns:
        One measurement per plan, in the order of `plans`.
    """
    known = {
        m.plan: m
        for m in journal.measurements()
        if m.stage == stage and m.history == histories.get(m.plan, ())
    }
    pending = [plan for plan in dict.fromkeys(plans) if plan not in known]
    on_measured(len(plans) - len(pending))
    for plan, result in executor.run(measure, pending):
        history = histories.get(plan, ())
        known[plan] = Measurement(stage, plan, take(plan, result), bank, history)
        journal.append(known[plan])
        on_measured(1)
    return [known[plan] for plan in plans]


def single_layer_plans(choices: Iterable[tuple[str, Replacement]]) -> list[RankPlan]:
    """One plan per (layer, choice)."""
    return [RankPlan({name: choice}) for name, choice in choices]
