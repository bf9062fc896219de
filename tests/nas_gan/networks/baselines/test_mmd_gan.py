import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.networks.baselines import mmd_gan
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator


@pytest.mark.parametrize("size", [32, 48, 64])
def test_images_of_the_published_sizes_are_made_and_scored(size):
    generator = LayeredGenerator(mmd_gan.generator(gf_dim=4, image_size=size, n_classes=0))
    discriminator = LayeredDiscriminator(
        mmd_gan.discriminator(df_dim=4, image_size=size, n_classes=0)
    )
    images = generator(torch.randn(2, 128))
    assert images.shape == (2, 3, size, size)
    assert discriminator(images).shape == (2, 16)


@pytest.mark.parametrize(("size", "n_layers", "constant"), [(32, 8, 1.68179), (64, 10, 1.51572)])
def test_every_kernel_of_the_discriminator_has_the_published_constant(size, n_layers, constant):
    net = LayeredDiscriminator(mmd_gan.discriminator(df_dim=4, image_size=size, n_classes=0))
    assert [scale for _, _, scale in net.normed] == pytest.approx([constant] * n_layers, abs=5e-6)
    weighted = [m for m in net.modules() if hasattr(m, "weight")]
    assert len(weighted) == n_layers


def test_the_input_sizes_of_the_normed_layers_are_those_of_the_forward_pass():
    net = LayeredDiscriminator(mmd_gan.discriminator(df_dim=4, n_classes=0))
    seen = {}
    for name, _, _ in net.normed:
        layer = net.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: tuple(inputs[0].shape[1:])})
        )
    net(torch.randn(1, 3, 32, 32))
    assert seen == {name: shape for name, shape, _ in net.normed}


def test_only_the_net_for_48_pixels_normalises_its_linear_layer():
    kinds = {
        size: [layer["type"] for layer in mmd_gan.generator(image_size=size, n_classes=0).layers][
            :2
        ]
        for size in (32, 48, 64)
    }
    assert kinds == {
        32: ["linear", "reshape"],
        48: ["linear", "batch_norm"],
        64: ["linear", "reshape"],
    }


def test_another_size_names_those_there_are():
    with pytest.raises(InvalidValueError, match="32, 48, 64 px; got 28"):
        mmd_gan.generator(image_size=28, n_classes=0)
