from __future__ import annotations

import copy

import pytest
import torch
from tiny import lively_generator
from torch import Tensor, nn

from ard.errors import NonFiniteError
from ard.plan import Factorization, RankPlan
from ard.recovery import Recovery, batch_moments, correct_batchnorm, recover
from ard.surgery import apply_plan
from nas_gan.metrics.sampling import latent_bank
from nas_gan.networks import Generator

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
    return recover(factorized, dense, QUICK, selection=selection, latent_dim=dense.latent_dim)


def image_error(student: nn.Module, teacher: nn.Module, latents: Tensor) -> float:
    with torch.no_grad():
        return (student(latents) - teacher(latents)).abs().mean().item()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- recover


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
    new = recover(student, teacher, settings, selection=selection, latent_dim=dense.latent_dim)
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
    new = recover(factorized, dense, settings, selection=selection, latent_dim=dense.latent_dim)
    assert image_error(new, dense, selection) <= image_error(factorized, dense, selection)


def test_an_absurd_learning_rate_returns_the_start_itself(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    settings = Recovery(n_steps=6, batch_size=4, lr=1e30, n_checks=6)
    new = recover(factorized, dense, settings, selection=selection, latent_dim=dense.latent_dim)
    assert same(state_of(new), state_of(factorized))


def test_no_steps_give_an_equal_copy(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    settings = Recovery(n_steps=0)
    new = recover(factorized, dense, settings, selection=selection, latent_dim=dense.latent_dim)
    assert new is not factorized
    assert same(state_of(new), state_of(factorized))


def test_the_same_settings_give_the_same_weights_and_another_seed_others(
    dense: Generator, factorized: nn.Module, selection: Tensor
) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        settings = Recovery(n_steps=4, batch_size=4, seed=seed)
        torch.manual_seed(seed * 7 + torch.initial_seed() % 5)  # the global state plays no part
        return state_of(
            recover(factorized, dense, settings, selection=selection, latent_dim=dense.latent_dim)
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
        latent_dim=dense.latent_dim,
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
            latent_dim=dense.latent_dim,
        )


# -- correct_batchnorm


class Normalised(nn.Module):
    """`gain * z + offset`, normalised, twice in a row if asked."""

    def __init__(self, gain: float, offset: float, n_norms: int = 1) -> None:
        super().__init__()
        self.latent_dim = 2
        self.scale = nn.Linear(2, 2)
        with torch.no_grad():
            self.scale.weight.copy_(gain * torch.eye(2))
            self.scale.bias.fill_(offset)
        self.norms = nn.Sequential(*(nn.BatchNorm1d(2, eps=1e-12) for _ in range(n_norms)))
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.tensor([0.5, -1.0]))
            norm.running_var.copy_(torch.tensor([4.0, 0.25]))

    def forward(self, z: Tensor) -> Tensor:
        return self.norms(self.scale(z))


LATENTS = torch.tensor([[0.0, 2.0], [2.0, 4.0], [1.0, 3.0]])  # means 1 and 3, variances 2/3


def statistics(module: nn.Module) -> list[list[float]]:
    return [t.tolist() for n, t in module.state_dict().items() if "running" in n]


def test_a_net_that_was_not_factorized_keeps_its_batch_statistics() -> None:
    net = Normalised(1.0, 0.0).eval()
    assert statistics(correct_batchnorm(net, net, LATENTS)) == statistics(net)


def test_means_move_by_the_difference_and_variances_by_the_ratio() -> None:
    dense, factorized = Normalised(1.0, 0.0).eval(), Normalised(3.0, 10.0).eval()
    corrected = correct_batchnorm(factorized, dense, LATENTS)
    # Inputs 3 z + 10: means 13 and 19 where they were 1 and 3, and nine times the variance.
    assert statistics(corrected) == [
        pytest.approx([0.5 + 12, -1.0 + 16]),
        pytest.approx([36.0, 2.25]),
    ]
    assert statistics(factorized) == statistics(dense)


def test_an_affine_change_in_front_of_one_or_two_norms_is_undone() -> None:
    for n_norms in (1, 2):
        dense, factorized = Normalised(1, 0, n_norms).eval(), Normalised(1, 5, n_norms).eval()
        corrected = correct_batchnorm(factorized, dense, LATENTS)
        torch.testing.assert_close(corrected(LATENTS), dense(LATENTS))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    dense, factorized = Normalised(1.0, 0.0).eval(), Normalised(3.0, 10.0).eval()
    one = statistics(correct_batchnorm(factorized, dense, LATENTS, batch_size))
    assert one == [
        pytest.approx(row) for row in statistics(correct_batchnorm(factorized, dense, LATENTS))
    ]


def test_a_feature_map_counts_position_by_position() -> None:
    def net(gain: float) -> nn.Module:
        conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(conv.weight, gain)
        return nn.Sequential(conv, nn.BatchNorm2d(1)).eval()

    images = torch.arange(8.0).view(2, 1, 2, 2)  # mean 3.5, and its double's is 7
    corrected = correct_batchnorm(net(2.0), net(1.0), images)
    assert statistics(corrected) == [[pytest.approx(3.5)], [pytest.approx(4.0)]]


def test_a_net_without_batch_normalisation_is_copied() -> None:
    net = nn.Linear(2, 2)
    copied = correct_batchnorm(net, net, LATENTS)
    assert copied is not net
    assert same(state_of(copied), state_of(net))


def test_moments_of_the_dense_net_taken_once_give_the_same_correction(dense, factorized):
    latents = latent_bank(8, dense.latent_dim, seed=1)
    moments = batch_moments(dense, latents)
    given = correct_batchnorm(factorized, dense, latents, dense_moments=moments)
    assert same(state_of(given), state_of(correct_batchnorm(factorized, dense, latents)))
