"""The state that some losses keep between steps: a feedback level, and a count of random draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Feedback:
    """A level in `[0, cap]` that rises while the averaged loss is above `threshold`."""

    threshold: float
    rate: float
    cap: float
    average: float = 0.0
    level: float = 0.0

    def observe(self, loss: float) -> None:
        """Update the average and the level with the loss of one step."""
        self.average = 0.99 * self.average + 0.01 * loss
        raised = self.level + self.rate * (self.average - self.threshold)
        self.level = min(max(raised, 0.0), self.cap)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self.level = state["average"], state["level"]


class Draws:
    """The random numbers of a loss; the number of draws is their only state.

    They are the same in every process of a run, so that all processes compute the same loss from
    the scores of all of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.count = seed, 0

    def between(self, low: float, high: float) -> float:
        return float(self._next().uniform(low, high))

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in `[low, high)`, with the shape, type and device of `like`."""
        drawn = self._next().uniform(low, high, tuple(like.shape))
        return torch.from_numpy(drawn).to(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers, with the shape, type and device of `like`."""
        return torch.from_numpy(self._next().standard_normal(tuple(like.shape))).to(like)

    def _next(self) -> np.random.Generator:
        self.count += 1
        return np.random.default_rng([self.seed, self.count])

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Mixing:
    """Swaps real and fake scores at random; the better the discriminator, the more often.

    The probability follows the averaged discrepancy: while that is above `threshold`, it rises, to
    at most one half.
    """

    def __init__(self, threshold: float, draws: Draws) -> None:
        self.feedback, self.draws = Feedback(threshold, rate=0.01, cap=0.5), draws

    def __call__(self, real: Tensor, fake: Tensor, discrepancy: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed real and fake scores; `discrepancy` is that of the unmixed scores."""
        swap = self.draws.uniform(real[:, :1]) < self.feedback.level  # (m, 1)
        self.feedback.observe(discrepancy.item())
        return torch.where(swap, fake, real), torch.where(swap, real, fake)
