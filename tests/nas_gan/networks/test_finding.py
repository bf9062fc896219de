"""How networks that nobody here wrote are called, found by calling them."""

from __future__ import annotations

from typing import Any

import foreign_nets
import pytest
import torch
from nas_gan_inputs import pictures
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.finding import InterfaceHints, find_interface


def hints(**given: Any) -> InterfaceHints:
    return InterfaceHints(**{"n_classes": None, **given})


class Net(nn.Module):
    """Noise to images by one linear layer, with the attributes and the end that a test wants."""

    def __init__(self, n_in: int = 6, end: Any = torch.tanh, **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, 3 * 8 * 8)
        with torch.no_grad():
            rng = torch.Generator().manual_seed(0)
            self.layer.weight.copy_(torch.randn(3 * 8 * 8, n_in, generator=rng))
        self.end = end
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, z: Tensor) -> Any:
        return self.end(self.layer(z).view(-1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "given", "latent_dim", "input_shape", "n_classes"),
    [
        ("sagan", {}, 128, (128,), 0),
        ("stylegan2", {"output_range": (-1.0, 1.0)}, 32, (32,), 0),
        ("lucid", {}, 32, (32,), 0),
        ("sngan", {}, 64, (64,), 0),
        ("cgan", {}, 64, (64,), 10),
    ],
)
def test_the_interface_of_a_common_shape_is_found(
    name: str, given: dict[str, Any], latent_dim: int, input_shape: Any, n_classes: int
) -> None:
    net = foreign_nets.NETS[name]
    found = find_interface(net.build(), hints(**given))
    assert (found.latent_dim, found.n_classes) == (latent_dim, n_classes)
    assert found.image_shape == net.image_shape
    assert found.calling is not None
    assert found.calling.input_shape == input_shape
    assert found.calling.output_range == (-1.0, 1.0)
    assert not found.calling.random


@pytest.mark.parametrize(("name", "size", "scale"), [("srgan", 16, 2), ("pix2pix", 32, 1)])
def test_a_network_of_images_takes_those_of_a_folder(name: str, size: int, scale: int) -> None:
    inputs = pictures(3, size, size)
    found = find_interface(foreign_nets.NETS[name].build(), hints(inputs=inputs))
    assert found.takes_images
    assert found.row_shape == (3, size, size)
    assert found.image_shape == (3, scale * size, scale * size)


def test_any_size_of_input_that_the_network_takes_will_do() -> None:
    found = find_interface(foreign_nets.srgan(), hints(inputs=pictures(3, 10, 14)))
    assert found.image_shape == (3, 20, 28)


def test_a_network_of_images_asks_for_them() -> None:
    with pytest.raises(InvalidValueError, match="takes images; give a folder"):
        find_interface(foreign_nets.srgan())


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (torch.tanh, (-1.0, 1.0)),
        (torch.sigmoid, (0.0, 1.0)),
        (lambda x: 1.2 * torch.tanh(x), (-1.0, 1.0)),  # networks without a tanh overshoot
        (lambda x: 255 * torch.sigmoid(x), (0.0, 255.0)),
    ],
)
def test_the_range_of_the_images_is_that_of_their_values(end: Any, expected: Any) -> None:
    calling = find_interface(Net(end=end)).calling
    assert calling is not None
    assert calling.output_range == expected


@pytest.mark.parametrize("end", [lambda x: 30 * x, lambda x: 7 * torch.sigmoid(x)])
def test_a_range_that_cannot_be_told_is_asked_for(end: Any) -> None:
    with pytest.raises(
        InvalidValueError, match="cannot be told: the pixels of 16 images"
    ) as caught:
        find_interface(Net(end=end))
    assert caught.value.setting == "output_range"
    given = find_interface(Net(end=end), hints(output_range=(-30.0, 30.0)))
    assert given.calling is not None
    assert given.calling.output_range == (-30.0, 30.0)


def test_broken_weights_are_said_to_be_broken() -> None:
    net = Net()
    with torch.no_grad():
        net.layer.bias[0] = torch.nan
    with pytest.raises(InvalidValueError, match="NaN or an infinity"):
        find_interface(net)


@pytest.mark.parametrize(
    ("end", "form", "shape"),
    [
        (lambda x: torch.tanh(x).permute(0, 2, 3, 1), "nhwc", (3, 8, 8)),
        (lambda x: torch.tanh(x[:, 0]), "nhw", (1, 8, 8)),
        (lambda x: torch.tanh(x).flatten(1), "flat", (3, 8, 8)),
        (lambda x: torch.tanh(x[:, :1]).flatten(1), "flat", (1, 8, 8)),
    ],
)
def test_the_layout_of_the_images_is_found(end: Any, form: str, shape: Any) -> None:
    found = find_interface(Net(end=end))
    assert found.calling is not None
    assert (found.calling.output_form, found.image_shape) == (form, shape)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_two_or_four_channels_are_refused(channels: int) -> None:
    def end(x: Tensor) -> Tensor:
        return x[:, :1].expand(-1, channels, -1, -1)

    with pytest.raises(InvalidValueError, match="have 1 or 3 channels"):
        find_interface(Net(end=end))


