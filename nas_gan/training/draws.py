"""The random draws of a training step, which depend on the seed and the index of the step alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.latents import draw_noise

Sampler = Callable[[int], Tensor]
Batch = Tensor | tuple[Tensor, Tensor]
Labelled = tuple[Tensor, Tensor | None]


class StepNoise:
    """Normal noise `(batch_size, latent_dim)` that depends on the seed and the step alone.

    A resumed run therefore draws the same noise as an uninterrupted one.
    """

    def __init__(self, seed: int, batch_size: int, latent_dim: int) -> None:
        self.seed, self.shape = seed, (batch_size, latent_dim)

    def __call__(self, index: int) -> Tensor:
        return draw_noise(_rng(self.seed, index), self.shape, "normal")


class StepLatents:
    """Draws the latents of a training step, which depend on the seed and the step alone.

    A resumed run therefore draws the same latents as an uninterrupted one. An instance is called
    with the index of the step and returns a float32 tensor `(batch_size, latent_dim + n_classes)`.
    The labels of a conditional generator are drawn uniformly and follow the noise, one-hot. For a
    network that takes images, they are inputs of the search's part, with replacement.

    Args:
        seed: Seed of all steps.
        batch_size: Latents per step.
        interface: What the generator takes.
    """

    def __init__(self, seed: int, batch_size: int, interface: GeneratorInterface) -> None:
        self.seed, self.batch_size, self.interface = seed, batch_size, interface

    def __call__(self, index: int) -> Tensor:
        rng, known = _rng(self.seed, index), self.interface
        if known.inputs is not None:
            return known.inputs.draw(self.batch_size, rng)
        noise = draw_noise(rng, (self.batch_size, known.latent_dim), known.latents)
        if not known.conditional:
            return noise
        labels = torch.from_numpy(rng.integers(known.n_classes, size=self.batch_size))
        return with_labels(noise, labels, known.n_classes)


def _rng(seed: int, index: int) -> np.random.Generator:
    # Not a torch.Generator: on the CPU it looks at the low 32 bits of its seed only.
    return np.random.default_rng([seed, index])
