"""Factors multiplied out again: the result computes what they compute."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import lively_generator
from torch import Tensor, nn

from ard.assembly.recomposition import recompose, recomposed_weight
from ard.assembly.surgery import apply_plan, assemble, kernels_of, random_factors, weight_of
from ard.factorization.methods import METHODS
from ard.layers import describe_layer
from ard.plan import ActivationForm, Factorization, RankPlan
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.layer_types import Layer
from nas_gan.networks.searched import Generator

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 8), ()),
    "convolution": (nn.Conv2d(6, 8, 3, padding=1), (7, 5)),
    "strided and dilated": (nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), (1, 2), bias=False), (9, 10)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=2), (7, 5)),
    "same": (nn.Conv2d(6, 8, (3, 5), padding="same"), (7, 5)),
    "transposed": (nn.ConvTranspose2d(6, 8, 4, 2, 1), (5, 4)),
    "transposed grouped": (nn.ConvTranspose2d(8, 12, (3, 4), 2, (1, 0), groups=2), (5, 4)),
    "line": (nn.Conv1d(6, 8, 5, 2, 4, 2), (13,)),
    "volume": (nn.Conv3d(4, 8, (3, 2, 3), (1, 2, 1), (1, 0, 2)), (4, 5, 4)),
}
EVERY = [
    pytest.param(layer, shape, method, id=f"{name}-{method}")
    for name, (layer, shape) in LAYERS.items()
    for method in describe_layer("", layer).methods()
]


def values(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layer", "shape", "method"), EVERY)
def test_a_layer_with_the_recomposed_weight_does_what_random_factors_do(
    layer: Layer, shape: tuple[int, ...], method: str
) -> None:
    layer = copy.deepcopy(layer).double()
    described = describe_layer("", layer)
    choice = Factorization(method, (described.groups * 2,) * len(METHODS[method].ranks))
    factors = random_factors(layer, choice)
    x = values(2, described.shape[1], *shape)
    layer.weight.data = recomposed_weight(layer, method, factors)
    torch.testing.assert_close(layer(x), factors(x))


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_kernels_of_a_layer_make_its_weight_again(layer: Layer, shape: tuple[int, ...]) -> None:
    assert torch.equal(weight_of(layer, kernels_of(layer)), layer.weight)


def images(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(latent_bank(4, 120, 0))


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


CONV = "cell1.c0.ops.0.op.1"
PLAN = RankPlan({CONV: Factorization("tucker2", (2, 2)), "l1": Factorization("svd", (3,))})


def trained(dense: Generator, plan: RankPlan) -> nn.Module:
    """The compressed generator with every parameter moved."""
    network = apply_plan(dense, plan)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=rng))
    return network


def test_a_recomposed_generator_draws_what_the_trained_one_draws(dense: Generator) -> None:
    network = trained(dense, PLAN)
    result = recompose(dense, network, PLAN, PLAN)
    torch.testing.assert_close(images(result), images(network))
    assert {n: p.shape for n, p in result.named_parameters()} == {
        n: p.shape for n, p in dense.named_parameters()
    }


def test_it_can_be_factorized_further_and_exactly_as_far_as_before(dense: Generator) -> None:
    network = trained(dense, PLAN)
    again = apply_plan(recompose(dense, network, PLAN, PLAN), PLAN)
    torch.testing.assert_close(images(again), images(network), rtol=1e-3, atol=1e-3)
    harsher = PLAN.with_layer("l1", Factorization("svd", (1,)))
    sharpened = apply_plan(recompose(dense, network, PLAN, harsher), harsher)
    assert not torch.allclose(images(sharpened), images(network), atol=1e-2)


def test_the_generators_that_it_was_made_of_stay_as_they_were(dense: Generator) -> None:
    network = trained(dense, PLAN)
    before = [images(dense), images(network)]
    result = recompose(dense, network, PLAN, PLAN)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.zero_()
    assert torch.equal(images(dense), before[0])
    assert torch.equal(images(network), before[1])


def test_a_trained_gate_stays_if_the_next_plan_has_one_there_and_else_the_activation_returns(
    dense: Generator,
) -> None:
    site = "cell1.c0.ops.0.op.0"
    plan = PLAN.with_layer(site, ActivationForm("gate"))
    network = trained(dense, plan)
    kept = recompose(dense, network, plan, plan)
    torch.testing.assert_close(images(kept), images(network))
    returned = recompose(dense, network, plan, PLAN)
    assert type(returned.get_submodule(site)) is type(dense.get_submodule(site))
    # And the kept gate can be replaced by another one.
    again = apply_plan(kept, plan)
    torch.testing.assert_close(images(again), images(network), rtol=1e-2, atol=1e-2)


def test_layers_that_share_a_weight_share_the_recomposed_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    twice, plan = Twice(), RankPlan({"a": Factorization("svd", (2,))})
    network = apply_plan(twice, plan)
    result = recompose(twice, network, plan, plan)
    assert result.get_parameter("a.weight") is result.get_parameter("b.weight")
    x = values(3, 6).float()
    torch.testing.assert_close(result(x), network(x))


def test_factors_put_together_for_a_layer_recompose_to_their_product() -> None:
    layer = nn.Linear(2, 2, bias=False)
    first, then = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    factors = assemble(layer, "svd", [[first[:, :, None, None], then[:, :, None, None]]])
    expected = torch.tensor([[3.0, 6.0], [4.0, 8.0]])
    assert torch.equal(recomposed_weight(layer, "svd", factors), expected)
