"""From a checkpoint and the options of a command to a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_nets
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from nas_gan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nas_gan.errors import InvalidValueError, NasGanError
from nas_gan.generators import GeneratorOptions, describe_interface, open_generator
from nas_gan.networks.latents import latents_of


class Plain(nn.Module):
    """Noise to images; the base of the networks of these tests."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(width, 16 * 8 * 8)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z).view(-1, 16, 8, 8).relu()
        return torch.tanh(self.last(self.conv(h)))


class Normed(Plain):
    """The same with a spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations.spectral_norm(self.conv)


def options(model: str, **given: Any) -> GeneratorOptions:
    return GeneratorOptions(model=f"{__name__}:{model}", **given)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(Plain().state_dict(), tmp_path / "plain.pth")
    return tmp_path / "plain.pth"


def test_what_was_found_is_said_and_saved(plain: Path, tmp_path: Path) -> None:
    opened = open_generator(plain, options("Plain"))
    assert list(opened.remarks()) == [
        "weights: the whole file",
        "interface: normal noise 6 to images 3x8x8 in [-1, 1]",
    ]
    again = Checkpoint(opened.checkpoint.architecture, dict(opened.generator.state_dict()))
    save_checkpoint(again, tmp_path / "again.pt")
    reopened = open_generator(tmp_path / "again.pt", options("Plain"))
    assert reopened.interface == opened.interface


def test_what_the_user_says_is_saved_too(plain: Path, tmp_path: Path) -> None:
    opened = open_generator(plain, options("Plain", latent="uniform", output_range="-2,2"))
    again = Checkpoint(opened.checkpoint.architecture, dict(opened.generator.state_dict()))
    save_checkpoint(again, tmp_path / "again.pt")
    reopened = open_generator(tmp_path / "again.pt", options("Plain"))
    assert reopened.interface.latents == "uniform"
    rows = latents_of(reopened.interface, 5000, seed=0)
    assert -1 <= rows.min() < -0.99
    with torch.no_grad():
        torch.testing.assert_close(reopened.generator(rows[:3]), opened.generator(rows[:3]))
        assert float(reopened.generator(rows).abs().max()) <= 0.5


def test_the_noise_of_a_distribution_has_its_moments(plain: Path) -> None:
    # Uniform in [-1, 1]: 1/3. Normal cut off at 2: 1 - 4 phi(2) / (2 Phi(2) - 1).
    for name, variance in (("normal", 1.0), ("uniform", 1 / 3), ("truncated", 0.7737)):
        opened = open_generator(plain, options("Plain", latent=name))
        noise = latents_of(opened.interface, 20_000, seed=1)
        assert float(noise.var()) == pytest.approx(variance, rel=0.02)
        assert abs(float(noise.mean())) < 0.01


def test_a_computed_weight_is_folded_and_the_images_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Normed().eval()
    torch.save(network.state_dict(), tmp_path / "normed.pth")
    opened = open_generator(tmp_path / "normed.pth", options("Normed"))
    assert "folded: the computed weights of conv" in list(opened.remarks())
    assert type(opened.generator.get_submodule("conv")) is nn.Conv2d
    rows = latents_of(opened.interface, 4, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(opened.generator(rows), network(rows))


def test_a_network_without_its_weights_in_normal_form_is_rebuilt(tmp_path: Path) -> None:
    torch.save(foreign_nets.stylegan2().state_dict(), tmp_path / "style.pt")
    given = GeneratorOptions(model="foreign_nets:stylegan2", output_range="-1,1")
    opened = open_generator(tmp_path / "style.pt", given)
    saved = Checkpoint(opened.checkpoint.architecture, dict(opened.generator.state_dict()))
    save_checkpoint(saved, tmp_path / "normal.pt")
    reopened = open_generator(tmp_path / "normal.pt", GeneratorOptions(model=given.model))
    rows = latents_of(opened.interface, 2, seed=0)
    with torch.no_grad():
        assert torch.equal(reopened.generator(rows), opened.generator(rows))


def test_a_checkpoint_that_describes_its_network_takes_no_options_of_others() -> None:
    with pytest.raises(InvalidValueError, match="is for networks of your own") as caught:
        open_generator(Path("zoo:fashion_mnist"), GeneratorOptions(latent_shape="120"))
    assert caught.value.setting == "latent_shape"
    assert not list(open_generator(Path("zoo:fashion_mnist"), GeneratorOptions()).remarks())


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"latent_shape": "6x"}, None),  # a stray separator does no harm
        ({"latent_shape": "-6"}, "latent_shape"),
        ({"latent_shape": "1,2,3,4,5"}, "latent_shape"),
        ({"latent_shape": "99999999999"}, "latent_shape"),
        ({"output_range": "1,-1"}, "output_range"),
        ({"output_range": "0,1,2"}, "output_range"),
        ({"output_range": "nan,1"}, "output_range"),
        ({"input_range": "0"}, "input_range"),
        ({"inputs": Path("x"), "latent": "uniform"}, "latent"),
        ({"inputs": Path("x"), "classes": 3}, "classes"),
        ({"model_args": "{"}, "model_args"),
        ({"model_args": '{"depth": 3}'}, "model_args"),
        ({"forward_args": "[1]"}, None),
    ],
)
def test_an_option_that_cannot_be_read_is_named(
    plain: Path, given: dict[str, Any], setting: str | None
) -> None:
    if given == {"latent_shape": "6x"}:
        assert open_generator(plain, options("Plain", **given)).interface.latent_dim == 6
        return
    with pytest.raises(NasGanError) as caught:
        open_generator(plain, options("Plain", **given))
    assert "\n" not in str(caught.value)
    if setting is not None:
        assert caught.value.setting == setting


def test_arguments_without_a_builder_are_refused(plain: Path) -> None:
    with pytest.raises(InvalidValueError, match="say which") as caught:
        open_generator(plain, GeneratorOptions(model_args="{}"))
    assert caught.value.setting == "model_args"


def test_arguments_reach_the_builder(tmp_path: Path) -> None:
    torch.save(Plain(9).state_dict(), tmp_path / "wide.pth")
    opened = open_generator(tmp_path / "wide.pth", options("Plain", model_args='{"width": 9}'))
    assert opened.interface.latent_dim == 9


def test_the_interface_in_words_says_labels_and_outputs(tmp_path: Path) -> None:
    torch.save(foreign_nets.cgan().state_dict(), tmp_path / "c.pth")
    opened = open_generator(tmp_path / "c.pth", GeneratorOptions(model="foreign_nets:cgan"))
    assert describe_interface(opened.interface) == (
        "normal noise 64, labels of 10 classes (whole numbers) to images 3x16x16 in [-1, 1]"
    )
    assert load_checkpoint(tmp_path / "c.pth").architecture == {"kind": "external"}
