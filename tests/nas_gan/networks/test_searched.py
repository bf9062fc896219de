from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import ADVERSARIAL_NAS
from nas_gan.networks.searched import (
    DATASET_SHAPES,
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    build_discriminator,
    initialize_,
)

# Published parameter counts of the generator: data set -> 256 channels, 128 channels, with PMish.
GENERATOR_PARAMETERS = {
    "cifar10": (20_185_879, 5_931_415),
    "cifar100": (17_908_503, 4_792_727),
    "stl10": (19_470_103, 5_573_527),
    "celeba64": (21_656_343, 6_666_647),
    "celeba128": (36_647_703, 14_162_327),
}
N_ACTIVATIONS = 20
SIDES = {"cifar10": 32, "cifar100": 32, "stl10": 48, "celeba64": 64, "celeba128": 128}


def on_meta(build):
    with torch.device("meta"):
        return build()


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("dataset", GENERATOR_PARAMETERS)
@pytest.mark.parametrize(("column", "channels"), [(0, 256), (1, 128)])
@pytest.mark.parametrize("activation", ["pmish", "swish", "relu", "silu", "mish"])
def test_the_generator_has_the_published_number_of_parameters(
    dataset, column, channels, activation
):
    config = GeneratorConfig.for_dataset(dataset, gf_dim=channels, activation=activation)
    learned = N_ACTIVATIONS if activation in ("pmish", "swish") else 0
    expected = GENERATOR_PARAMETERS[dataset][column] - N_ACTIVATIONS + learned
    assert count(on_meta(lambda: Generator(config))) == expected


def test_the_adversarial_nas_genotype_has_its_published_number_of_parameters():
    for changes, expected in (({}, 8_846_851), ({"gf_dim": 270, "bottom_width": 6}, 8_881_923)):
        parts = 2 if changes else 3
        config = GeneratorConfig(
            ADVERSARIAL_NAS, latent_parts=parts, activation="relu", **changes, n_classes=0
        )
        assert count(on_meta(lambda config=config: Generator(config))) == expected


@pytest.mark.parametrize(
    ("df_dim", "n_outputs", "size", "expected"),
    [
        (512, 16, 32, 16_805_888),
        (512, 16, 48, 16_805_888),
        (512, 16, 64, 17_068_544),
        (512, 16, 128, 17_331_200),
        (128, 16, 32, 1_055_744),
        (128, 1, 32, 1_053_824),
    ],
)
def test_the_discriminator_has_the_published_number_of_parameters(
    df_dim, n_outputs, size, expected
):
    config = DiscriminatorConfig.for_image_size(size, df_dim=df_dim, n_outputs=n_outputs)
    assert count(on_meta(lambda: Discriminator(config))) == expected


def test_there_is_one_learned_scalar_at_each_of_twenty_sites(tiny_generator):
    betas = {name: p.numel() for name, p in tiny_generator.named_parameters() if "beta" in name}
    assert list(betas.values()) == [1] * N_ACTIVATIONS


@pytest.mark.parametrize("dataset", DATASET_SHAPES)
def test_images_have_the_side_of_their_data_set_and_are_in_range(dataset, rng):
    generator = Generator(GeneratorConfig.for_dataset(dataset, gf_dim=4)).eval()
    images = generator(torch.randn(2, 120, generator=rng))
    assert images.shape == (2, *generator.image_shape) == (2, 3, SIDES[dataset], SIDES[dataset])
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("dataset", "part"), [("cifar10", 40), ("stl10", 60)])
def test_each_input_layer_reads_its_own_part_of_the_latent(dataset, part, rng):
    generator = Generator(GeneratorConfig.for_dataset(dataset, gf_dim=4)).eval()
    for number, start in enumerate(range(0, 120, part), start=1):
        z = torch.randn(1, 120, generator=rng, requires_grad=True)
        weight = generator.get_parameter(f"l{number}.weight")
        kept = weight.data.clone()
        weight.data.zero_()
        generator(z).square().sum().backward()
        weight.data = kept
        assert z.grad is not None
        silent = z.grad.eq(0).squeeze().nonzero().flatten().tolist()
        assert silent == list(range(start, start + part))


