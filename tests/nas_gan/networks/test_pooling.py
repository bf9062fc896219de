import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nas_gan.networks.pooling import PooledConv2d
from nas_gan.networks.searched import DiscriminatorConfig, build_discriminator


def mean_of_convolution(layer, x):
    """What it stands for: every output of the convolution, and the mean of 2 x 2 of them."""
    return F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=layer.padding), 2)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("sides", [(8, 8), (6, 10), (7, 9), (2, 2), (3, 2)])
def test_it_is_the_mean_of_a_convolution(kernel_size, sides):
    layer = PooledConv2d(3, 5, kernel_size).double()
    x = torch.randn(2, 3, *sides, dtype=torch.float64)
    torch.testing.assert_close(layer(x), mean_of_convolution(layer, x))


def test_its_gradients_are_those_of_the_mean_of_a_convolution():
    layer = PooledConv2d(3, 4, 3).double()
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    found, expected = (
        torch.autograd.grad(y.square().sum(), inputs)
        for y in (layer(x), mean_of_convolution(layer, x))
    )
    torch.testing.assert_close(found, expected)


def test_its_spectral_norm_is_that_of_the_kernel_in_checkpoints():
    plain, pooled = nn.Conv2d(4, 6, 3, padding=1).double(), PooledConv2d(4, 6, 3).double()
    pooled.load_state_dict(plain.state_dict())
    for layer in (plain, pooled):
        torch.manual_seed(0)
        spectral_norm(layer)
    assert pooled.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for _ in range(2):  # a power iteration each, as long as they are trained
        torch.testing.assert_close(pooled(x), F.avg_pool2d(plain(x), 2))


@pytest.mark.parametrize(("downsampling", "side"), [(2, 8), (3, 4), (4, 2)])
def test_a_discriminator_is_the_one_that_pools_behind_its_convolutions(
    downsampling, side, monkeypatch
):
    config = DiscriminatorConfig(df_dim=8, downsampling=downsampling, n_classes=0)
    discriminator = build_discriminator(config).double().eval()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found = discriminator(images)
    blocks = (discriminator.block1, discriminator.block2, discriminator.block3)
    assert nn.Sequential(*blocks, discriminator.block4)(images).shape == (3, 8, side, side)
    monkeypatch.setattr(PooledConv2d, "forward", mean_of_convolution)
    torch.testing.assert_close(found, discriminator(images))
