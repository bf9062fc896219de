from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import lively_generator, takes
from torch import Tensor, nn

from ard.assembly.surgery import apply_plan
from ard.errors import NonFiniteError
from ard.plan import Factorization, RankPlan
from ard.recovery.distillation import (
    N_FINITE,
    KeepBest,
    Recovery,
    feature_distance,
    recover,
    rows_of,
    snapshot,
)
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.networks.searched import Generator
from nas_gan.training.draws import StepLatents

PLAN = RankPlan(
    {
        f"cell{cell}.{edge}.ops.0.op.1": Factorization("tucker2", (3, 3))
        for cell, edge in ((1, "c0"), (1, "c3"), (2, "c0"), (2, "c2"), (3, "c0"), (3, "c4"))
    }
)
QUICK = Recovery(n_steps=40, batch_size=16, lr=3e-3, n_checks=4)


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


@pytest.fixture(scope="module")
def factorized(dense: Generator) -> nn.Module:
    return apply_plan(dense, PLAN)


@pytest.fixture(scope="module")
def selection(dense: Generator) -> Tensor:
    return latent_bank(32, dense.latent_dim, 1)


@pytest.fixture(scope="module")
def recovered(dense: Generator, factorized: nn.Module, selection: Tensor) -> nn.Module:
    return recover(factorized, dense, QUICK, selection=selection, latents=draws(QUICK, dense))


def draws(settings: Recovery, generator: Generator) -> StepLatents:
    return StepLatents(settings.seed, settings.batch_size, interface_of(generator))


def image_error(student: nn.Module, teacher: nn.Module, latents: Tensor) -> float:
    with torch.no_grad():
        return (student(latents) - teacher(latents)).abs().mean().item()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_recovery_lowers_the_error_on_latents_it_never_saw(
    dense: Generator, factorized: nn.Module, recovered: nn.Module
) -> None:
    fresh = latent_bank(64, dense.latent_dim, 2)
    assert image_error(recovered, dense, fresh) < 0.8 * image_error(factorized, dense, fresh)


