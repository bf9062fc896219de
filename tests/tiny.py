"""A generator, features and a checkpoint that are small enough for a test, and real."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.measuring.fid import FidEvaluator
from nas_gan.checkpoint import Checkpoint
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.searched import Generator, GeneratorConfig


def takes(latent_dim: int, n_classes: int = 0) -> GeneratorInterface:
    """The interface of some generator of small colour images."""
    return GeneratorInterface(latent_dim, n_classes, (3, 8, 8))


class PixelFeatures:
    """Sixteen fixed random directions of the 8 x 8 thumbnail."""

    name, dim, comparable = "pixels", 16, False

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.directions = rng.standard_normal((3 * 8 * 8, self.dim)) / 8

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        small = F.adaptive_avg_pool2d(torch.as_tensor(images).float(), 8).flatten(1)  # (n, 192)
        return (small.numpy() @ self.directions).astype(np.float32)


def lively_generator(channels: int = 8, seed: int = 0) -> Generator:
    """A published net of `channels` channels whose images use the whole range of a trained one's.

    Every weight keeps the size of its signal, and the only batch statistics are those of its own
    activations.
    """
    rng = torch.Generator().manual_seed(seed)
    net = Generator(GeneratorConfig(gf_dim=channels, n_classes=0))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=rng)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=rng)
    norm = net.to_rgb[0]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 1.0  # running statistics become those of the next batch
    with torch.no_grad():
        net.train()(torch.randn(64, net.latent_dim, generator=rng))
    norm.momentum = 0.1
    return net.eval().requires_grad_(False)


class SmallNet(nn.Module):
    """`(n, 8)` latents to `(n, 3, 16, 16)` images, by layers that are nearly of low rank."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = 8, (3, 16, 16)
        self.linear = nn.Linear(8, 16 * 16, bias=False)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.to_rgb = nn.Conv2d(16, 3, 3, padding=1, bias=False)
        rng = torch.Generator().manual_seed(seed)
        for layer in (self.linear, self.conv1, self.conv2, self.to_rgb):
            rows, columns = len(layer.weight), layer.weight[0].numel()
            strong = torch.randn(rows, 3, generator=rng) @ torch.randn(3, columns, generator=rng)
            weak = torch.randn(rows, columns, generator=rng)
            weight = (strong / 3**0.5 + 0.1 * weak) / columns**0.5
            with torch.no_grad():
                layer.weight.copy_(weight.view_as(layer.weight))
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        h = torch.tanh(self.linear(z)).view(-1, 16, 4, 4)
        h = F.interpolate(torch.tanh(self.conv1(h)), scale_factor=2.0)  # (n, 16, 8, 8)
        h = F.interpolate(torch.tanh(self.conv2(h)), scale_factor=2.0)  # (n, 16, 16, 16)
        return torch.tanh(self.to_rgb(self.norm(h)))


def fid_evaluator(generator: Generator | SmallNet, n: int, seed: int) -> FidEvaluator:
    """ΔFID on `n` latents of its own; the reference is the dense generator on others still."""
    features = PixelFeatures()
    others = extract_features(generator, latent_bank(n, generator.latent_dim, 99), features)
    latents = latent_bank(n, generator.latent_dim, seed)
    dense = extract_features(generator, latents, features)
    paired = PairedFid(FrechetReference(statistics_of(others)), dense)
    return FidEvaluator(paired, latents, features)


def checkpoint_of(generator: Generator) -> Checkpoint:
    """A checkpoint of a generator that claims to come from synthetic data."""
    return Checkpoint(
        architecture={"kind": "mmd-nas", **generator.config.to_dict()},
        generator=dict(generator.state_dict()),
        provenance={"dataset": "synthetic", "resolution": generator.image_shape[-1], "steps": 0},
    )
