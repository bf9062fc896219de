from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import EvaluatorContract, scored
from tiny import fid_evaluator, lively_generator
from torch import nn

from ard.errors import ArdError
from ard.evaluate import Candidate, FidEvaluator, TableEvaluator
from ard.plan import DENSE, Factorization, RankPlan
from ard.surgery import apply_plan
from nas_gan.networks import Generator

PLAN = RankPlan({"cell1.c0.ops.0.op.1": Factorization("tucker2", (2, 2))})


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


@pytest.fixture
def candidate(dense: Generator) -> Candidate:
    return Candidate(PLAN, lambda plan: apply_plan(dense, plan))


@pytest.fixture(scope="module")
def influence(dense: Generator) -> FidEvaluator:
    return fid_evaluator(dense, 96, 1)


@pytest.fixture(scope="module")
def bootstrap(dense: Generator) -> FidEvaluator:
    return fid_evaluator(dense, 96, 1, bootstrap=True)


class TestFidEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, influence: FidEvaluator) -> FidEvaluator:
        return influence


class TestFidEvaluatorWithBootstrap(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, bootstrap: FidEvaluator) -> FidEvaluator:
        return bootstrap


class TestTableEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> TableEvaluator:
        return TableEvaluator({DENSE: scored(0, half=0), PLAN: scored(1)})

    def test_no_generator_is_ever_built(self, evaluator: TableEvaluator) -> None:
        def build(plan: RankPlan) -> nn.Module:
            raise AssertionError("built")

        assert evaluator(Candidate(PLAN, build)) == scored(1)

    def test_a_plan_that_was_never_recorded_is_named(self, evaluator: TableEvaluator) -> None:
        unknown = RankPlan({"l1": Factorization("svd", (3,))})
        with pytest.raises(ArdError, match=r"no recorded evaluation.*svd\(3\)"):
            evaluator(Candidate(unknown, lambda plan: nn.Identity()))


def test_a_candidate_builds_once_and_only_when_looked_at() -> None:
    built: list[RankPlan] = []

    def build(plan: RankPlan) -> nn.Module:
        built.append(plan)
        return nn.Identity()

    candidate = Candidate(PLAN, build)
    assert not built
    assert candidate.generator is candidate.generator
    assert built == [PLAN]


def test_the_rise_is_the_difference_of_the_two_distances(
    influence: FidEvaluator, candidate: Candidate
) -> None:
    evaluation = influence(candidate)
    assert evaluation.fid == pytest.approx(influence.paired.fid_dense + evaluation.delta_fid)
    assert (evaluation.n_samples, evaluation.extractor) == (96, "pixels")


def test_the_batch_size_does_not_change_the_score(dense: Generator, candidate: Candidate) -> None:
    evaluate = fid_evaluator(dense, 48, 1)
    a, b = evaluate(candidate), replace(evaluate, batch_size=7)(candidate)
    assert a.delta_fid == pytest.approx(b.delta_fid, rel=1e-3, abs=1e-3)  # a byte may flip


def test_scoring_leaves_the_candidate_and_its_mode_alone(
    influence: FidEvaluator, candidate: Candidate
) -> None:
    generator = candidate.generator.train()
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    influence(candidate)
    assert generator.training
    assert all(torch.equal(before[name], t) for name, t in generator.state_dict().items())
