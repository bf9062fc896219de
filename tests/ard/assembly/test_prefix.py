from __future__ import annotations

import copy

import pytest
import torch
from tiny import PixelFeatures, lively_generator
from torch import Tensor, nn

from ard.assembly.assembler import Assembler
from ard.assembly.prefix import DensePrefix, only_layer
from ard.layers import profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from ard.search.proxy import FeatureError
from nas_gan.networks.latents import latent_bank


class Chain(nn.Module):
    """Three layers with a skip connection from the first to the last."""

    def __init__(self, *, twice: bool = False, in_place: bool = False) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(3, 3) for _ in range(3))
        self.relu, self.twice = nn.ReLU(inplace=in_place), twice

    def forward(self, z: Tensor) -> Tensor:
        early = self.first(z)
        x = self.middle(self.relu(early))
        if self.twice:
            x = self.middle(x)
        return self.last(x + early)


def changed(net: nn.Module, layer: str) -> nn.Module:
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.get_submodule(layer).parameters():
            parameter.mul_(1.5)
    return other


Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", ["first", "middle", "last"])
def test_a_network_makes_the_same_images_from_its_changed_layer_on(layer, in_place):
    net = Chain(in_place=in_place).eval()
    prefix, other = DensePrefix(net, Z), changed(net, layer)
    with torch.no_grad():
        expected = other(Z)
        with prefix.skipped(other, layer):
            assert torch.equal(other(Z), expected)
        assert torch.equal(other(Z), expected)  # and afterwards it runs as a whole again


def test_what_ran_before_the_layer_does_not_run_again():
    net = Chain().eval()
    prefix, other = DensePrefix(net, Z), changed(net, "last")
    assert set(prefix.before("last")) == {"first", "relu", "middle"}
    with torch.no_grad():
        other.get_parameter("first.weight").fill_(torch.nan)  # which would show
        with prefix.skipped(other, "last"):
            assert other(Z).isfinite().all()
        assert not other(Z).isfinite().all()


def test_nothing_is_skipped_without_a_layer():
    assert DensePrefix(Chain().eval(), Z).before(None) == {}


def test_a_layer_that_runs_twice_has_no_prefix():
    assert DensePrefix(Chain(twice=True).eval(), Z).before("middle") == {}


def test_layers_with_one_weight_have_no_prefix():
    net = Chain().eval()
    net.last.weight = net.middle.weight
    prefix = DensePrefix(net, Z)
    assert prefix.before("middle") == prefix.before("last") == {}


def test_a_prefix_that_does_more_than_return_outputs_is_run():
    # The second module writes into the output of the first, which is read once more later.
    assert DensePrefix(Chain(in_place=True).eval(), Z).before("last") == {}


def test_only_plans_of_one_layer_have_a_layer():
    choice = Factorization("svd", (2,))
    assert only_layer(RankPlan({"a": choice})) == "a"
    assert only_layer(RankPlan({"a": choice, "b": choice})) is None
    assert only_layer(DENSE) is only_layer(None) is None


def test_the_movement_of_every_layer_is_that_of_a_whole_pass():
    net = lively_generator()
    latents = latent_bank(8, net.latent_dim, seed=1)
    with torch.no_grad():
        layers = profile_layers(net, latents[:2]).layers
    assemble = Assembler.measure(net, latents, layers)
    assert assemble.prefix is not None
    movement = FeatureError(net, latent_bank(8, net.latent_dim, seed=2), PixelFeatures())
    skipped = 0
    for layer in layers:
        method = layer.methods()[0]
        for choice in layer.rank_grid(method, (0.3,)):
            factorized = assemble(RankPlan({layer.name: choice}))
            whole = movement(factorized)
            assert movement(factorized, layer.name) == pytest.approx(whole, rel=1e-5)
            skipped += len(assemble.prefix.before(layer.name))
    assert skipped > len(layers)


def test_with_little_memory_the_first_outputs_are_kept_and_the_images_stay_the_same():
    net, output = Chain().eval(), 6 * 3 * 4
    prefix = DensePrefix(net, Z, most=2 * output)
    assert set(prefix.before("middle")) == set(prefix.before("last")) == {"first", "relu"}
    other = changed(net, "last")
    with torch.no_grad():
        expected = other(Z)
        with prefix.skipped(other, "last"):
            assert torch.equal(other(Z), expected)
    assert DensePrefix(net, Z, most=output - 1).before("last") == {}


def test_the_movement_of_a_layer_does_not_depend_on_the_batch_size():
    net = lively_generator()
    bank = latent_bank(12, net.latent_dim, seed=2)
    with torch.no_grad():
        [*_, layer] = profile_layers(net, bank[:2]).layers
    other = changed(net, layer.name)
    whole, parts = (FeatureError(net, bank, PixelFeatures(), batch_size=n) for n in (12, 5))
    assert parts(other, layer.name) == pytest.approx(whole(other), rel=1e-4)


def test_a_movement_is_measured_without_a_prefix_where_its_batch_does_not_fit():
    net = lively_generator()
    bank = latent_bank(12, net.latent_dim, seed=2)
    with torch.no_grad():
        [*_, layer] = profile_layers(net, bank[:2]).layers
    other, movement = changed(net, layer.name), FeatureError(net, bank, PixelFeatures())
    expected, forward = movement(other), other.forward

    def full(z: Tensor) -> Tensor:
        if len(z) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(z)

    other.forward = full
    assert movement(other, layer.name) == pytest.approx(expected, rel=1e-4)
