"""From a choice among operations to weights with a gradient: Gumbel softmax and its temperature.

Sources: Categorical Reparameterization with Gumbel-Softmax (Jang, Gu, Poole; ICLR 2017);
AdversarialNAS (CVPR 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError

GumbelLogits = Literal["log-probabilities", "probabilities"]


def gumbel_noise(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Standard Gumbel noise, float32."""
    return torch.from_numpy(rng.gumbel(size=shape).astype(np.float32))


def gumbel_softmax(
    alphas: Tensor,
    noise: Tensor,
    temperature: float,
    logits: GumbelLogits = "log-probabilities",
) -> Tensor:
    """`softmax((logits + noise) / temperature)` over the last dimension, the shape of `alphas`.

    With log-probabilities the largest entry is operation `i` with probability
    `softmax(alphas)[i]`. The published code passes the probabilities themselves, which lie within
    1 of one another, so that its samples stay near the uniform choice whatever was learned.
    An `alpha` of minus infinity gets weight 0 either way.
    """
    if logits == "log-probabilities":
        scores = alphas.log_softmax(dim=-1)
    else:
        missing = alphas.isneginf()
        scores = alphas.softmax(dim=-1).masked_fill(missing, -torch.inf)
    return ((scores + noise) / temperature).softmax(dim=-1)


@dataclass(frozen=True)
class Relaxation:
    """How architecture parameters become weights of operations in a forward pass.

    `gumbel` draws a sample; `softmax` takes the expectation and ignores the temperature.
    """

    kind: Literal["gumbel", "softmax"] = "gumbel"
    logits: GumbelLogits = "log-probabilities"

    def __call__(self, alphas: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
        if self.kind == "softmax":
            return alphas.softmax(dim=-1)
        noise = gumbel_noise(tuple(alphas.shape), rng).to(alphas.device)
        return gumbel_softmax(alphas, noise, temperature, self.logits)


@dataclass(frozen=True)
class TemperatureSchedule:
    """Falls geometrically from `start` to `end` during training, and stays there.

    Raises:
        InvalidValueError: not `0 < end <= start`, both finite.
    """

    start: float = 5.0
    end: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start < math.inf:
            raise InvalidValueError(
                f"the temperature must fall from a finite start to an end above 0; "
                f"got {self.start} to {self.end}"
            )

    def __call__(self, progress: float) -> float:
        """The temperature at the finished fraction of the run, 0 to 1."""
        return max(self.end, self.start * (self.end / self.start) ** progress)
