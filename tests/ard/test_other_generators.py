"""The engine on generators that are not the searched one: with labels, of transposed layers."""

import pytest
import torch

from ard.assembly.statistics import input_covariances
from ard.assembly.surgery import apply_plan
from ard.layers import profile_layers
from ard.plan import Factorization, RankPlan
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.networks.models import build_model

ARCHITECTURES = {
    "conditional": {"kind": "dense-cgan", "gf_dim": 8, "image_size": 6, "latent_dim": 12},
    "branches": {"kind": "maxout-cgan", "gf_dim": 8, "image_size": 6, "latent_dim": 12},
    "dcgan": {"kind": "dcgan", "gf_dim": 8, "image_size": 16, "latent_dim": 12},
    "dcgan with labels": {"kind": "dcgan", "gf_dim": 8, "image_size": 8, "n_classes": 3},
}


@pytest.fixture(params=ARCHITECTURES)
def generator(request, rng):
    return build_model(ARCHITECTURES[request.param], rng=rng).eval().requires_grad_(False)


def test_the_profile_counts_every_parameter_and_multiplication(generator):
    profile = profile_layers(generator, latents_of(interface_of(generator), 2, 0))
    assert profile.total_params == sum(p.numel() for p in generator.parameters())
    # A linear layer uses each weight once, a transposed one once at each input position.
    for layer in profile.layers:
        weight = generator.get_submodule(layer.name).weight
        assert layer.macs() == weight.numel() * (layer.input_positions or 1)
        assert (layer.kind == "conv_transpose2d") == (weight.ndim == 4)


def test_plans_of_full_rank_leave_the_images_as_they_are(generator):
    latents = latents_of(interface_of(generator), 32, 0)
    profile = profile_layers(generator, latents)
    names = [layer.name for layer in profile.layers]
    statistics = input_covariances(generator, latents, names)
    plan = RankPlan(
        {
            layer.name: Factorization(method, layer.max_rank(method))
            for layer in profile.layers
            for method in layer.methods()[-1:]
        }
    )
    compressed = apply_plan(generator, plan, statistics)
    torch.testing.assert_close(compressed(latents), generator(latents), atol=1e-4, rtol=1e-4)


def test_the_moments_of_the_first_layer_of_a_conditional_net_know_the_labels(rng):
    generator = build_model(ARCHITECTURES["conditional"], rng=rng).eval()
    latents = latents_of(interface_of(generator), 64, 0)
    [moments] = input_covariances(generator, latents, ["layers.linear1"]).values()
    expected = latents.double().T @ latents.double() / 64
    torch.testing.assert_close(moments.channel, expected)
