"""What a step draws: latents and labels that depend on a seed and the step's index alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import GeneratorInterface

Sampler = Callable[[int], Tensor]
Batch = Tensor | tuple[Tensor, Tensor]
Labelled = tuple[Tensor, Tensor | None]


class StepNoise:
    """`(batch_size, latent_dim)` normal noise that depends on nothing but the seed and the index.

    A resumed run therefore draws what an uninterrupted one would have drawn.
    """

    def __init__(self, seed: int, batch_size: int, latent_dim: int) -> None:
        self.seed, self.shape = seed, (batch_size, latent_dim)

    def __call__(self, index: int) -> Tensor:
        return _noise(_rng(self.seed, index), self.shape)


class StepLatents:
    """Latents `(batch_size, input_width)` of a generator, from the seed and the index alone.

    The noise is that of `StepNoise`; the labels of a conditional generator are drawn uniformly and
    follow it, one-hot.
    """

    def __init__(self, seed: int, batch_size: int, interface: GeneratorInterface) -> None:
        self.seed, self.batch_size, self.interface = seed, batch_size, interface

    def __call__(self, index: int) -> Tensor:
        rng, known = _rng(self.seed, index), self.interface
        noise = _noise(rng, (self.batch_size, known.latent_dim))
        if not known.conditional:
            return noise
        labels = torch.from_numpy(rng.integers(known.n_classes, size=self.batch_size))
        return with_labels(noise, labels, known.n_classes)


def _rng(seed: int, index: int) -> np.random.Generator:
    # Not a torch.Generator: on the CPU it looks at the low 32 bits of its seed only.
    return np.random.default_rng([seed, index])


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32))
