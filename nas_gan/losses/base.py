"""What a training step asks of an adversarial loss."""

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
    """A pair of losses of real and fake scores, `(m, d)` and `(n, d)`.

    Attributes:
        parts: what belongs to the loss but needs the discriminator itself; the step sees to it.
    """

    parts: Parts = field(default=Parts(), kw_only=True)

    @abstractmethod
    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """Loss of the discriminator, a scalar; `upper` caps distances in a bounded kernel."""

    @abstractmethod
    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator, a scalar; it needs the real scores as values only."""

    @abstractmethod
    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Figures that tell a healthy training from a collapsing one.

        Mean kernels of MMD losses (healthy ones stay near 0.6, neither 0 nor 1), mean scores of
        the others.
        """

    def state_dict(self) -> dict[str, Any]:
        """What changes from update to update, as plain values; nothing for most losses."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if state:
            raise InvalidValueError(
                f"{type(self).__name__} keeps no state; got {', '.join(state)} of another loss"
            )
