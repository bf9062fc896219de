"""DCGAN and its relatives: transposed convolutions up, strided convolutions down.

`gf_dim` is the width of the generator's last hidden layer, and `df_dim` that of the discriminator's
first. The closer a layer is to the latents or the score, the wider it is: each step doubles it.
"""

from __future__ import annotations

from nas_gan.errors import InvalidValueError
from nas_gan.networks.baselines.layers import LayerSpec
from nas_gan.networks.baselines.network import NetworkSpec

# Width and height of the map between the vector and the convolutions.
BOTTOM = 4


def generator(
    *,
    latent_dim: int = 100,
    gf_dim: int = 128,
    image_size: int = 64,
    image_channels: int = 3,
    n_classes: int,
    output_bias: bool = True,
    attention: bool = False,
) -> NetworkSpec:
    """Latents to images: 1024, 512, 256, 128 channels at the published size, all with batch norm.

    `attention` adds a self-attention block at the map that is half as wide as the image.
    """
    widths = _widths(gf_dim, image_size)[::-1]
    layers: list[LayerSpec] = [{"type": "reshape", "to": [latent_dim + n_classes, 1, 1]}]
    for number, width in enumerate(widths):
        geometry = {"stride": 1, "padding": 0} if number == 0 else {"stride": 2, "padding": 1}
        layers += [
            {"type": "conv_transpose", "out": width, "kernel": BOTTOM, "bias": False, **geometry},
            {"type": "batch_norm"},
            {"type": "hidden"},
        ]
    if attention:
        layers.append({"type": "self_attention"})
    last = {"kernel": 4, "stride": 2, "padding": 1, "bias": output_bias}
    layers += [{"type": "conv_transpose", "out": image_channels, **last}, {"type": "output"}]
    return NetworkSpec((latent_dim,), layers, n_classes=n_classes)


def discriminator(
    *,
    df_dim: int = 64,
    image_size: int = 64,
    image_channels: int = 3,
    n_classes: int,
    outer_bias: bool = True,
    attention: bool = False,
) -> NetworkSpec:
    """Images to one score: 64, 128, 256, 512 channels, with batch norm on all but the first.

    `outer_bias` gives the first and the last convolution a bias. The critic of WGAN is the same
    net, since a sigmoid is part of the loss here.
    """
    layers: list[LayerSpec] = []
    for number, width in enumerate(_widths(df_dim, image_size)):
        first = number == 0
        conv = {"out": width, "kernel": 4, "stride": 2, "padding": 1}
        layers.append({"type": "conv", **conv, "bias": first and outer_bias})
        layers += [] if first else [{"type": "batch_norm"}]
        layers.append({"type": "hidden", "slope": 0.2})
        if first and attention:
            layers.append({"type": "self_attention"})
    layers += [
        {"type": "conv", "out": 1, "kernel": BOTTOM, "bias": outer_bias},
        {"type": "output"},
        {"type": "flatten"},
    ]
    return NetworkSpec((image_channels, image_size, image_size), layers, n_classes=n_classes)


def mnist_generator(
    *,
    latent_dim: int = 100,
    gf_dim: int = 16,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
) -> NetworkSpec:
    """The small DCGAN for MNIST: a linear layer, then 32 and 16 channels."""
    if image_size % 4:
        raise InvalidValueError(
            f"image_size {image_size} does not divide by 4: this net doubles its first map twice"
        )
    bottom = image_size // 4
    up = {"type": "conv_transpose", "kernel": 4, "stride": 2, "padding": 1}
    layers: list[LayerSpec] = [
        {"type": "linear", "out": 4 * gf_dim * bottom**2},
        {"type": "batch_norm"},
        {"type": "reshape", "to": [4 * gf_dim, bottom, bottom]},
        {**up, "out": 2 * gf_dim},
        {"type": "hidden"},
        {"type": "batch_norm"},
        {**up, "out": gf_dim},
        {"type": "hidden"},
        {"type": "conv_transpose", "out": image_channels, "kernel": 3, "padding": 1},
        {"type": "output"},
    ]
    return NetworkSpec((latent_dim,), layers, n_classes=n_classes)


def mnist_discriminator(
    *, df_dim: int = 16, image_size: int = 28, image_channels: int = 1, n_classes: int
) -> NetworkSpec:
    """Its discriminator: 64, 32 and 16 channels without strides, norms after activations."""
    layers: list[LayerSpec] = []
    for factor in (4, 2, 1):
        layers += [
            {"type": "conv", "out": factor * df_dim, "kernel": 4},
            {"type": "hidden", "slope": 0.2},
            {"type": "batch_norm"},
        ]
    layers += [{"type": "flatten"}, {"type": "linear", "out": 1}, {"type": "output"}]
    return NetworkSpec((image_channels, image_size, image_size), layers, n_classes=n_classes)


def _widths(narrowest: int, image_size: int) -> list[int]:
    """Channels from the widest map to the bottom, one for each halving of the image."""
    halvings = (image_size // BOTTOM).bit_length() - 1
    if image_size != BOTTOM << max(halvings, 1):
        raise InvalidValueError(
            f"must be {BOTTOM} times a power of two from 2 on, such as 8 or 64; got {image_size}",
            setting="image_size",
        )
    return [narrowest << number for number in range(halvings)]
