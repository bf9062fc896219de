from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import MMD_NAS, NORMAL, UP, Genotype
from nas_gan.networks.operations import (
    CONVOLUTIONS,
    Cell,
    InterpolateUp,
    make_edge,
    make_up_edge,
    resize,
)


@pytest.mark.parametrize("name", NORMAL[1:])
def test_a_normal_operation_keeps_the_shape(name):
    x = torch.randn(2, 4, 6, 6)
    edge = make_edge(name, 4, "relu")
    assert edge is not None
    assert edge(x).shape == x.shape


def test_none_is_no_edge_and_skip_connect_has_no_activation():
    assert make_edge("none", 4, "relu") is None
    x = torch.randn(2, 4, 6, 6)
    edge = make_edge("skip_connect", 4, "relu")
    assert edge is not None
    assert torch.equal(edge(x), x)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_sees_its_input_activated(name):
    edge: Any = make_edge(name, 2, "relu")
    only_negative = -torch.rand(1, 2, 8, 8)
    bias = edge.ops[0].op[1].bias.view(1, 2, 1, 1)
    torch.testing.assert_close(edge(only_negative), bias.expand(1, 2, 8, 8))


@pytest.mark.parametrize("name", UP["mmd-nas"])
def test_an_upsampling_operation_doubles_the_size(name):
    assert make_up_edge(name, 4, "relu")(torch.randn(2, 4, 3, 5)).shape == (2, 4, 6, 10)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_comes_before_the_activation(mode):
    up: Any = InterpolateUp(mode, 1, "relu")
    nn.init.ones_(up.c[1].weight)
    nn.init.zeros_(up.c[1].bias)
    x = torch.tensor([[[[-1.0, 1.0]]]])
    expected = resize(x, (2, 4), mode).relu()
    assert torch.equal(up(x), expected)
    assert not torch.equal(expected, resize(x.relu(), (2, 4), mode))


def test_bilinear_aligns_pixel_areas():
    # Half-pixel centres: the ends repeat, the middle mixes 3 to 1.
    row = resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4), "bilinear")
    assert row.flatten().tolist() == [0, 1, 3, 4]


def test_the_transposed_convolution_is_depthwise_and_without_bias():
    up: Any = make_up_edge("conv_transpose", 4, "relu")
    activation, depthwise, pointwise = up.ups[0].c
    assert isinstance(activation, nn.ReLU)
    assert depthwise.weight.shape == (4, 1, 3, 3)
    assert pointwise.weight.shape == (4, 4, 1, 1)
    assert depthwise.bias is None
    assert pointwise.bias is None


def test_the_skip_output_holds_the_earlier_skips():
    cell: Any = Cell(MMD_NAS, 2, 4, "relu")
    x, skip = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    without, _ = cell(x, (torch.zeros_like(skip),))
    skip_out, _ = cell(x, (skip,))
    added = cell.skip_in_ops[0](resize(skip, (8, 8), "bilinear"))
    bias = cell.skip_in_ops[0].bias.view(1, 4, 1, 1)
    torch.testing.assert_close(skip_out, without + added - bias)


def test_a_cell_wants_every_earlier_skip():
    with pytest.raises(ValueError, match="zip"):
        Cell(MMD_NAS, 3, 4, "relu")(torch.randn(1, 4, 4, 4), (torch.randn(1, 4, 4, 4),))


@pytest.mark.parametrize(
    ("row", "message"),
    [((0, 0, 0, 0, 1, 1, 1), "node 2 has no input"), ((0, 0, 1, 1, 0, 0, 0), "node 3 has no")],
)
def test_a_cell_with_a_node_that_nothing_reaches_is_refused(row, message):
    with pytest.raises(InvalidValueError, match=message):
        Cell(Genotype((row,) * 3), 1, 4, "relu")
