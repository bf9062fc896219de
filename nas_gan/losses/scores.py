"""Losses that treat every score by itself: cross entropy, least squares, hinge, Wasserstein."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.feedback import Draws
from nas_gan.losses.kernels import UPPER_BOUND

Label = float | tuple[float, float]


class ScoreLoss(AdversarialLoss):
    """A loss without kernels."""

    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Mean scores of real and fake images."""
        return {"score/real": real.mean().item(), "score/fake": fake.mean().item()}


@dataclass(frozen=True)
class LabelLoss(ScoreLoss):
    """Drives scores towards labels.

    A label is a number, or a range from which a number is drawn for every score.

    Attributes:
        criterion: Cross entropy of scores that are logits, half the squared error (Mao et al.
            2017), or cross entropy of scores that are already probabilities.
        real: Label of real images in the discriminator's loss.
        fake: Label of generated images in the discriminator's loss.
        generator_label: Label of generated images in the generator's loss.
        seed: Seed of the labels that are drawn.
    """

    criterion: Literal["cross_entropy", "least_squares", "probability"] = "cross_entropy"
    real: Label = 1.0
    fake: Label = 0.0
    generator_label: Label = 1.0
    seed: int = 0
    _draws: Draws = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("real", "fake", "generator_label"):
            label = getattr(self, name)
            low, high = label if isinstance(label, tuple) else (label, label)
            if not low <= high:
                raise InvalidValueError(f"label {name} must be a range that rises; got {label}")
            if self.criterion != "least_squares" and not 0 <= low <= high <= 1:
                raise InvalidValueError(
                    f"label {name} of a cross entropy must be in [0, 1]; got {label}"
                )
        object.__setattr__(self, "_draws", Draws(self.seed))

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """The sum of the mean losses of real and of fake scores, a scalar."""
        return self._towards(real, self.real) + self._towards(fake, self.fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The mean loss of fake scores, a scalar."""
        return self._towards(fake, self.generator_label)

    def _towards(self, scores: Tensor, label: Label) -> Tensor:
        if isinstance(label, tuple):
            target = self._draws.uniform(scores, *label)
        else:
            target = torch.full_like(scores, label)
        if self.criterion == "cross_entropy":
            return F.binary_cross_entropy_with_logits(scores, target)
        if self.criterion == "probability":
            return F.binary_cross_entropy(scores, target)
        return F.mse_loss(scores, target) / 2

    def state_dict(self) -> dict[str, Any]:
        """The number of draws."""
        return {"draws": self._draws.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._draws.load_state_dict(state["draws"])


@dataclass(frozen=True)
class HingeLoss(ScoreLoss):
    """The hinge loss, 0 for real scores above 1 and fake scores below -1 (Lim and Ye 2017)."""

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """`mean relu(1 + fake) + mean relu(1 - real)`, a scalar."""
        return torch.relu(1 + fake).mean() + torch.relu(1 - real).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """`-mean fake`, a scalar."""
        return -fake.mean()


@dataclass(frozen=True)
class WassersteinLoss(ScoreLoss):
    """The difference of mean scores, for a critic that clipping or a penalty keeps Lipschitz.

    Raises:
        InvalidValueError: The loss has neither; scores would be unbounded and diverge.
    """

    def __post_init__(self) -> None:
        if self.parts.penalty is None and self.parts.clipping is None:
            raise InvalidValueError(
                "a Wasserstein loss needs a gradient penalty or weight clipping among its parts; "
                "got neither"
            )

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """`mean fake - mean real`, a scalar."""
        return fake.mean() - real.mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """`mean real - mean fake`, a scalar."""
        return real.mean() - fake.mean()
