import copy

import pytest
import torch
from torch import nn

from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.networks.layout import is_channels_last, lay_out_like_, put_channels_last_
from nas_gan.networks.models import build_model


class Net(nn.Module):
    """Latents `(n, 4)` to `(n, 3, 4, 4)` by two convolutions, with something behind each."""

    def __init__(self, behind=lambda x: x):
        super().__init__()
        self.linear = nn.Linear(4, 5 * 4 * 4)
        self.first = nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 3, padding=1)
        self.behind = behind

    def forward(self, z):
        x = self.linear(z).view(-1, 5, 4, 4)
        return self.behind(self.last(self.behind(self.first(x)).relu()))


class Noisy(Net):
    def forward(self, z):
        return super().forward(z) + torch.randn(len(z), 3, 4, 4)


Z = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def states(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("kind", [Net, Noisy])
def test_the_same_images_come_from_weights_that_lie_otherwise(kind):
    torch.manual_seed(0)
    net = kind().eval()
    before, weights = Net.forward(net, Z), states(net)
    assert put_channels_last_(net, Z)
    assert is_channels_last(net)
    torch.testing.assert_close(Net.forward(net, Z), before, rtol=0, atol=1e-5)
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    assert not put_channels_last_(net, Z)  # it is already


def by_memory(x):
    """The values of a feature map in the order in which they lie, which depends on the layout."""
    return x.as_strided(x.shape, torch.empty(x.shape).stride())


@pytest.mark.parametrize("behind", [lambda x: x.view(len(x), -1).view(x.shape), by_memory])
def test_a_network_that_looks_at_the_memory_of_a_map_stays_as_it_is(behind):
    torch.manual_seed(0)
    net = Net(behind).eval()
    before = net(Z)
    assert not put_channels_last_(net, Z)
    assert not is_channels_last(net)
    assert torch.equal(net(Z), before)


def test_a_network_without_feature_maps_is_not_changed():
    assert not put_channels_last_(nn.Sequential(nn.Linear(4, 4)), Z)
    assert not put_channels_last_(nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (4, 1, 1)),
                                                nn.Conv2d(4, 3, 1)), Z)  # fmt: skip


def test_modes_and_gradients_are_left_alone():
    net = Net().train()
    net.first.eval()
    put_channels_last_(net, Z)
    assert net.training
    assert not net.first.training
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_another_network_is_laid_out_like_the_first():
    last, first = Net().eval(), Net().eval()
    put_channels_last_(last, Z)
    other = copy.deepcopy(first)
    assert lay_out_like_(other, first) is other
    assert not is_channels_last(other)
    assert is_channels_last(lay_out_like_(other, last))


@pytest.mark.parametrize("name", ["mmd-nas", "dcgan", "attention-dcgan", "wgan"])
def test_own_generators_allow_it(name):
    torch.manual_seed(0)
    net = build_model({"kind": name}).eval()
    z = latents_of(interface_of(net), 2, 0)
    assert put_channels_last_(net, z)
