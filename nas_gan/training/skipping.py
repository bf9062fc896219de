"""Skipping updates of a discriminator that is too far ahead of its generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas_gan.errors import InvalidValueError

# Up to this averaged loss of the generator no update is skipped.
THRESHOLD = 0.1
# Weight of a new loss in the average.
WEIGHT = 0.01


class DynamicSkipping:
    """Updates the discriminator with probability `0.1 / max(average, 0.1)`, at first always.

    `average` is an exponential moving average of the generator's loss. An MMD loss is the squared
    discrepancy, which is large if the discriminator tells real from fake too well. The published
    code (MMD-GAN with repulsive loss, ICLR 2019) never moves its average off 0, and so never skips
    an update; here the average follows the loss.

    Whether an update is skipped is drawn from the seed and its index alone.

    Attributes:
        first: no update before this index is skipped.
        average: of the losses observed so far; starts at 0.
        skipped: how many updates were skipped so far.

    Raises:
        InvalidValueError: `first` is negative.
    """

    def __init__(self, first: int, seed: int) -> None:
        if first < 0:
            raise InvalidValueError(f"must be at least 0; got {first}", setting="d_skip_from")
        self.first, self.seed = first, seed
        self.average, self.skipped = 0.0, 0

    @property
    def probability(self) -> float:
        """Probability that an update is made, once updates may be skipped."""
        return THRESHOLD / max(self.average, THRESHOLD)

    def skips(self, index: int) -> bool:
        """Whether update `index` is skipped; if so, it is counted."""
        if index < self.first:
            return False
        skip = float(np.random.default_rng([self.seed, index]).random()) >= self.probability
        self.skipped += skip
        return skip

    def observe(self, loss: float) -> None:
        """Let the average follow the generator's loss of one update."""
        self.average += WEIGHT * (loss - self.average)

    def state_dict(self) -> dict[str, Any]:
        """What changes from update to update."""
        return {"average": self.average, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.average, self.skipped = float(state["average"]), int(state["skipped"])