def test_the_only_images_among_several_outputs_are_taken() -> None:
    pair = find_interface(Net(end=lambda x: (x.flatten(1)[:, :5], torch.tanh(x)))).calling
    named = find_interface(Net(end=lambda x: {"style": None, "sample": torch.tanh(x)})).calling
    assert pair is not None
    assert named is not None
    assert (pair.output, named.output) == (1, "sample")


def test_several_images_are_a_question_that_lists_them() -> None:
    def two(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(x), torch.sigmoid(x)

    with pytest.raises(InvalidValueError, match=r"tuple of 2 \(0: \(2, 3, 8, 8\)") as caught:
        find_interface(Net(end=two))
    assert caught.value.setting == "output"
    calling = find_interface(Net(end=two), hints(output=1)).calling
    assert calling is not None
    assert calling.output_range == (0.0, 1.0)


@pytest.mark.parametrize("which", [2, "sample"])
def test_an_output_that_is_not_there_lists_those_that_are(which: Any) -> None:
    net = Net(end=lambda x: (torch.tanh(x), None))
    with pytest.raises(InvalidValueError, match="tuple of 2") as caught:
        find_interface(net, hints(output=which))
    assert caught.value.setting == "output"


def test_a_network_that_draws_noise_of_its_own_is_noticed() -> None:
    calling = find_interface(Net(end=lambda x: torch.tanh(x + torch.randn_like(x)))).calling
    assert calling is not None
    assert calling.random


def test_noise_that_an_argument_switches_off_is_switched_off() -> None:
    calling = find_interface(foreign_nets.stylegan2(), hints(output_range=(-1.0, 1.0))).calling
    assert calling is not None
    assert calling.listed
    assert dict(calling.options) == {"randomize_noise": False}
    assert not calling.random


class Labelled(nn.Module):
    """Noise and a label to images; `onehot` says how it takes labels."""

    def __init__(self, onehot: bool = False) -> None:
        super().__init__()
        self.nz = 5
        self.layer = nn.Linear(5 + 4, 3 * 8 * 8)
        self.onehot = onehot

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        if not self.onehot:
            label = nn.functional.one_hot(label, 4).float()
        images = self.layer(torch.cat([noise, label], 1)).view(-1, 3, 8, 8)
        return torch.tanh(images)


@pytest.mark.parametrize(("onehot", "form"), [(False, "index"), (True, "onehot")])
def test_the_form_of_labels_is_found(onehot: bool, form: str) -> None:
    with pytest.raises(InvalidValueError, match="none of its layers is an embedding") as caught:
        find_interface(Labelled(onehot))
    assert caught.value.setting == "classes"
    calling = find_interface(Labelled(onehot), hints(n_classes=4)).calling
    assert calling is not None
    assert calling.label_form == form
    assert calling.input_names == ("noise", "label")


def test_a_label_that_may_be_left_out_is_taken_if_classes_are_given() -> None:
    class Optional(Labelled):
        def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            if y is None:
                y = torch.zeros(len(z), dtype=torch.int64)
            return super().forward(z, y)

    assert find_interface(Optional()).n_classes == 0
    assert find_interface(Optional(), hints(n_classes=4)).n_classes == 4


def test_noise_and_one_hot_label_in_one_row_is_how_this_package_calls_networks() -> None:
    found = find_interface(Net(9, latent_dim=5), hints(n_classes=4))
    assert (found.latent_dim, found.n_classes, found.calling) == (5, 4, None)


def test_three_inputs_are_refused_by_their_names() -> None:
    class Three(nn.Module):
        def forward(self, z: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            raise NotImplementedError

    with pytest.raises(InvalidValueError, match=r"needs 3 inputs \(z, y, mask\)"):
        find_interface(Three())


def test_a_shape_that_does_not_work_says_what_the_network_answered() -> None:
    with pytest.raises(InvalidValueError, match=r"\(2, 7\): RuntimeError: .*mat1") as caught:
        find_interface(Net(), hints(latent_shape=(7,)))
    assert caught.value.setting == "latent_shape"
    assert "\n" not in str(caught.value)


def test_the_network_is_left_as_it_was() -> None:
    net = foreign_nets.sngan().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    find_interface(net)
    assert net.training
    assert not net._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
