"""The interface of an adversarial loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.losses.kernels import UPPER_BOUND
from nas_gan.losses.parts import Parts


@dataclass(frozen=True)
class AdversarialLoss(ABC):
    """A loss of the discriminator and one of the generator, both functions of scores.

    Scores are what the discriminator returns: `(m, d)` for m real images and `(n, d)` for n fake
    ones.

    Attributes:
        parts: What the loss needs beyond scores, such as a gradient penalty. The training step
            computes these parts, because they need the discriminator itself.
    """

    parts: Parts = field(default=Parts(), kw_only=True)

    @abstractmethod
    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """The loss that the discriminator minimises.

        Args:
            real: Scores `(m, d)` of real images.
            fake: Scores `(n, d)` of generated images.
            upper: Upper bound on squared distances in a bounded kernel; other losses ignore it.
            epoch: Number of the epoch, from 0, for a loss with a term that ends.

        Returns:
            A scalar tensor with gradient.
        """

    @abstractmethod
    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The loss that the generator minimises.

        Args:
            real: Scores `(m, d)` of real images; they need no gradient.
            fake: Scores `(n, d)` of generated images.

        Returns:
            A scalar tensor with gradient.
        """

    @abstractmethod
    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Scalars that distinguish healthy training from collapse.

        MMD losses return mean kernel values, which stay near 0.6, away from 0 and 1, while
        training is healthy. The other losses return mean scores.

        Args:
            real: Scores `(m, d)` of real images.
            fake: Scores `(n, d)` of generated images.

        Returns:
            The scalars by the name that they have in a log.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state that changes during training, as plain values; empty for most losses."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InvalidValueError: The state is that of another loss.
        """
        if state:
            raise InvalidValueError(
                f"{type(self).__name__} keeps no state; got {', '.join(state)} of another loss"
            )
