"""Leaving out updates of a discriminator that is too far ahead of its generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas_gan.errors import InvalidValueError

# Up to this averaged loss of the generator no update is left out.
THRESHOLD = 0.1
# How much of the average one more loss replaces.
WEIGHT = 0.01


class DynamicSkipping:
    """Updates the discriminator with probability `0.1 / max(average, 0.1)`, at first always.

    `average` is that of the generator's loss, by exponential forgetting: the squared discrepancy
    that an MMD loss has, which is large where the discriminator tells real from fake too well. The
    published code (MMD-GAN with repulsive loss, ICLR 2019) never moves its average off 0, and so
    never leaves an update out; here it follows the loss.

    The coin of an update depends on nothing but the seed and its index.

    Attributes:
        first: no update before this index is left out.
        average: of the losses observed so far; starts at 0.
        skipped: how many updates were left out so far.

    Raises:
        InvalidValueError: `first` is negative.
    """

    def __init__(self, first: int, seed: int) -> None:
        if first < 0:
            raise InvalidValueError(f"d_skip_from must be at least 0; got {first}")
        self.first, self.seed = first, seed
        self.average, self.skipped = 0.0, 0

    @property
    def probability(self) -> float:
        """Of an update that may be left out, to be made."""
        return THRESHOLD / max(self.average, THRESHOLD)

    def skips(self, index: int) -> bool:
        """Whether update `index` is left out, which is then counted."""
        if index < self.first:
            return False
        left_out = float(np.random.default_rng([self.seed, index]).random()) >= self.probability
        self.skipped += left_out
        return left_out

    def observe(self, loss: float) -> None:
        """Take the generator's loss in one update into account."""
        self.average += WEIGHT * (loss - self.average)

    def state_dict(self) -> dict[str, Any]:
        """What changes from update to update."""
        return {"average": self.average, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.average, self.skipped = float(state["average"]), int(state["skipped"])