def test_teacher_and_student_keep_their_weights_and_their_modes(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    teacher, student = copy.deepcopy(dense).train(), copy.deepcopy(factorized).train()
    before = state_of(teacher), state_of(student)
    settings = Recovery(n_steps=3, batch_size=4)
    new = recover(student, teacher, settings, selection=selection, latents=draws(settings, dense))
    assert same(state_of(teacher), before[0])
    assert same(state_of(student), before[1])
    assert teacher.training
    assert student.training
    assert not same(state_of(new), before[1])


def test_the_result_is_ready_for_use(recovered: nn.Module) -> None:
    assert not any(module.training for module in recovered.modules())
    assert not any(parameter.requires_grad for parameter in recovered.parameters())


@pytest.mark.parametrize("lr", [1e-6, 0.1, 1e3, 1e30])
def test_the_result_is_never_worse_than_the_start_on_the_selection_latents(
    dense: Generator, factorized: nn.Module, selection: Tensor, lr: float
) -> None:
    settings = Recovery(n_steps=6, batch_size=4, lr=lr, n_checks=3)
    new = recover(factorized, dense, settings, selection=selection, latents=draws(settings, dense))
    assert image_error(new, dense, selection) <= image_error(factorized, dense, selection)


def test_an_absurd_learning_rate_returns_the_start_itself(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    settings = Recovery(n_steps=6, batch_size=4, lr=1e30, n_checks=6)
    new = recover(factorized, dense, settings, selection=selection, latents=draws(settings, dense))
    assert same(state_of(new), state_of(factorized))


def test_no_steps_give_an_equal_copy(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    settings = Recovery(n_steps=0)
    new = recover(factorized, dense, settings, selection=selection, latents=draws(settings, dense))
    assert new is not factorized
    assert same(state_of(new), state_of(factorized))


def test_the_same_settings_give_the_same_weights_and_another_seed_others(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        settings = Recovery(n_steps=4, batch_size=4, seed=seed)
        torch.manual_seed(seed * 7 + torch.initial_seed() % 5)  # the global state plays no part
        return state_of(
            recover(
                factorized, dense, settings, selection=selection, latents=draws(settings, dense)
            )
        )

    first = run(0)
    assert same(first, run(0))
    assert not same(first, run(1))


@pytest.mark.parametrize(("n_steps", "n_checks"), [(1, 6), (5, 2), (7, 3), (4, 4)])
def test_progress_counts_every_update(
    dense: Generator, factorized: nn.Module, selection: Tensor, n_steps: int, n_checks: int
) -> None:
    told: list[int] = []
    recover(
        factorized,
        dense,
        Recovery(n_steps=n_steps, batch_size=2, n_checks=n_checks),
        selection=selection[:2],
        latents=draws(Recovery(n_steps=n_steps, batch_size=2, n_checks=n_checks), dense),
        on_update=told.append,
    )
    assert told == [1] * n_steps


def test_a_student_whose_images_are_not_finite_is_an_error(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    broken = copy.deepcopy(factorized)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite before the first update"):
        recover(
            broken,
            dense,
            Recovery(n_steps=2, batch_size=2),
            selection=selection[:2],
            latents=draws(Recovery(n_steps=2, batch_size=2), dense),
        )


# -- what is kept, and what shrinks


def test_the_best_state_is_that_of_the_smallest_score_the_first_of_equals() -> None:
    net = nn.Linear(1, 1, bias=False)
    scores = iter([3.0, 4.0, 1.0, 2.0, 1.0, float("nan")])
    net.weight.data.fill_(0.0)
    best = KeepBest(net, lambda network: next(scores))
    for index in range(1, 6):
        net.weight.data.fill_(float(index))
        best(index, {})
    assert best.error == 1.0
    assert best.state["weight"].item() == 2.0


def test_a_snapshot_does_not_follow_its_module() -> None:
    net = nn.BatchNorm1d(2)
    taken = snapshot(net)
    net.train()(torch.randn(8, 2))
    assert taken["running_mean"].tolist() == [0, 0]
    assert taken.keys() == net.state_dict().keys()


def test_the_state_that_the_score_prefers_wins_not_the_one_with_the_smallest_error(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    scores: list[float] = []

    def worse_and_worse(network: nn.Module) -> float:
        scores.append(float(len(scores)))
        return scores[-1]

    new = recover(
        factorized,
        dense,
        Recovery(n_steps=4, batch_size=4, lr=3e-3, n_checks=2),
        selection=selection[:4],
        latents=draws(Recovery(n_steps=4, batch_size=4, lr=3e-3, n_checks=2), dense),
        score=worse_and_worse,
    )
    assert scores == [0, 1, 2]  # the start, and two checks
    assert same(state_of(new), state_of(factorized))


def test_training_makes_the_given_distance_smaller(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    asked: list[float] = []

    def red_alone(images: Tensor, target: Tensor) -> Tensor:
        distance = (images - target)[:, 0].square().mean()
        asked.append(distance.item())
        return distance

    settings = Recovery(n_steps=15, batch_size=16, lr=3e-3, n_checks=1)
    new = recover(
        factorized,
        dense,
        settings,
        selection=selection[:4],
        latents=draws(settings, dense),
        distance=red_alone,
        score=lambda network: -float(len(asked)),  # always the last state
    )
    assert len(asked) == 15
    fresh = latent_bank(32, dense.latent_dim, 2)
    with torch.no_grad():
        before, after = (
            (net(fresh) - dense(fresh))[:, 0].square().mean() for net in (factorized, new)
        )
    assert after < before


class Eye(nn.Module):
    """A discriminator of two maps that can be worked out by hand: twice the image, and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 1, bias=False)
        self.mean = nn.AvgPool2d(2)
        self.flat = nn.Flatten()
        self.twice.weight.data.fill_(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.mean(self.twice(x)))


def test_features_differ_by_a_share_of_their_target_by_hand() -> None:
    target, images = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    images[0, 0, 0, 0] = 5.0
    # The image differs by 1 on average; both maps by a mean of 2 where the target's is 2.
    assert feature_distance(Eye(), 0.0)(images, target).item() == pytest.approx(1.0)
    assert feature_distance(Eye(), 3.0)(images, target).item() == pytest.approx(1.0 + 3.0 * 1.0)
    # Two changes of opposite sign are seen by the first map, and not by the mean.
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 3.0, -1.0
    found = feature_distance(Eye(), 1.0)(images, target)
    assert found.item() == pytest.approx(1.0 + (1.0 + 0.0) / 2)


def test_a_feature_distance_has_gradients_in_the_images_alone() -> None:
    judge = Eye()
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    target = torch.rand(2, 1, 4, 4, requires_grad=True)
    feature_distance(judge, 1.0)(images, target.detach()).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert judge.twice.weight.grad is None
    assert not judge.twice._forward_hooks  # the given one is left alone


def test_a_discriminator_without_maps_leaves_the_image_distance() -> None:
    distance = feature_distance(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), 9.0)
    assert distance(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 1.0


def test_factors_may_have_a_rate_of_their_own(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    scores = iter((3.0, 2.0, 1.0, 0.0))  # every check is better than the one before
    new = recover(
        factorized,
        dense,
        Recovery(n_steps=3, batch_size=4, lr=1e-2, n_checks=3, factor_lr=0.0),
        selection=selection[:4],
        latents=draws(Recovery(n_steps=3, batch_size=4, lr=1e-2, n_checks=3, factor_lr=0.0), dense),
        score=lambda network: next(scores),
    )
    before, after = state_of(factorized), state_of(new)
    factors = {f"{name}.{i}.weight" for name in PLAN for i in range(3)}
    assert factors < before.keys()
    assert all(torch.equal(before[name], after[name]) for name in factors)
    assert not torch.equal(before["l1.weight"], after["l1.weight"])


def test_a_conditional_student_is_trained_on_latents_with_labels() -> None:
    net = nn.Sequential(nn.Linear(4 + 3, 8), nn.Unflatten(1, (2, 2, 2))).requires_grad_(False)
    student = copy.deepcopy(net)
    next(student.parameters()).add_(0.1)
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    selection = latents_of(takes(4, 3), 8, 1)
    settings = Recovery(n_steps=3, batch_size=5)
    recover(student, net, settings, selection=selection, latents=StepLatents(0, 5, takes(4, 3)))
    trained = [z for z in seen if len(z) == 5]
    assert len(trained) == 3
    assert all((z[:, 4:].sum(dim=1) == 1).all() for z in trained)


def test_given_latents_are_what_student_and_teacher_are_shown() -> None:
    net = nn.Conv2d(2, 3, 1).requires_grad_(False)
    student, shown = copy.deepcopy(net), []
    with torch.no_grad():
        student.weight.add_(0.1)

    def latents(index: int) -> Tensor:
        shown.append(index)
        return torch.full((2, 2, 4, 4), float(index))

    settings = Recovery(n_steps=3, batch_size=99)  # the latents are what they are
    selection = torch.zeros(1, 2, 4, 4)
    new = recover(student, net, settings, selection=selection, latents=latents)
    assert shown == [0, 1, 2]
    assert new(selection).shape == (1, 3, 4, 4)


def test_rows_of_a_bank_depend_on_the_seed_and_the_index_alone() -> None:
    bank = torch.arange(100.0)[:, None, None].expand(100, 2, 3)
    rows = rows_of(bank, 50, seed=1)
    batches = [rows(index) for index in (0, 1, 0)]
    assert all(batch.shape == (50, 2, 3) for batch in batches)
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], rows_of(bank, 50, seed=2)(0))
    assert len(batches[0].unique()) > 25  # of 100 rows, 50 draws hit 39 on average


def test_with_a_score_only_updates_and_a_first_look_draw_images(
    dense: Generator, factorized: nn.Module
) -> None:
    rows = {"teacher": 0, "student": 0}

    def counting(name: str, network: nn.Module) -> nn.Module:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], images: Tensor) -> None:
            rows[name] += len(images)

        network = copy.deepcopy(network)
        network.register_forward_hook(count)
        return network

    recover(
        *(counting("student", factorized), counting("teacher", dense)),
        Recovery(n_steps=3, batch_size=4),
        latents=draws(replace(QUICK, batch_size=4), dense),
        selection=latent_bank(100, dense.latent_dim, 1),
        score=lambda network: 0.0,
    )
    assert rows == {"teacher": 3 * 4, "student": N_FINITE + 3 * 4}
