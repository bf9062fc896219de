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
    """A pair of losses of real and fake scores, `(m, d)` and `(n, d)`.

    Attributes:
        parts: what the loss has beyond a function of scores, such as a gradient penalty; the step
            carries it out, since it needs the discriminator itself.
    """

    parts: Parts = field(default=Parts(), kw_only=True)

    @abstractmethod
    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """Loss of the discriminator, a scalar; `upper` caps distances in a bounded kernel."""

    @abstractmethod
    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator, a scalar; the real scores need no gradient."""

    @abstractmethod
    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Scalars that tell healthy training from collapse.

        For MMD losses these are mean kernels, which stay near 0.6 (neither 0 nor 1) as long as
        training is healthy; for the others mean scores.
        """

    def state_dict(self) -> dict[str, Any]:
        """What changes during training, as plain values; empty for most losses."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise InvalidValueError(
                f"{type(self).__name__} keeps no state; got {', '.join(state)} of another loss"
            )
