"""The networks of MMD-GAN with repulsive loss (Wang, Sun, Halgamuge; ICLR 2019).

All kernels of the discriminator have spectral norm with a constant C above 1: with L layers
`C = 64^(1/L)`, so that the product of the norms is 64.
"""

from __future__ import annotations

from nas_gan.errors import InvalidValueError
from nas_gan.networks.baselines.layers import LayerSpec
from nas_gan.networks.baselines.network import NetworkSpec

# image size -> (width of the first map, number of doublings)
SIZES = {32: (4, 3), 48: (6, 3), 64: (4, 4)}
# Product of the spectral norms of the discriminator's layers.
PRODUCT_OF_NORMS = 64.0
# Batch normalisation of TensorFlow, whose momentum is the share of the old average.
BATCH_NORM: LayerSpec = {"type": "batch_norm", "eps": 1e-3, "momentum": 0.01}


def generator(
    *,
    latent_dim: int = 128,
    gf_dim: int = 64,
    image_size: int = 32,
    image_channels: int = 3,
    n_classes: int,
    dense_norm: bool | None = None,
) -> NetworkSpec:
    """Latents to images; `gf_dim` is the width of the last hidden layer.

    `dense_norm` adds batch norm and activation after the linear layer; None does so at 48 px, as in
    the published net for STL-10.
    """
    bottom, doublings = _size(image_size)
    if dense_norm is None:
        dense_norm = image_size == 48
    width = gf_dim << doublings
    layers: list[LayerSpec] = [
        {"type": "linear", "out": width * bottom**2, "bias": not dense_norm},
        *([BATCH_NORM, {"type": "hidden"}] if dense_norm else []),
        {"type": "reshape", "to": [width, bottom, bottom]},
    ]
    for number in reversed(range(doublings)):
        up = {"kernel": 4, "stride": 2, "padding": 1, "bias": False}
        layers += [
            {"type": "conv_transpose", "out": gf_dim << number, **up},
            BATCH_NORM,
            {"type": "hidden"},
        ]
    layers += [
        {"type": "conv", "out": image_channels, "kernel": 3, "padding": 1},
        {"type": "output"},
    ]
    return NetworkSpec((latent_dim,), layers, n_classes=n_classes)


def discriminator(
    *,
    df_dim: int = 64,
    n_outputs: int = 16,
    image_size: int = 32,
    image_channels: int = 3,
    n_classes: int,
    product_of_norms: float = PRODUCT_OF_NORMS,
) -> NetworkSpec:
    """Images to `n_outputs` scores; `df_dim` is the width of the first layer."""
    _, halvings = _size(image_size)
    n_layers = 2 * halvings + 2
    norm = {"spectral_norm": product_of_norms ** (1 / n_layers)}
    layers: list[LayerSpec] = [{"type": "conv", "out": df_dim, "kernel": 3, "padding": 1, **norm}]
    for number in range(1, halvings + 1):
        down = {"out": df_dim << number, "kernel": 4, "stride": 2, "padding": 1}
        same = {"out": df_dim << number, "kernel": 3, "padding": 1}
        layers += [
            {"type": "hidden", "slope": 0.1},
            {"type": "conv", **down, **norm},
            {"type": "hidden", "slope": 0.1},
            {"type": "conv", **same, **norm},
        ]
    layers += [
        {"type": "hidden", "slope": 0.1},
        {"type": "flatten"},
        {"type": "linear", "out": n_outputs, **norm},
    ]
    return NetworkSpec((image_channels, image_size, image_size), layers, n_classes=n_classes)


def _size(image_size: int) -> tuple[int, int]:
    if image_size not in SIZES:
        raise InvalidValueError(
            f"the MMD-GAN networks are for {', '.join(map(str, SIZES))} px; got {image_size}"
        )
    return SIZES[image_size]
