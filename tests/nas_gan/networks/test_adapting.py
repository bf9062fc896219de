"""Adapted networks: rows in, images in [-1, 1] out, and the way back."""

from __future__ import annotations

import copy
import json
from typing import Any

import foreign_nets
import pytest
import torch
from nas_gan_inputs import pictures
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.adapting import adapt_, native, native_inputs
from nas_gan.networks.finding import InterfaceHints, find_interface
from nas_gan.networks.interface import GeneratorInterface, interface_from_dict, interface_of
from nas_gan.networks.latents import latents_of


def adapted(name: str, seed: int = 0) -> tuple[nn.Module, GeneratorInterface]:
    images = {"srgan": (3, 16, 16), "pix2pix": (3, 32, 32)}
    hints = InterfaceHints(
        n_classes=None,
        inputs=pictures(*images[name]) if name in images else None,
        input_range=(0.0, 1.0) if name == "srgan" else None,
        output_range=(-1.0, 1.0) if name == "stylegan2" else None,
    )
    network = foreign_nets.NETS[name].build()
    interface = find_interface(network, hints)
    return adapt_(network, interface), interface


@pytest.mark.parametrize("name", foreign_nets.NETS)
def test_rows_give_the_images_of_the_network_itself(name: str) -> None:
    network, interface = adapted(name)
    rows = latents_of(interface, 3, seed=1)
    itself, net = foreign_nets.NETS[name].build(), foreign_nets.NETS[name]
    given = native_inputs(interface, rows)
    with torch.no_grad():
        found = network(rows)
        first = [given[0]] if name == "stylegan2" else given[0]
        out = itself(first, *given[1:], **net.options)
    expected = out[0] if isinstance(out, tuple) else out
    assert interface.calling is not None
    if interface.calling.output_range == (0.0, 1.0):
        expected = 2 * expected - 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", foreign_nets.NETS)
def test_names_and_weights_stay_those_of_the_network(name: str) -> None:
    network, _ = adapted(name)
    itself = foreign_nets.NETS[name].build()
    assert type(network) is type(itself)
    assert list(network.state_dict()) == list(itself.state_dict())


@pytest.mark.parametrize("name", foreign_nets.NETS)
def test_the_way_back_takes_its_own_inputs_and_returns_its_own_range(name: str) -> None:
    network, interface = adapted(name)
    rows = latents_of(interface, 2, seed=2)
    back = native(network)
    assert back is not None
    assert interface.calling is not None
    low, high = interface.calling.output_range
    with torch.no_grad():
        images = back(*native_inputs(interface, rows))
        torch.testing.assert_close((images - low) * 2 / (high - low) - 1, network(rows))


def test_a_copy_is_adapted_as_well() -> None:
    network, interface = adapted("cgan")
    twin = copy.deepcopy(network)
    assert interface_of(twin) == interface
    rows = latents_of(interface, 2, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(twin(rows), network(rows))
        twin.get_parameter("linear.weight").zero_()
        assert not torch.equal(twin(rows), network(rows))


def test_an_interface_survives_json() -> None:
    for name in foreign_nets.NETS:
        _, interface = adapted(name)
        plain = json.loads(json.dumps(interface.to_dict()))
        assert interface_from_dict(plain).same_rows(interface)
        assert interface_from_dict(plain).calling == interface.calling


@pytest.mark.parametrize(
    "damage",
    [
        {"latents": "gamma"},
        {"latent_dim": "many"},
        {"image_shape": 3},
        {"calling": {}},
        {"calling": 4},
        {"input_shape": 7},
        {"n_classes": 1},
    ],
)
def test_a_damaged_description_is_one_line(damage: dict[str, object]) -> None:
    _, interface = adapted("sngan")
    with pytest.raises(InvalidValueError):
        interface_from_dict({**interface.to_dict(), **damage})


def test_random_numbers_inside_a_network_are_the_same_in_every_pass() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3 * 8 * 8)
            self.broken = False

        def forward(self, z: Tensor) -> Tensor:
            if self.broken:
                torch.randn(1)
                raise RuntimeError("broken")
            images = self.layer(z).view(-1, 3, 8, 8)
            return torch.tanh(images + torch.randn_like(images))

    network = Noisy()
    adapt_(network, find_interface(network))
    rows = torch.zeros(2, 4)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = network(rows), network(rows)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)  # those of the program are left alone
    network.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        network(rows)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("inputs", [(torch.zeros(2, 64),), (torch.zeros(2, 75),), ([],), ()])
def test_a_call_that_is_not_by_rows_is_refused(inputs: Any) -> None:
    network, _ = adapted("cgan")
    with pytest.raises(InvalidValueError, match=r"one tensor of rows \(n, 74\)"):
        network(*inputs)
