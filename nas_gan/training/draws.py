"""What a step draws: latents and labels that depend on a seed and the step's index alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nas_gan.networks.conditional import with_labels

Sampler = Callable[[int], Tensor]
Batch = Tensor | tuple[Tensor, Tensor]
Labelled = tuple[Tensor, Tensor | None]


class StepLatents:
    """`(batch_size, latent_dim)` normal latents that depend on nothing but the seed and the index.

    A resumed run therefore draws what an uninterrupted one would have drawn. With classes
    `(batch_size, latent_dim + n_classes)`: one-hot labels follow, drawn uniformly.
    """

    def __init__(self, seed: int, batch_size: int, latent_dim: int, n_classes: int = 0) -> None:
        self.seed, self.shape, self.n_classes = seed, (batch_size, latent_dim), n_classes

    def __call__(self, index: int) -> Tensor:
        # Not a torch.Generator: on the CPU it looks at the low 32 bits of its seed only.
        rng = np.random.default_rng([self.seed, index])
        noise = torch.from_numpy(rng.standard_normal(self.shape, np.float32))
        if not self.n_classes:
            return noise
        labels = torch.from_numpy(rng.integers(self.n_classes, size=self.shape[0]))
        return with_labels(noise, labels, self.n_classes)
