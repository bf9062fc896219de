from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import EvaluatorContract, scored
from tiny import fid_evaluator, lively_generator
from torch import nn

from ard.assembly.surgery import apply_plan
from ard.errors import ArdError, NonFiniteError
from ard.measuring.evaluate import Candidate, ScoreEvaluator, TableEvaluator
from ard.measuring.fid import FidEvaluator
from ard.plan import DENSE, Factorization, RankPlan
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.searched import Generator

PLAN = RankPlan({"cell1.c0.ops.0.op.1": Factorization("tucker2", (2, 2))})


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


@pytest.fixture
def candidate(dense: Generator) -> Candidate:
    return Candidate(lambda: apply_plan(dense, PLAN), PLAN)


@pytest.fixture(scope="module")
def paired(dense: Generator) -> FidEvaluator:
    return fid_evaluator(dense, 96, 1)


class TestFidEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, paired: FidEvaluator) -> FidEvaluator:
        return paired


class TestScoreEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, dense: Generator) -> ScoreEvaluator:
        latents = latent_bank(6, dense.latent_dim, 3)
        target = dense(latents)
        return ScoreEvaluator(
            lambda net: (net(latents) - target).square().flatten(1).mean(dim=1), dense, "pixels"
        )

    def test_the_interval_is_that_of_paired_differences_by_hand(self) -> None:
        # Rises of 1, 2 and 3: mean 2, deviation 1, standard error 3 ** -0.5.
        scores = {False: torch.tensor([10.0, 20.0, 30.0]), True: torch.tensor([11.0, 22.0, 33.0])}
        evaluate = ScoreEvaluator(lambda net: scores[isinstance(net, nn.Tanh)], nn.Identity())
        found = evaluate(Candidate(lambda: nn.Tanh(), PLAN))
        assert (found.value, found.rise, found.n_images) == (22.0, 2.0, 3)
        half = 1.96 / 3**0.5
        assert (found.ci_low, found.ci_high) == pytest.approx((2 - half, 2 + half))

    def test_one_number_has_an_interval_of_no_width(self) -> None:
        evaluate = ScoreEvaluator(lambda net: 5.0 if isinstance(net, nn.Tanh) else 2.0, nn.ReLU())
        found = evaluate(Candidate(lambda: nn.Tanh(), PLAN))
        assert (found.rise, found.ci_low, found.ci_high, found.n_images) == (3, 3, 3, 1)

    def test_a_score_sees_no_training_and_no_gradients_and_leaves_the_mode(self) -> None:
        net = nn.Linear(2, 2).train()

        def score(network: nn.Module) -> float:
            assert not network.training
            assert not torch.is_grad_enabled()
            return 0.0

        ScoreEvaluator(score, net)(Candidate(lambda: net, PLAN))
        assert net.training

    def test_a_score_that_is_not_finite_names_the_plan(self) -> None:
        scores = {False: 0.0, True: float("nan")}
        evaluate = ScoreEvaluator(lambda net: scores[isinstance(net, nn.Tanh)], nn.ReLU())
        with pytest.raises(NonFiniteError, match=r"the plan cell1.*tucker2\(2, 2\) is NaN"):
            evaluate(Candidate(lambda: nn.Tanh(), PLAN))


class TestTableEvaluator(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> TableEvaluator:
        return TableEvaluator({DENSE: scored(0, half=0), PLAN: scored(1)})

    def test_no_generator_is_ever_built(self, evaluator: TableEvaluator) -> None:
        def build() -> nn.Module:
            raise AssertionError("built")

        assert evaluator(Candidate(build, PLAN)) == scored(1)

    def test_a_plan_that_was_never_recorded_is_named(self, evaluator: TableEvaluator) -> None:
        unknown = RankPlan({"l1": Factorization("svd", (3,))})
        with pytest.raises(ArdError, match=r"no score of the plan.*svd\(3\)"):
            evaluator(Candidate(lambda: nn.Identity(), unknown))


def test_a_candidate_builds_once_and_only_when_looked_at() -> None:
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(nn.Identity())
        return built[-1]

    candidate = Candidate(build, PLAN)
    assert not built
    assert candidate.generator is candidate.generator
    assert built == [candidate.generator]


def test_a_finished_generator_is_scored_without_a_plan() -> None:
    net = nn.Identity()
    candidate = Candidate.finished(net)
    assert candidate.generator is net
    assert candidate.plan is None
    with pytest.raises(ArdError, match="no score of a finished generator was recorded"):
        TableEvaluator({DENSE: scored(0)})(candidate)


@pytest.mark.parametrize("name", ["worst pixel", "", "Delta", "a,b", "../x"])
def test_a_name_that_cannot_be_a_column_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a metric"):
        ScoreEvaluator(lambda net: 0.0, nn.Identity(), name)


def test_the_rise_is_the_difference_of_the_two_distances_in_the_limit(
    paired: FidEvaluator, candidate: Candidate
) -> None:
    evaluation = paired(candidate)
    assert evaluation.value == pytest.approx(paired.paired.fid_dense + evaluation.rise)
    assert (evaluation.n_images, evaluation.features) == (96, "pixels")


def test_the_batch_size_does_not_change_the_score(dense: Generator, candidate: Candidate) -> None:
    evaluate = fid_evaluator(dense, 48, 1)
    a, b = evaluate(candidate), replace(evaluate, batch_size=7)(candidate)
    assert a.rise == pytest.approx(b.rise, rel=1e-3, abs=1e-3)  # a byte may flip


def test_scoring_leaves_the_candidate_and_its_mode_alone(
    paired: FidEvaluator, candidate: Candidate
) -> None:
    generator = candidate.generator.train()
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    paired(candidate)
    assert generator.training
    assert all(torch.equal(before[name], t) for name, t in generator.state_dict().items())
