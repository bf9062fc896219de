"""What every implementation of a seam must do, written once and subclassed for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from ard.errors import ArdError
from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.executors import Executor
from ard.measuring.journal import Journal
from ard.measuring.measurement import Measurement
from ard.measuring.score import Score
from ard.plan import DENSE, Factorization, RankPlan


def scored(delta: float, half: float = 0.1) -> Score:
    """A rise of `delta` over a dense distance of 40, with an interval of `half` to either side."""
    return Score(
        metric="fid",
        value=40.0 + delta,
        rise=float(delta),
        ci_low=delta - half,
        ci_high=delta + half,
        n_images=1000,
        features="made up",
        measured=True,
    )


def exactly(value: float, dense: float) -> Score:
    """A distance of `value` where the dense generator has `dense`, known without doubt."""
    return replace(scored(0, 0), value=value, rise=value - dense, ci_low=0.0, ci_high=0.0)


class ExecutorContract:
    """A subclass gives the fixture `executor`."""

    def test_every_item_comes_back_once_with_its_own_result(self, executor: Executor) -> None:
        results = list(executor.run(lambda item: item * item, [3, 1, 2]))
        assert sorted(results) == [(1, 1), (2, 4), (3, 9)]

    def test_no_items_give_no_results(self, executor: Executor) -> None:
        assert list(executor.run(lambda item: item, [])) == []

    def test_plans_and_evaluations_survive_the_way_there_and_back(self, executor: Executor) -> None:
        plan, evaluation = RankPlan({"l1": Factorization("svd", (8,))}), scored(1)
        [(item, result)] = executor.run(lambda plan: (evaluation, plan["l1"]), [plan])
        assert (item, result) == (plan, (evaluation, plan["l1"]))

    def test_what_the_function_closes_over_goes_with_it(self, executor: Executor) -> None:
        weight = torch.arange(3.0)
        results = dict(executor.run(lambda k: (weight * k).sum().item(), [1, 2]))
        assert results == {1: 3.0, 2: 6.0}

    def test_an_error_of_the_function_keeps_its_type_and_its_message(
        self, executor: Executor
    ) -> None:
        def refuse(item: int) -> int:
            raise ArdError(f"cannot do {item}")

        with pytest.raises(ArdError, match="cannot do 7"):
            list(executor.run(refuse, [7]))


class JournalContract:
    """A subclass gives the fixture `journal`, empty."""

    def test_a_new_journal_is_empty(self, journal: Journal) -> None:
        assert list(journal.measurements()) == []

    def test_measurements_come_back_in_the_order_in_which_they_were_made(
        self, journal: Journal
    ) -> None:
        plan = RankPlan({"b": Factorization("tucker2", (4, 2)), "a": Factorization("svd", (1,))})
        other = RankPlan({"a": Factorization("svd", (2,))})
        made = [
            Measurement("single", DENSE, scored(0)),
            Measurement("recovered", plan, scored(0.1 + 0.2)),
            Measurement("recovered", plan, scored(0.1), history=(plan,)),
            Measurement("recovered", plan, scored(0.2), history=(other, plan)),
            Measurement("recovered", plan, scored(0.3), history=(other, other)),
            Measurement("single", plan, scored(1 / 3)),
        ]
        for measurement in made:
            journal.append(measurement)
        assert list(journal.measurements()) == made

    def test_appending_while_reading_does_not_disturb_the_reader(self, journal: Journal) -> None:
        journal.append(Measurement("single", DENSE, scored(0)))
        reader: Iterator[Measurement] = journal.measurements()
        journal.append(Measurement("final", DENSE, scored(1)))
        assert len(list(reader)) == 1


class EvaluatorContract:
    """A subclass gives `evaluator`, the `dense` generator, and a `candidate` unlike it."""

    def test_the_dense_generator_rises_by_nothing(
        self, evaluator: Evaluator, dense: nn.Module
    ) -> None:
        evaluation = evaluator(Candidate(lambda: dense, DENSE))
        assert (evaluation.rise, evaluation.ci_low, evaluation.ci_high) == (0, 0, 0)

    def test_the_rise_lies_inside_its_interval(
        self, evaluator: Evaluator, candidate: Candidate
    ) -> None:
        evaluation = evaluator(candidate)
        assert evaluation.ci_low <= evaluation.rise <= evaluation.ci_high
        assert evaluation.ci_low < evaluation.ci_high

    def test_the_same_candidate_scores_the_same_twice(
        self, evaluator: Evaluator, candidate: Candidate
    ) -> None:
        assert evaluator(candidate) == evaluator(Candidate(candidate.build, candidate.plan))

    def test_the_score_says_how_many_images_and_whose_features(
        self, evaluator: Evaluator, candidate: Candidate
    ) -> None:
        evaluation = evaluator(candidate)
        assert evaluation.n_images > 1
        assert evaluation.metric
        assert evaluation.measured
        assert evaluation.features or evaluation.metric not in ("fid", "kid", "mmd")
