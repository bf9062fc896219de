"""What one update of a search draws: latents, and which operations take part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas_gan.architecture_search.relaxation import Relaxation, TemperatureSchedule
from nas_gan.architecture_search.supernet import Mixing, Supernet


class Draws:
    """The latents and mixings of one iteration, drawn one after the other from one stream.

    They are the same in every process of a search: the latents are those of the global batch, on
    the CPU.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        relaxation: Relaxation,
        temperature: float,
        latent_dim: int,
    ) -> None:
        self.rng, self.relaxation, self.temperature = rng, relaxation, temperature
        self.latent_dim = latent_dim

    def latents(self, n: int) -> Tensor:
        """`(n, latent_dim)` standard normal latents."""
        return torch.from_numpy(self.rng.standard_normal((n, self.latent_dim), np.float32))

    def mixing(self, network: Supernet) -> Mixing:
        """A mixing of the network's operations, one for the whole batch."""
        return Mixing(
            *(self.relaxation(alphas, self.temperature, self.rng) for alphas in network.logits())
        )


@dataclass(frozen=True)
class Sampling:
    """How an update draws latents and operations.

    All of it comes from `[seed, index]`, so that a resumed search is the same search.
    """

    relaxation: Relaxation
    temperature: TemperatureSchedule
    seed: int

    def draws(self, index: int, fraction: float, latent_dim: int) -> Draws:
        """The draws of update `index`, at the finished fraction of the search, 0 to 1."""
        rng = np.random.default_rng([self.seed, index])
        return Draws(rng, self.relaxation, self.temperature(fraction), latent_dim)
