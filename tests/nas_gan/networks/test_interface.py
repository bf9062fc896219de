from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_gan.checkpoint import Checkpoint
from nas_gan.errors import InvalidValueError
from nas_gan.networks.interface import IMAGE_RANGE, GeneratorInterface, interface_of
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.networks.models import MODELS, build_model
from nas_gan.networks.searched import GeneratorConfig


class Painter(nn.Module):
    """A generator of somebody else, which says as little as it can."""

    def __init__(self, latent_dim: object = 5, **attributes: object) -> None:
        super().__init__()
        self.layer = nn.Linear(5 + int(attributes.get("n_classes", 0) or 0), 3 * 6 * 4)  # type: ignore[call-overload]
        if latent_dim is not None:
            self.latent_dim = latent_dim
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).view(-1, 3, 6, 4)


def test_the_interface_is_what_the_attributes_say() -> None:
    conditional = build_model({"kind": "dense-cgan", "gf_dim": 4, "latent_dim": 5})
    found = interface_of(conditional)
    assert (found.latent_dim, found.n_classes, found.input_width) == (5, 10, 15)
    assert found.conditional
    assert found.image_shape == tuple(conditional.image_shape)  # type: ignore[arg-type]


def test_a_shape_that_nobody_says_is_that_of_the_images() -> None:
    net = Painter().train()
    assert interface_of(net) == GeneratorInterface(5, 0, (3, 6, 4))
    assert interface_of(net).resolution == 4
    assert net.training  # as it was found
    assert interface_of(Painter(n_classes=7)).input_width == 12


def test_it_is_found_without_memory_for_weights() -> None:
    with torch.device("meta"):
        assert interface_of(Painter()).image_shape == (3, 6, 4)


@pytest.mark.parametrize("kind", [kind for kind, family in MODELS.items() if family.generator])
def test_a_generator_returns_what_its_interface_says(kind: str) -> None:
    architecture: dict[str, Any] = {"kind": kind}
    if kind == "layers":
        layers = [{"type": "linear", "out": 48}, {"type": "reshape", "to": [3, 4, 4]}]
        architecture |= {"input": [5], "layers": layers}
    elif kind == "mmd-nas":
        architecture |= GeneratorConfig(gf_dim=4, n_classes=0).to_dict()
    generator = build_model(architecture).eval()
    interface = interface_of(generator)
    with torch.no_grad():
        images = generator(torch.zeros(2, interface.input_width))
    assert images.shape == (2, *interface.image_shape)
    low, high = IMAGE_RANGE
    assert low <= images.min() <= images.max() <= high
    assert Checkpoint(architecture, {}).interface == interface


@pytest.mark.parametrize(("latent_dim", "n_classes"), [(4, 0), (5, 3)])
def test_a_generator_that_fails_on_its_latents_is_one_line(latent_dim: int, n_classes: int) -> None:
    net: Any = Painter(latent_dim)
    net.n_classes = n_classes
    wanted = rf"does not take latents \(2, {latent_dim + n_classes}\)"
    with pytest.raises(InvalidValueError, match=wanted) as caught:
        interface_of(net)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"latent_dim": None}, "Painter has no latent_dim; set that attribute"),
        ({"latent_dim": "5"}, "Painter has no latent_dim"),
        ({"latent_dim": 0, "image_shape": (3, 6, 4)}, "needs a latent_dim of at least 1"),
        ({"image_shape": 3}, r"image_shape must be \(c, h, w\); got 3"),
        ({"image_shape": (3, 4)}, r"image_shape \(c, h, w\); got 5 and \(3, 4\)"),
        ({"image_shape": (3, 6, 4), "n_classes": 1}, "at least 2 classes, or 0 for none; got 1"),
        ({"image_shape": (3, 6, 4), "n_classes": "ten"}, "n_classes must be a whole number"),
    ],
)
def test_an_attribute_that_cannot_be_is_one_line(
    attributes: dict[str, object], message: str
) -> None:
    attributes = {"latent_dim": 5} | attributes
    shown = {name: value for name, value in attributes.items() if name != "n_classes"}
    net: Any = Painter(**shown)
    if "n_classes" in attributes:
        net.n_classes = attributes["n_classes"]
    with pytest.raises(InvalidValueError, match=message) as caught:
        interface_of(net)
    assert "\n" not in str(caught.value)


def test_a_net_that_makes_no_images_is_refused() -> None:
    net: Any = nn.Sequential(nn.Linear(5, 8))
    net.latent_dim = 5
    with pytest.raises(InvalidValueError, match=r"images \(n, c, h, w\); got \(2, 8\)"):
        interface_of(net)


def test_labels_follow_the_noise_of_the_bank() -> None:
    latents = latents_of(GeneratorInterface(4, 3, (1, 2, 2)), 6, seed=1)
    assert latents.shape == (6, 7)
    assert torch.equal(latents[:, :4], latent_bank(6, 4, seed=1))
