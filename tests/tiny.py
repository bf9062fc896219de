"""A generator, features and a checkpoint that are small enough for a test, and real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.evaluate import FidEvaluator
from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.sampling import extract_features, latent_bank
from nas_gan.networks import Generator, GeneratorConfig


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
    net = Generator(GeneratorConfig(gf_dim=channels))
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


def fid_evaluator(
    generator: Generator, n: int, seed: int, *, bootstrap: bool = False
) -> FidEvaluator:
    """ΔFID on `n` latents of its own; the reference is the dense generator on others still."""
    features = PixelFeatures()
    others = extract_features(generator, latent_bank(256, generator.latent_dim, 99), features)
    latents = latent_bank(n, generator.latent_dim, seed)
    dense = extract_features(generator, latents, features)
    paired = PairedFid(FrechetReference(statistics_of(others)), dense, seed=seed)
    return FidEvaluator(paired, latents, features, bootstrap=bootstrap)


def save_tiny_checkpoint(path: Path, seed: int = 0) -> Path:
    """A native checkpoint of `lively_generator`, 32 x 32 pixels."""
    generator = lively_generator(seed=seed)
    checkpoint = Checkpoint(
        architecture={"kind": "mmd-nas", **generator.config.to_dict()},
        generator=dict(generator.state_dict()),
        provenance={"dataset": "synthetic", "resolution": 32, "steps": 0, "seed": seed},
    )
    save_checkpoint(checkpoint, path)
    return path
