"""GANs of linear and maxout layers, with and without labels.

`gf_dim` and `df_dim` are the width of the narrowest hidden layer; their defaults are those of the
published nets.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas_gan.networks.baselines.layers import LayerSpec
from nas_gan.networks.baselines.network import NetworkSpec

SLOPE = 0.2  # of leaky ReLU for negative inputs


def mlp_generator(
    *,
    latent_dim: int = 100,
    gf_dim: int = 256,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
    batch_norm: bool = False,
) -> NetworkSpec:
    """256, 512 and 1024 units; with `batch_norm` the last layer has no activation."""
    layers: list[LayerSpec] = []
    for factor in (1, 2, 4):
        layers.append({"type": "linear", "out": factor * gf_dim})
        layers += [{"type": "batch_norm"}] if batch_norm else []
        # The widest layer of the gans-paper net has a norm but no activation.
        layers += [] if batch_norm and factor == 4 else [{"type": "hidden", "slope": SLOPE}]
    layers += _image(image_size, image_channels)
    return NetworkSpec((latent_dim,), layers, n_classes=n_classes)


def mlp_discriminator(
    *,
    df_dim: int = 256,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
    factors: Sequence[int] = (4, 2, 1),
    dropout: float = 0.3,
) -> NetworkSpec:
    """1024, 512 and 256 units, or `df_dim` times `factors`, each followed by dropout unless 0."""
    layers: list[LayerSpec] = []
    for factor in factors:
        layers += [
            {"type": "linear", "out": factor * df_dim},
            {"type": "hidden", "slope": SLOPE},
        ]
        layers += [{"type": "dropout", "rate": dropout}] if dropout else []
    layers += _score()
    shape = (image_channels, image_size, image_size)
    return NetworkSpec(shape, layers, [{"type": "flatten"}], n_classes=n_classes)


def maxout_gan_generator(
    *,
    latent_dim: int = 100,
    gf_dim: int = 512,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
) -> NetworkSpec:
    """512, 1024 and as many units as pixels, each with a batch norm."""
    layers: list[LayerSpec] = []
    for width in (gf_dim, 2 * gf_dim, image_channels * image_size**2):
        layers += [
            {"type": "linear", "out": width},
            {"type": "batch_norm"},
            {"type": "hidden", "slope": SLOPE},
        ]
    layers += _image(image_size, image_channels)
    return NetworkSpec((latent_dim,), layers, n_classes=n_classes)


def maxout_gan_discriminator(
    *,
    df_dim: int = 256,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
    dropout: float = 0.25,
) -> NetworkSpec:
    """Maxout layers of 512 and 256 units with five pieces each."""
    layers: list[LayerSpec] = []
    for width in (2 * df_dim, df_dim):
        layers += [
            {"type": "maxout", "out": width, "pieces": 5},
            {"type": "dropout", "rate": dropout},
        ]
    layers += _score()
    shape = (image_channels, image_size, image_size)
    return NetworkSpec(shape, layers, [{"type": "flatten"}], n_classes=n_classes)


def maxout_cgan_generator(
    *,
    latent_dim: int = 100,
    gf_dim: int = 128,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
    dropout: float = 0.3,
) -> NetworkSpec:
    """128 units for the label and 256 for the noise, joined, then 1024."""

    def branch(width: int) -> list[LayerSpec]:
        return [
            {"type": "linear", "out": width},
            {"type": "batch_norm"},
            {"type": "dropout", "rate": dropout},
            {"type": "hidden"},
        ]

    layers: list[LayerSpec] = [
        {"type": "linear", "out": 8 * gf_dim},
        {"type": "batch_norm"},
        {"type": "dropout", "rate": dropout},
        {"type": "hidden", "slope": 0.1},
        *_image(image_size, image_channels),
    ]
    return NetworkSpec(
        (latent_dim,), layers, branch(2 * gf_dim), branch(gf_dim), n_classes=n_classes
    )


def maxout_cgan_discriminator(
    *,
    df_dim: int = 40,
    image_size: int = 28,
    image_channels: int = 1,
    n_classes: int,
    dropout: float = 0.3,
    noise: float = 0.0,
    label_noise: float = 0.0,
) -> NetworkSpec:
    """200 maxout units for the image and 40 for the label, joined, then 200.

    `noise` and `label_noise` are the rates of uniform noise on the image and on the features of the
    label.
    """
    drop: LayerSpec = {"type": "dropout", "rate": dropout}
    features: list[LayerSpec] = [
        {"type": "noise", "rate": noise},
        {"type": "flatten"},
        {"type": "maxout", "out": 5 * df_dim, "pieces": 5},
        drop,
    ]
    labels: list[LayerSpec] = [
        {"type": "maxout", "out": df_dim, "pieces": 4},
        {"type": "noise", "rate": label_noise},
        drop,
    ]
    layers: list[LayerSpec] = [{"type": "maxout", "out": 5 * df_dim, "pieces": 4}, drop, *_score()]
    shape = (image_channels, image_size, image_size)
    return NetworkSpec(shape, layers, features, labels, n_classes=n_classes)


def _image(size: int, channels: int) -> list[LayerSpec]:
    return [
        {"type": "linear", "out": channels * size**2},
        {"type": "output"},
        {"type": "reshape", "to": [channels, size, size]},
    ]


def _score() -> list[LayerSpec]:
    return [{"type": "linear", "out": 1}, {"type": "output"}]
