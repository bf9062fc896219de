from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.conditional import SplitInputs, labels_of, split_labels, with_labels
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.networks.models import build_model


@pytest.fixture
def conditional(rng):
    architecture = {"kind": "dense-cgan", "gf_dim": 4, "image_size": 6, "latent_dim": 5}
    return build_model(architecture, rng=rng).eval()


def test_labels_are_one_hot_columns_behind_the_noise():
    noise = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    latents = with_labels(noise, torch.tensor([2, 0]), 3)
    assert latents.tolist() == [[0.5, -1.0, 0, 0, 1], [2.0, 3.0, 1, 0, 0]]
    assert labels_of(latents, 3).tolist() == [2, 0]
    found, labels = split_labels(latents, 3)
    assert torch.equal(found, noise)
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 3], "in 0..2; got 0 to 3"), ([-1, 0], "got -1"), ([0], "one label")],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InvalidValueError, match=message):
        with_labels(torch.zeros(2, 4), torch.tensor(labels), 3)


def test_two_inputs_give_the_images_of_one(conditional):
    latents = latents_of(interface_of(conditional), 6, seed=1)
    z, labels = latents[:, :5], latents[:, 5:].argmax(dim=1)
    split: Any = SplitInputs(conditional)
    assert (split.latent_dim, split.n_classes, split.image_shape) == (5, 10, (1, 6, 6))
    assert torch.equal(split(z, labels), conditional(latents))
    assert split.state_dict().keys() == {f"generator.{k}" for k in conditional.state_dict()}


def test_the_split_generator_follows_its_generator_to_another_type(conditional):
    split = SplitInputs(conditional).double()
    z = torch.randn(2, 5, dtype=torch.float64)
    onehot = F.one_hot(torch.tensor([1, 9]), 10).double()
    assert torch.equal(split(z, torch.tensor([1, 9])), conditional(torch.cat([z, onehot], dim=1)))


def test_a_generator_without_classes_is_not_split():
    generator = build_model({"kind": "mnist-dcgan", "gf_dim": 4})
    with pytest.raises(InvalidValueError, match="not conditional"):
        SplitInputs(generator)


def test_the_split_generator_is_traced_for_any_number_of_images(conditional):
    split = SplitInputs(conditional).eval()
    example = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)
    n = torch.export.Dim("n")
    program = torch.export.export(split, example, dynamic_shapes={"z": {0: n}, "label": {0: n}})
    z, labels = torch.randn(7, 5), torch.arange(7)
    torch.testing.assert_close(program.module()(z, labels), split(z, labels))


def test_a_label_out_of_range_is_an_error(conditional):
    with pytest.raises(IndexError):
        SplitInputs(conditional)(torch.zeros(1, 5), torch.tensor([10]))
