from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import takes
from torch import nn

from nas_gan.checkpoint import Checkpoint
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.sampling import extract_features, generate_uint8
from nas_gan.networks.halving import halving
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents, latent_bank, latents_of
from nas_gan.networks.models import build_model


class ToyGenerator(nn.Module):
    """Latents `(n, 12)` to images `(n, channels, 4, 4)` through a batch normalisation."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(12, channels * 16)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.norm(self.linear(z).view(-1, self.channels, 4, 4)))


class MeanColour:
    name, dim, comparable = "mean-colour", 3, False

    def __call__(self, images):
        return images.float().mean(dim=(2, 3)).numpy()


@pytest.fixture
def generator() -> ToyGenerator:
    torch.manual_seed(0)
    return ToyGenerator()


@pytest.mark.parametrize("k", [1, 1000, 1024, 1500])
def test_the_first_rows_of_a_bank_are_the_smaller_bank(k: int):
    assert torch.equal(latent_bank(2500, 8, seed=3)[:k], latent_bank(k, 8, seed=3))


def test_a_bank_is_standard_normal_and_its_blocks_and_seeds_differ():
    bank = latent_bank(4096, 8, seed=0)
    assert bank.dtype == torch.float32
    assert abs(bank.mean().item()) < 0.02
    assert abs(bank.std().item() - 1) < 0.02
    assert not torch.equal(bank[:1024], bank[1024:2048])
    assert not torch.equal(bank, latent_bank(4096, 8, seed=1))


@pytest.mark.parametrize("k", [1, 1024, 1500])
def test_the_first_rows_of_a_bank_with_labels_are_the_smaller_one(k: int):
    assert torch.equal(latents_of(takes(8, 10), 2500, 3)[:k], latents_of(takes(8, 10), k, 3))


def test_labels_leave_the_noise_as_it_is_and_are_uniform_one_hot_rows():
    bank = latents_of(takes(8, 4), 4096, seed=0)
    assert torch.equal(bank[:, :8], latent_bank(4096, 8, seed=0))
    labels = bank[:, 8:]
    assert torch.equal(labels.sum(dim=1), torch.ones(4096))
    assert torch.equal(labels.amax(dim=1), torch.ones(4096))
    # A count of 4096 draws at 1/4 has a deviation of 28.
    assert (labels.sum(dim=0) - 1024).abs().max() < 4 * 28
    assert not torch.equal(labels[:1024], labels[1024:2048])
    assert not torch.equal(labels, latents_of(takes(8, 4), 4096, seed=1)[:, 8:])


def test_the_latents_of_a_generator_and_of_its_checkpoint_are_the_same_bank():
    architecture = {"kind": "dense-cgan", "gf_dim": 4, "latent_dim": 5}
    built = build_model(architecture)
    expected = latents_of(takes(5, 10), 3, seed=2)
    assert torch.equal(latents_of(interface_of(built), 3, 2), expected)
    assert torch.equal(
        latents_of(Checkpoint(architecture, built.state_dict()).interface, 3, 2), expected
    )
    toy: Any = ToyGenerator()
    toy.latent_dim = 12  # somebody else's, which says nothing about classes
    assert torch.equal(latents_of(interface_of(toy), 3, 2), latent_bank(3, 12, seed=2))


def test_latents_of_what_does_not_say_how_wide_they_are_are_refused():
    with pytest.raises(InvalidValueError, match="ToyGenerator has no latent_dim"):
        latents_of(interface_of(ToyGenerator()), 3, 0)


def test_a_conditional_generator_is_sampled_like_any_other():
    conditional = build_model({"kind": "maxout-cgan", "gf_dim": 4, "image_size": 8}).eval()
    latents = latents_of(interface_of(conditional), 5, 0)
    [images] = generate_uint8(conditional, latents)
    assert images.shape == (5, 3, 8, 8)
    features = extract_features(conditional, latents, MeanColour(), 2)
    assert features.shape == (5, 3)


def test_a_bank_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    latent_bank(10, 4, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_an_impossible_bank_is_refused():
    with pytest.raises(InvalidValueError, match="got n 0"):
        latent_bank(0, 4, seed=1)


def test_bytes_are_truncated_and_clipped():
    images = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 2.0])
    assert to_uint8(images).tolist() == [0, 0, 127, 254, 255, 255]


def test_images_come_as_bytes_in_batches(generator: ToyGenerator):
    batches = list(generate_uint8(generator, latent_bank(10, 12, 0), batch_size=4))
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 4, 4), (4, 3, 4, 4), (2, 3, 4, 4)]
    assert all(batch.dtype == torch.uint8 for batch in batches)


def test_sampling_leaves_every_module_in_its_own_mode(generator: ToyGenerator):
    generator.train()
    generator.norm.eval()
    before = generator.get_buffer("norm.running_mean").clone()
    for _ in generate_uint8(generator, latent_bank(4, 12, 0), batch_size=2):
        assert generator.training
        assert torch.is_grad_enabled()
    assert not generator.norm.training
    assert torch.equal(generator.get_buffer("norm.running_mean"), before)


def test_grey_images_are_repeated_to_three_channels():
    [images] = generate_uint8(ToyGenerator(channels=1), latent_bank(2, 12, 0))
    assert images.shape == (2, 3, 4, 4)
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_diverged_generator_names_the_batch(generator: ToyGenerator):
    latents = latent_bank(8, 12, 0)
    latents[5] = torch.nan
    with pytest.raises(DivergedError, match="latents 4 to 7 "):
        list(generate_uint8(generator, latents, batch_size=4))


class Full(nn.Module):
    """A network on a GPU that has room for a few images, and remembers how many it was given."""

    def __init__(self, generator: nn.Module, room: int) -> None:
        super().__init__()
        self.generator, self.room, self.given = generator, room, list[int]()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.given.append(len(z))
        if len(z) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.generator(z)


def test_batches_that_do_not_fit_into_memory_are_halved_once_and_every_image_is_drawn(
    generator: ToyGenerator,
):
    latents = latent_bank(20, 12, 0)
    full = Full(generator, room=3)
    drawn = torch.cat(list(generate_uint8(full, latents, batch_size=10)))
    wanted = torch.cat(list(generate_uint8(generator, latents, batch_size=3)))
    assert torch.equal(drawn, wanted)
    assert full.given == [10, 5, 3, 3, 3, 3, 3, 3, 2]


def test_an_image_that_does_not_fit_alone_is_an_error(generator: ToyGenerator):
    with pytest.raises(torch.OutOfMemoryError):
        list(generate_uint8(Full(generator, room=0), latent_bank(4, 12, 0), batch_size=4))


@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_rows_that_do_not_fit_together_are_taken_in_halves_in_order(room: int):
    def call(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * rows

    rows = torch.arange(7.0)
    assert torch.equal(halving(call, rows), 2 * rows)


def test_features_do_not_depend_on_the_batch_size(generator: ToyGenerator):
    latents = latent_bank(10, 12, 0)
    seen: list[int] = []
    one = extract_features(generator, latents, MeanColour(), 1)
    many = extract_features(generator, latents, MeanColour(), 7, progress=seen.append)
    # Another batch size may round a pixel across the edge of a byte: 1 of 16 in a mean.
    np.testing.assert_allclose(one, many, atol=1 / 16 + 1e-6)
    assert seen == [7, 3]


@pytest.mark.parametrize("n_classes", [0, 3])
def test_streamed_latents_are_the_bank(n_classes: int):
    bank = latents_of(takes(5, n_classes), 2500, 7)
    streamed = StreamedLatents(takes(5, n_classes), 2500, 7)
    assert len(streamed) == 2500
    for start, stop in ((0, 64), (1000, 1100), (2048, 2600), (10, 2500)):
        assert torch.equal(streamed[start:stop], bank[start:stop])
