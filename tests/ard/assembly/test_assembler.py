from __future__ import annotations

import pytest
import torch
from tiny import SmallNet
from torch import Tensor, nn

from ard.assembly.assembler import Assembler, passes_of
from ard.assembly.closed_form import Fit
from ard.assembly.surgery import apply_plan, describe_structure
from ard.layers import profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from nas_gan.networks.adapting import adapt_
from nas_gan.networks.interface import Calling, GeneratorInterface
from nas_gan.networks.latents import latent_bank

LATENTS = latent_bank(32, 8, seed=3)
FRONT = RankPlan({"linear": Factorization("svd", (5,)), "conv1": Factorization("tucker2", (6, 6))})
BACK = RankPlan({"conv2": Factorization("spatial_svd", (6,))})
PLAN = RankPlan({**FRONT, **BACK})


@pytest.fixture(scope="module")
def dense() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="module")
def assemble(dense: SmallNet) -> Assembler:
    return measured(dense, "moments")


def measured(dense: nn.Module, fit: Fit) -> Assembler:
    layers = profile_layers(dense, LATENTS[:2]).layers
    return Assembler.measure(dense, LATENTS, layers, fit=fit)


def error(net: nn.Module, dense: nn.Module) -> float:
    fresh = latent_bank(64, 8, seed=4)
    return (net(fresh) - dense(fresh)).square().mean().item()


def test_the_passes_of_the_statistics_are_told_as_they_are_made(dense: SmallNet) -> None:
    for n in (5, 32):
        told: list[int] = []
        layers = profile_layers(dense, LATENTS[:2]).layers
        Assembler.measure(dense, LATENTS[:n], layers, on_passes=told.append)
        assert sum(told) == passes_of(n) == 6 * n  # one pass, and one with two backward ones of two
        assert len(told) > 1


class Styled(nn.Module):
    """A network that takes its latents inside a list, as some StyleGAN2 code does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()

    def forward(self, styles: list[Tensor]) -> Tensor:
        return self.net(styles[0])


def test_the_passes_of_a_network_that_takes_a_list_are_those_of_its_images() -> None:
    calling = Calling(("styles",), (8,), listed=True)
    styled = adapt_(Styled(), GeneratorInterface(8, 0, (3, 16, 16), calling=calling))
    told: list[int] = []
    layers = profile_layers(styled, LATENTS[:2]).layers
    Assembler.measure(styled, LATENTS[:5], layers, on_passes=told.append)
    assert sum(told) == passes_of(5)


def test_the_empty_plan_is_the_dense_generator_itself(assemble: Assembler, dense: SmallNet) -> None:
    assert assemble(DENSE) is dense
    base = assemble(FRONT)
    assert assemble(DENSE, base) is base


def test_two_parts_on_one_another_have_the_structure_of_the_whole(assemble: Assembler) -> None:
    whole, parts = assemble(PLAN), assemble(BACK, assemble(FRONT))
    assert describe_structure(parts, PLAN) == describe_structure(whole, PLAN)
    shapes = [{n: t.shape for n, t in net.state_dict().items()} for net in (whole, parts)]
    assert shapes[0] == shapes[1]


def test_a_part_on_a_base_leaves_the_base_and_its_factors_as_they_are(
    assemble: Assembler,
) -> None:
    base = assemble(FRONT)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    both = assemble(BACK, base).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    factors = [name for name in before if name.startswith(("linear.", "conv1."))]
    assert all(torch.equal(both[name], before[name]) for name in factors)


def test_building_changes_nothing_of_the_dense_generator(
    assemble: Assembler, dense: SmallNet
) -> None:
    built = assemble(PLAN)
    assert all(torch.equal(dense.state_dict()[n], t) for n, t in SmallNet().state_dict().items())
    own = {tensor.data_ptr() for tensor in dense.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in built.state_dict().values()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dense.modules())


def test_a_plan_built_twice_has_the_same_weights(assemble: Assembler) -> None:
    first, second = (assemble(PLAN).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_repaired_plans_are_nearer_to_the_dense_images_than_bare_ones(
    assemble: Assembler, dense: SmallNet
) -> None:
    fitted = measured(dense, "least_squares")
    assert error(fitted(PLAN), dense) < error(apply_plan(dense, PLAN), dense)
    assert error(assemble(PLAN), dense) < error(apply_plan(dense, PLAN), dense)


def test_batch_statistics_follow_the_factorized_activations(
    assemble: Assembler, dense: SmallNet
) -> None:
    norm = assemble(PLAN).get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert dense.norm.running_mean is not None
    assert not torch.equal(norm.running_mean, dense.norm.running_mean)


def test_without_a_fit_nothing_is_kept_to_be_fitted_to(dense: SmallNet) -> None:
    assert not measured(dense, "none").outputs
    assert set(measured(dense, "moments").outputs) == set(measured(dense, "none").statistics)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(z)))


def test_layers_that_share_their_factors_are_not_fitted_to_one_of_them() -> None:
    net = Tied()
    assemble = measured(net, "moments")
    plan = RankPlan({"first": Factorization("svd", (3,))})
    built = assemble(plan)
    bare = apply_plan(net, plan, assemble.statistics)
    assert torch.equal(built(LATENTS), bare(LATENTS))
