from __future__ import annotations

import itertools
from typing import cast

import pytest
import torch
from tiny import SmallNet
from torch import Tensor, nn

from ard.assembly.statistics import (
    capture_inputs,
    input_covariances,
    output_covariances,
    with_outputs,
)
from ard.assembly.surgery import factorize_layer
from ard.costs.cost import LayerCost, macs_cost, params_cost
from ard.factorization.methods import METHODS
from ard.factorization.whitening import covariance_root
from ard.grid import RankGrid
from ard.layers import LayerProfile, profile_layers
from ard.plan import Factorization
from ard.search.candidates import (
    MIN_SAVING,
    competing_choices,
    competitors,
    output_error,
)
from nas_gan.networks.latents import latent_bank

LATENTS = latent_bank(12, 8, seed=2)
FRACTIONS = (0.6, 0.4, 0.2, 0.1)


@pytest.fixture(scope="module")
def net() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="module")
def layers(net: SmallNet) -> tuple[LayerProfile, ...]:
    return profile_layers(net, LATENTS[:2]).layers


def compete(
    net: SmallNet,
    layers: tuple[LayerProfile, ...],
    methods: tuple[str, ...] = ("tucker2", "spatial_svd", "svd"),
    cost: LayerCost = params_cost,
) -> list[tuple[str, Factorization]]:
    statistics = input_covariances(net, LATENTS, [layer.name for layer in layers])
    return competing_choices(
        net, layers, LATENTS, statistics, grid=RankGrid(methods, FRACTIONS), cost=cost
    )


def test_inputs_are_what_enters_each_layer(net: SmallNet) -> None:
    found = capture_inputs(net, LATENTS, ["linear", "conv1"])
    assert torch.equal(found["linear"], LATENTS)
    assert torch.equal(found["conv1"], torch.tanh(net.linear(LATENTS)).view(-1, 16, 4, 4))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_the_error_is_a_share_of_the_outputs_norm_by_hand() -> None:
    dense, half = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[3.0, 0], [0, 4.0]]))
        half.weight.copy_(torch.tensor([[3.0, 0], [0, 0]]))
    rows = torch.eye(2)  # outputs (3, 0) and (0, 4): norm 5, and the second is lost
    assert output_error(dense, half, rows) == pytest.approx(4 / 5)
    # Nobody sees the second channel.
    assert output_error(dense, half, rows, torch.diag(torch.tensor([1.0, 0]))) == 0


def test_channels_of_a_map_stand_second() -> None:
    dense, half = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
        half.weight.copy_(torch.tensor([3.0, 0.0]).view(2, 1, 1, 1))
    maps = torch.ones(1, 1, 5, 3)
    assert output_error(dense, half, maps) == pytest.approx(4 / 5)
    assert output_error(dense, half, maps, torch.diag(torch.tensor([1.0, 0]))) == 0


@pytest.mark.parametrize("cost", [params_cost, macs_cost])
def test_no_kept_choice_is_beaten_in_both_cost_and_error(
    net: SmallNet, layers: tuple[LayerProfile, ...], cost: LayerCost
) -> None:
    statistics = input_covariances(net, LATENTS, [layer.name for layer in layers])
    inputs = capture_inputs(net, LATENTS, [layer.name for layer in layers])
    chosen = compete(net, layers, cost=cost)
    for layer in layers:
        module = cast(nn.Linear | nn.Conv2d, net.get_submodule(layer.name))
        kept = [choice for name, choice in chosen if name == layer.name]
        factors = [factorize_layer(module, f, statistics[layer.name]) for f in kept]
        errors = [output_error(module, f, inputs[layer.name]) for f in factors]
        costs = [cost(layer, None), *(cost(layer, choice) for choice in kept)]
        assert errors == sorted(errors)
        assert all(b < (1 - MIN_SAVING) * a for a, b in itertools.pairwise(costs))


def test_what_was_left_out_is_beaten_or_saves_too_little(
    net: SmallNet, layers: tuple[LayerProfile, ...]
) -> None:
    statistics = input_covariances(net, LATENTS, ["conv1"])
    [inputs] = capture_inputs(net, LATENTS, ["conv1"]).values()
    [layer] = [layer for layer in layers if layer.name == "conv1"]
    kept = [choice for name, choice in compete(net, layers) if name == "conv1"]

    def error(choice: Factorization) -> float:
        factors = factorize_layer(net.conv1, choice, statistics["conv1"])
        return output_error(net.conv1, factors, inputs)

    for method in ("tucker2", "spatial_svd"):
        for choice in layer.rank_grid(method, FRACTIONS):
            rivals = [k for k in kept if error(k) <= error(choice)]
            cheapest = min((layer.params(k) for k in rivals), default=layer.params())
            assert choice in kept or layer.params(choice) >= (1 - MIN_SAVING) * cheapest


def test_methods_that_were_not_asked_for_take_no_part(
    net: SmallNet, layers: tuple[LayerProfile, ...]
) -> None:
    chosen = compete(net, layers, methods=("svd",))
    assert {name for name, _ in chosen} == {"linear"}
    assert {choice.method for _, choice in chosen} == {"svd"}


def test_a_cost_that_no_choice_lowers_keeps_none(
    net: SmallNet, layers: tuple[LayerProfile, ...]
) -> None:
    slow = lambda layer, choice: 1.0 if choice is None else 2.0  # noqa: E731
    assert compete(net, layers, cost=slow) == []


class Half(nn.Module):
    """Only the first of two independent halves of a layer's outputs reaches the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16, bias=False)
        rng = torch.Generator().manual_seed(0)
        seen = torch.randn(8, 4, generator=rng) @ torch.randn(4, 8, generator=rng)
        hidden = 10 * torch.randn(8, 8, generator=rng)
        self.layer.weight = nn.Parameter(torch.cat([seen, hidden]), requires_grad=False)
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.layer(z)[:, :8]
        return image


def test_errors_are_weighed_by_what_outputs_are_worth_to_the_image() -> None:
    net = Half()
    worth = output_covariances(net, LATENTS, ["layer"])
    known = with_outputs(input_covariances(net, LATENTS, ["layer"]), worth)["layer"]
    assert known.output is not None
    factors = factorize_layer(net.layer, Factorization("svd", (4,)), known)
    # What is seen has rank 4: nothing of it is lost, and all of the error is where nobody looks.
    root = covariance_root(known.output)
    assert output_error(net.layer, factors, LATENTS, root) < 0.01  # no direction weighs nothing
    assert output_error(net.layer, factors, LATENTS) > 0.1


def test_cp_keeps_out_of_a_large_kernel_unless_nothing_else_is_asked_for() -> None:
    everyone: tuple[str, ...] = ("tucker2", "spatial_svd", "svd", "cp")
    small = LayerProfile("small", "conv2d", (128, 128, 5, 5))
    large = LayerProfile("large", "conv2d", (256, 256, 3, 3))
    most = METHODS["cp"].max_weights
    assert most is not None
    assert 128 * 128 * 25 <= most < 256 * 256 * 9
    assert competitors(small, everyone) == ("tucker2", "spatial_svd", "cp")
    assert competitors(large, everyone) == ("tucker2", "spatial_svd")
    assert competitors(large, ("cp",)) == ("cp",)
