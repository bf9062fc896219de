import pytest
import torch
from torch import nn

from nas_gan.architecture_search.supernet import (
    Mixing,
    SuperDiscriminator,
    SuperGenerator,
    initialize_supernet_,
)
from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import D_EDGES, EDGES, MMD_NAS, DiscriminatorGenotype
from nas_gan.networks.searched import Generator, GeneratorConfig
from nas_gan.networks.searched_discriminator import (
    SearchedDiscriminatorConfig,
    build_searched_discriminator,
)

D_GENOTYPE = DiscriminatorGenotype(
    ((1, 0, 3, 3, 0, 2, 0), (3, 1, 0, 0, 2, 1, 4), (5, 6, 1, 3, 3, 5, 0), (4, 3, 2, 3, 0, 0, 3))
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def one_hot(indices, n):
    return nn.functional.one_hot(torch.tensor(indices), n).float()


def make_generator(**changes):
    config = GeneratorConfig(gf_dim=4, activation="pmish", n_classes=0)
    generator = SuperGenerator(config, **changes)
    initialize_supernet_(generator, "xavier_uniform", torch.Generator().manual_seed(0))
    return generator


def derived_state(module, supernet, parts):
    """The weights of a derived network, each from its place in the supernet.

    `parts` maps the first names in the derived network to those in the supernet.
    """
    theirs = supernet.state_dict()
    state = {}
    for name in module.state_dict():
        for ours, super_name in parts.items():
            if name.startswith(f"{ours}."):
                state[name] = theirs[super_name + name.removeprefix(ours)]
    return state


@pytest.mark.parametrize(
    ("activation", "up_columns", "size", "n_alphas"),
    [
        ("relu", 3, 29_420_126, 123),  # as published: 3 columns for 4 operations
        ("relu", None, 29_420_132, 129),
        ("pmish", 3, 29_420_226, 123),  # 100 activations more than ReLU's none
    ],
)
def test_the_generator_has_the_size_of_the_published_one(activation, up_columns, size, n_alphas):
    with torch.device("meta"):
        config = GeneratorConfig(gf_dim=160, activation=activation, n_classes=0)
        generator = SuperGenerator(config, up_columns=up_columns)
    assert count(generator) == size
    assert sum(alpha.numel() for alpha in generator.alphas) == n_alphas
    assert generator.alphas_normal.shape == (3, 5, 7)
    assert generator.alphas_up.shape == (3, 2, up_columns or 4)


def test_the_discriminator_has_the_size_of_the_published_one():
    with torch.device("meta"):
        discriminator = SuperDiscriminator()
    assert count(discriminator) == 11_050_508
    assert discriminator.alphas_normal.shape == (4, 5, 7)
    assert discriminator.alphas_down.shape == (4, 2, 6)
    assert sum(weight.numel() for weight in discriminator.weights) == 11_050_508 - 188


@pytest.mark.parametrize("columns", [3, 4])
def test_the_transposed_convolution_lives_with_four_columns_and_not_with_three(columns):
    generator = make_generator(up_columns=columns)
    generator(torch.randn(2, 120)).square().sum().backward()
    kernels = [p for name, p in generator.named_parameters() if "conv_transpose" in name]
    reached = [p.grad is not None and p.grad.any() for p in kernels if p.ndim == 4]
    assert len(reached) == 12  # a depthwise and a pointwise one on each of six edges
    assert all(reached) if columns == 4 else not any(reached)
    if columns == 4:
        assert generator.alphas_up.grad[..., 3].abs().min() > 0


def test_the_dead_part_of_the_published_search_is_as_large_as_stated():
    with torch.device("meta"):
        generator = SuperGenerator(
            GeneratorConfig(gf_dim=160, activation="relu", n_classes=0), up_columns=3
        )
    dead = [p.numel() for name, p in generator.named_parameters() if "conv_transpose" in name]
    assert sum(dead) == 162_240


def test_a_mixing_that_is_sure_is_the_derived_generator():
    supernet = make_generator().eval()
    rows = torch.tensor(MMD_NAS.rows)
    mixing = Mixing(one_hot(rows[:, 2:].tolist(), 7), one_hot(rows[:, :2].tolist(), 4))
    derived = Generator(GeneratorConfig(gf_dim=4, activation="pmish", n_classes=0)).eval()
    parts = {"to_rgb": "to_rgb"} | {f"l{n + 1}": f"inputs.{n}" for n in range(3)}
    for cell in (1, 2, 3):
        parts[f"cell{cell}.skip_in_ops"] = f"cells.{cell - 1}.skip_in_ops"
        for number, edge in enumerate(EDGES):
            list_ = f"ups.{number}" if number < 2 else f"edges.{number - 2}"
            operation = MMD_NAS.operation(cell, edge)
            parts[f"cell{cell}.{edge}"] = f"cells.{cell - 1}.{list_}.ops.{operation}"
    derived.load_state_dict(derived_state(derived, supernet, parts))
    z = torch.randn(3, 120)
    torch.testing.assert_close(supernet(z, mixing), derived(z))


def test_a_mixing_that_is_sure_is_the_derived_discriminator():
    supernet = SuperDiscriminator(4)
    rows = torch.tensor(D_GENOTYPE.rows)
    mixing = Mixing(one_hot(rows[:, :5].tolist(), 7), one_hot(rows[:, 5:].tolist(), 6))
    config = SearchedDiscriminatorConfig(D_GENOTYPE, df_dim=4, spectral_norm=False, n_classes=0)
    derived = build_searched_discriminator(config)
    parts = {"linear": "linear"}
    for block in (1, 2, 3, 4):
        for number, edge in enumerate(D_EDGES):
            list_ = f"edges.{number}" if number < 5 else f"downs.{number - 5}"
            operation = D_GENOTYPE.operation(block, edge)
            parts[f"blocks.{block - 1}.{edge}"] = f"blocks.{block - 1}.{list_}.ops.{operation}"
    derived.load_state_dict(derived_state(derived, supernet, parts))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(supernet(images, mixing), derived(images))


def test_without_a_mixing_every_edge_takes_the_softmax_of_its_parameters():
    generator = make_generator().eval()
    z = torch.randn(2, 120)
    mixing = Mixing(generator.alphas_normal.softmax(-1), generator.alphas_up.softmax(-1))
    assert torch.equal(generator(z), generator(z, mixing))


def test_the_first_edges_of_a_discriminator_share_the_whole_of_their_input_among_five():
    weights = SuperDiscriminator(4).mean_mixing().normal.detach()
    for edge in range(3):
        assert weights[0, edge].tolist() == pytest.approx([0.2] * 5 + [0] * 2)
    assert weights[0, 3].tolist() == pytest.approx([1 / 7] * 7)


def test_architecture_parameters_start_small_and_apart_from_the_weights():
    generator = make_generator()
    drawn = torch.cat([alpha.detach().flatten() for alpha in generator.alphas])
    # 129 draws of deviation 1e-3, within 5 standard errors.
    assert drawn.std().item() == pytest.approx(1e-3, abs=5e-3 / (2 * 129) ** 0.5)
    assert len(generator.weights) == len(list(generator.parameters())) - 2
    assert not any(alpha is weight for alpha in generator.alphas for weight in generator.weights)


def test_a_two_part_skeleton_feeds_two_cells():
    config = GeneratorConfig.for_dataset("stl10", gf_dim=4)
    generator = SuperGenerator(config)
    assert generator(torch.randn(2, 120)).shape == (2, 3, 48, 48)
    assert len(generator.inputs) == 2


def test_columns_past_the_table_are_refused():
    with pytest.raises(InvalidValueError, match="up_columns must be 1 to 3"):
        SuperGenerator(GeneratorConfig(gf_dim=4, n_classes=0), "adversarial-nas", 4)
    with pytest.raises(InvalidValueError, match="n_outputs must be at least 1"):
        SuperDiscriminator(4, 0)
