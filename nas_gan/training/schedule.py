"""Whose turn it is in an adversarial training, and how far the run has got."""

from __future__ import annotations

from dataclasses import dataclass

from nas_gan.errors import InvalidValueError
from nas_gan.training.skipping import DynamicSkipping


@dataclass(frozen=True)
class Schedule:
    """The length of a run and the updates in which each network takes part.

    Attributes:
        n_steps: updates of the whole run.
        updates_per_epoch: updates in one pass over the data.
        n_critic: the generator is updated in every `n_critic`-th update only.
        d_every: the discriminator is updated in every `d_every`-th update only.
        d_skipping: leaves out some of the discriminator's updates at random; None leaves out none.

    Raises:
        InvalidValueError: both networks would wait for each other.
    """

    n_steps: int
    updates_per_epoch: int
    n_critic: int = 1
    d_every: int = 1
    d_skipping: DynamicSkipping | None = None

    def __post_init__(self) -> None:
        n_critic, d_every = self.n_critic, self.d_every
        if d_every < 1 or n_critic < 1 or (d_every > 1 and n_critic > 1):
            raise InvalidValueError(
                "n_critic and d_every must be at least 1, and one of them 1; "
                f"got {n_critic} and {d_every}"
            )
        if self.d_skipping is not None and (d_every > 1 or n_critic > 1):
            # Both are answers to a discriminator that is ahead, or behind.
            raise InvalidValueError(
                f"goes with n_critic 1 and d_every 1; got {n_critic} and {d_every}",
                setting="d_skip_from",
            )

    def fraction(self, index: int) -> float:
        """The finished fraction of the run at the start of update `index`, 0 to 1."""
        return index / self.n_steps

    def epoch(self, index: int) -> int:
        """The epoch of update `index`, from 0."""
        return index // self.updates_per_epoch

    def generator_is_due(self, index: int) -> bool:
        """Whether update `index` is also one of the generator."""
        return (index + 1) % self.n_critic == 0

    def discriminator_is_due(self, index: int) -> bool:
        """Whether update `index` is also one of the discriminator; call it once per update."""
        if self.d_skipping is not None and self.d_skipping.skips(index):
            return False
        return (index + 1) % self.d_every == 0
