import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import DOWN, FIRST, DiscriminatorGenotype
from nas_gan.networks.searched_discriminator import (
    SearchedDiscriminatorConfig,
    build_searched_discriminator,
    make_down_edge,
    make_first_edge,
)

# c0 conv, c1 conv, c2 conv, c3 none, c4 identity; then one identity chain; c0 unread in the last.
GENOTYPE = DiscriminatorGenotype(
    ((0, 1, 1, 0, 1, 0, 1), (1, 1, 0, 1, 1, 0, 0), (3, 0, 3, 3, 0, 2, 1), (3, 1, 1, 0, 0, 0, 0))
)


def make(genotype=GENOTYPE, **changes):
    config = SearchedDiscriminatorConfig(genotype, df_dim=4, **changes, n_classes=0)
    return build_searched_discriminator(config, rng=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [32, 48])
def test_every_block_halves_the_image_and_each_image_has_its_scores(size):
    net = make(n_outputs=5)
    images = torch.randn(2, 3, size, size)
    assert net.blocks(images).shape == (2, 4, size // 16, size // 16)
    assert net(images).shape == (2, 5)


@pytest.mark.parametrize("name", DOWN)
def test_a_downsampling_operation_halves_both_sides(name):
    assert make_down_edge(name, 4)(torch.randn(1, 4, 6, 10)).shape == (1, 4, 3, 5)


@pytest.mark.parametrize("name", FIRST)
def test_an_operation_on_the_image_is_linear_and_keeps_its_size(name):
    edge = make_first_edge(name, 3, 4)
    x = torch.randn(1, 3, 6, 6)
    zero = edge(torch.zeros_like(x))  # the bias
    torch.testing.assert_close(edge(-x) - zero, zero - edge(x))
    assert zero.shape == (1, 4, 6, 6)


def test_a_block_adds_up_its_edges_as_its_genotype_says():
    block = make(spectral_norm=False).blocks[0]
    x = torch.randn(1, 3, 8, 8)

    def conv(edge, padding):
        layer = getattr(block, edge).ops[0]
        return F.conv2d(x, layer.weight, layer.bias, padding=padding)

    node0, node1 = conv("c0", 0), conv("c1", 1)
    node2 = conv("c2", 1) + node0
    expected = F.avg_pool2d(node1, 2) + F.max_pool2d(node2, 2)
    torch.testing.assert_close(block(x), expected)


def test_an_edge_that_nothing_reads_is_not_built():
    assert GENOTYPE.operation(4, "c0") == "conv_3x3"
    assert make().blocks[3].c0 is None


def test_every_layer_has_unit_spectral_norm_once_the_power_iteration_has_converged():
    net = make()
    for _ in range(200):
        net(torch.randn(1, 3, 16, 16))
    net.eval()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in layers]
    # Power iteration in float32, on weights whose two largest singular values may be close.
    assert norms == pytest.approx([1] * len(norms), abs=1e-3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 0, 1, 0, 1, 0, 0), "block2: node 1 has no input; one of c1, c3"),
        ((1, 1, 0, 1, 0, 0, 0), "block2: node 2 has no input; one of c2, c4"),
        ((0, 1, 1, 0, 3, 0, 0), "block2: c4 reads node 0"),
    ],
)
def test_a_block_with_a_node_that_has_no_input_is_refused(row, message):
    rows = list(GENOTYPE.rows)
    rows[1] = row
    with pytest.raises(InvalidValueError, match=message):
        make(DiscriminatorGenotype(tuple(rows)))


def test_a_discriminator_without_channels_is_refused():
    with pytest.raises(InvalidValueError, match="n_outputs must be at least 1"):
        make(n_outputs=0)
