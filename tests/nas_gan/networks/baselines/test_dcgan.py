import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.networks.baselines import dcgan
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_images_of_any_doubled_size_are_made_and_scored(size):
    generator = LayeredGenerator(dcgan.generator(gf_dim=8, image_size=size, n_classes=0))
    critic = LayeredDiscriminator(dcgan.discriminator(df_dim=8, image_size=size, n_classes=0))
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, size, size)
    assert critic(images).shape == (2, 1)


@pytest.mark.parametrize("size", [4, 28, 48, 63, 0])
def test_a_size_that_is_no_doubling_of_four_is_refused(size):
    for build in (dcgan.generator, dcgan.discriminator):
        with pytest.raises(InvalidValueError, match=f"power of two .*got {size}"):
            build(image_size=size, n_classes=0)


def test_the_small_net_refuses_a_size_that_it_cannot_double_twice():
    with pytest.raises(InvalidValueError, match="30 does not divide by 4"):
        dcgan.mnist_generator(image_size=30, n_classes=0)


def test_the_small_discriminator_normalises_after_the_activation():
    layers = [layer["type"] for layer in dcgan.mnist_discriminator(n_classes=0).layers]
    assert layers[:3] == ["conv", "hidden", "batch_norm"]


def test_any_of_them_can_be_conditional():
    generator = LayeredGenerator(dcgan.generator(gf_dim=8, image_size=8, n_classes=3))
    critic = LayeredDiscriminator(dcgan.discriminator(df_dim=8, image_size=8, n_classes=3))
    onehot = torch.eye(3)
    images = generator(torch.cat([torch.randn(3, 100), onehot], dim=1))
    assert critic(images, onehot).shape == (3, 1)
