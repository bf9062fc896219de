import copy
from typing import Any

import pytest
import torch
from foreign_nets import NETS
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from nas_gan.networks.parametrizations import computes_weight, fold_parametrizations_
from nas_gan.networks.spectral import spectral_norm_


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class EqualLR:
    """A hook of other people: the weight is a parameter times a constant."""

    def __init__(self, name):
        self.name = name

    def compute_weight(self, module):
        return getattr(module, self.name + "_orig") * 0.5

    def __call__(self, module, inputs):
        setattr(module, self.name, self.compute_weight(module))


def equalized(layer):
    weight = layer.weight
    del layer._parameters["weight"]
    layer.register_parameter("weight_orig", nn.Parameter(weight.data))
    layer.register_buffer("weight", weight.data)
    layer.register_forward_pre_hook(EqualLR("weight"))
    return layer


FORMS = {
    "new spectral norm": parametrizations.spectral_norm,
    "new weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "one of one's own": lambda layer: parametrize.register_parametrization(
        layer, "weight", Doubled()
    ),
    "two on one weight": lambda layer: parametrize.register_parametrization(
        parametrizations.spectral_norm(layer), "weight", Doubled()
    ),
    "weight and bias": lambda layer: parametrize.register_parametrization(
        parametrizations.weight_norm(layer), "bias", Doubled()
    ),
    "old spectral norm": spectral_norm,
    "old weight norm": weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 5),
    "pruned twice": lambda layer: prune.l1_unstructured(
        prune.l1_unstructured(layer, "weight", 5), "weight", 3
    ),
    "equalized learning rate": equalized,
    "our spectral norm": lambda layer: spectral_norm_(layer, method="kernel"),
}


def net(form=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(
        form(nn.Conv2d(4, 6, 3)), nn.ReLU(), form(nn.ConvTranspose2d(6, 4, 3)), nn.BatchNorm2d(4)
    ).eval()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("form", FORMS)
def test_a_folded_network_has_plain_layers_and_exactly_the_same_images(form):
    network, x = net(FORMS[form]), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        network.train()(x)  # a power iteration, and weights that are left over in attributes
        network.eval()
        before = network(x)
        assert fold_parametrizations_(network) == ("0", "2")
        assert torch.equal(network(x), before)
        assert torch.equal(copy.deepcopy(network)(x), before)
    assert [type(layer) for layer in network] == [type(layer) for layer in net()]
    assert list(network.state_dict()) == list(net().state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(computes_weight(network[i]) or network[i]._forward_pre_hooks for i in (0, 2))
    network.load_state_dict(net().state_dict())
    assert fold_parametrizations_(network) == ()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_folded_without_harm_to_the_original(form):
    network, x = net(FORMS[form]), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        before = network(x)
    twin = copy.deepcopy(network)
    fold_parametrizations_(twin)
    with torch.no_grad():
        assert torch.equal(network(x), before)
    assert fold_parametrizations_(network) == ("0", "2")


def test_modes_and_frozen_weights_stay():
    network = net(parametrizations.weight_norm).train()
    network[0].requires_grad_(False)
    network[2].eval()
    fold_parametrizations_(network)
    assert [layer.training for layer in network] == [True, True, False, True]
    assert not network[0].weight.requires_grad
    assert network[2].weight.requires_grad


def test_only_the_named_modules_are_folded():
    network = net(parametrizations.spectral_norm)
    assert fold_parametrizations_(network, names=("2",)) == ("2",)
    assert parametrize.is_parametrized(network[0])


def test_a_recurrent_layer_of_two_directions_is_folded():
    with pytest.warns(FutureWarning):
        layer = weight_norm(nn.GRU(3, 4, bidirectional=True), "weight_hh_l0")
    network, x = nn.Sequential(layer), torch.randn(5, 2, 3)
    with torch.no_grad():
        before, _ = network(x)
        fold_parametrizations_(network)
        assert torch.equal(network(x)[0], before)
        nn.init.zeros_(layer.get_parameter("weight_hh_l0"))
        assert not torch.equal(network(x)[0], before)
    assert sorted(network[0].state_dict()) == sorted(nn.GRU(3, 4, bidirectional=True).state_dict())


class SpectralNorm(nn.Module):
    """A wrapper as users write it: the weight is set anew in every call, in evaluation too."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        weight = module.weight
        del module._parameters["weight"]
        rows = weight.shape[0]
        module.register_parameter("weight_u", nn.Parameter(torch.randn(rows), False))
        module.register_parameter("weight_v", nn.Parameter(torch.randn(weight[0].numel()), False))
        module.register_parameter("weight_bar", nn.Parameter(weight.data))

    def _update_u_v(self) -> None:
        u, v, bar = self.module.weight_u, self.module.weight_v, self.module.weight_bar
        v.data = nn.functional.normalize(bar.flatten(1).T @ u, dim=0)
        u.data = nn.functional.normalize(bar.flatten(1) @ v, dim=0)
        self.module.weight = bar / (u @ (bar.flatten(1) @ v))

    def forward(self, *inputs):
        self._update_u_v()
        return self.module.forward(*inputs)


class OtherNorm(SpectralNorm):
    """The same without iterating in evaluation, and without a method that does."""

    _update_u_v: Any = None

    def forward(self, *inputs):
        u, v, bar = self.module.weight_u, self.module.weight_v, self.module.weight_bar
        self.module.weight = bar / (u @ (bar.flatten(1) @ v))
        return self.module.forward(*inputs)


@pytest.mark.parametrize("wrapper", [SpectralNorm, OtherNorm])
@pytest.mark.parametrize("ran", [False, True])
def test_a_wrapper_that_sets_the_weight_is_replaced_by_its_layer(wrapper, ran):
    network, x = net(wrapper), torch.randn(2, 4, 5, 5)
    if ran:
        with torch.no_grad():
            network(x)
    twin = copy.deepcopy(network)
    assert fold_parametrizations_(network) == ("0", "2")
    with torch.no_grad():
        torch.testing.assert_close(network(x), twin(x))
    assert [type(layer) for layer in network] == [type(layer) for layer in net()]
    network.load_state_dict(net().state_dict())


def test_a_shared_layer_is_folded_once_and_stays_shared():
    shared = parametrizations.spectral_norm(nn.Linear(4, 4))
    network = nn.ModuleDict({"a": shared, "b": shared})
    assert fold_parametrizations_(network) == ("a",)
    assert network["a"] is network["b"]
    assert type(network["b"]) is nn.Linear


def test_the_spectral_norm_of_sagan_is_folded():
    sagan = NETS["sagan"]
    network = sagan.build()
    before = sagan.images(network)
    assert fold_parametrizations_(network) == ("l1.0", "l2.0")
    assert torch.equal(sagan.images(network), before)
    assert not any("_orig" in name for name in network.state_dict())