@pytest.mark.parametrize("width", [80, 160])
def test_latents_of_another_width_are_refused_not_cut(tiny_generator, width):
    with pytest.raises(RuntimeError, match="split"):
        tiny_generator(torch.randn(2, width))


@pytest.mark.parametrize("parts", [3, 2])
def test_images_are_those_of_the_published_net(parts, published_state, published_images, rng):
    state = published_state(parts)
    dataset = "cifar10" if parts == 3 else "cifar100"
    generator = Generator(GeneratorConfig.for_dataset(dataset, gf_dim=8)).eval()
    ours = {
        name.removeprefix("module.").replace(".activation_fn.", "."): tensor
        for name, tensor in state.items()
    }
    for name in ours:
        if name.endswith("beta"):
            ours[name] = ours[name].reshape(1)
    generator.load_state_dict(ours)
    z = torch.randn(4, 120, generator=rng)
    with torch.no_grad():
        found, expected = generator(z), published_images(state, z)
    assert expected.std() > 0.1
    # Both are float32; only the order of sums and the form of the softplus differ.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_config_survives_plain_values():
    config = GeneratorConfig.for_dataset("stl10", gf_dim=16, genotype=ADVERSARIAL_NAS)
    assert GeneratorConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "changes",
    [{"latent_parts": 4}, {"latent_dim": 121}, {"gf_dim": 0}, {"bottom_width": -1},
     {"image_channels": 0}, {"latent_dim": 0}],
)  # fmt: skip
def test_a_generator_that_cannot_be_is_refused(changes, tiny_config):
    with pytest.raises(InvalidValueError):
        replace(tiny_config, **changes)


def test_an_unknown_shape_and_an_unknown_init_name_the_choices(tiny_generator, rng):
    with pytest.raises(InvalidValueError, match="cifar10, cifar100, stl10"):
        GeneratorConfig.for_dataset("imagenet")
    with pytest.raises(InvalidValueError, match="xavier_uniform"):
        initialize_(tiny_generator, "false", rng)  # type: ignore[arg-type]
    refused: list[dict[str, Any]] = [{"downsampling": 5}, {"df_dim": 0}, {"n_outputs": 0}]
    for changes in refused:
        with pytest.raises(InvalidValueError):
            DiscriminatorConfig(**changes, n_classes=0)


def test_the_same_seed_draws_the_same_network_whatever_the_global_state(tiny_config):
    states = []
    for _ in range(2):
        generator = Generator(tiny_config)
        initialize_(generator, "normal", torch.Generator().manual_seed(5))
        states.append(generator.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize(
    ("init", "std"), [("normal", 0.02), ("xavier_uniform", (2 / (2 * 64 * 25)) ** 0.5)]
)
def test_convolutions_follow_the_init_and_linear_layers_do_not(init, std, rng):
    net: Any = nn.Sequential(nn.Conv2d(64, 64, 5), nn.Linear(400, 64), nn.BatchNorm2d(4096))
    initialize_(net, init, rng)
    assert net[0].weight.std().item() == pytest.approx(std, rel=0.02)
    # torch's own: uniform within 1 / sqrt(fan in), whose deviation is that over sqrt(3).
    assert net[1].weight.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.02)
    assert net[2].weight.mean().item() == pytest.approx(1, abs=2e-3)
    assert net[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net[2].bias.any()


def test_orthogonal_init_makes_orthonormal_rows(rng):
    conv = nn.Conv2d(8, 8, 3)
    initialize_(conv, "orth", rng)
    rows = conv.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)


def test_the_discriminator_scores_each_image_with_sixteen_numbers(rng):
    discriminator = build_discriminator(DiscriminatorConfig(df_dim=8, n_classes=0), rng=rng)
    assert discriminator(torch.randn(5, 3, 32, 32, generator=rng)).shape == (5, 16)


def test_spectral_norm_brings_every_layer_to_norm_one(rng):
    torch.manual_seed(0)  # the power iteration starts from the global generator
    discriminator = build_discriminator(DiscriminatorConfig(df_dim=8, n_classes=0), rng=rng)
    for _ in range(100):
        discriminator(torch.randn(1, 3, 8, 8, generator=rng))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 11
    for layer in layers:
        # Power iteration converges linearly, slower the closer the second singular value.
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.02)
