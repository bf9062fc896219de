"""The bounded repulsive pair of MMD-PMish-NAS, with its kick-start term (IEEE Access 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.kernels import (
    LOWER_BOUND,
    UPPER_BOUND,
    GaussianKernel,
    gaussian,
    kernel_health,
    mmd2,
    off_diagonal_mean,
    paired,
    squared_distances,
)

# Below this, the slope of the square root of an MMD is too steep for training.
SQRT_FLOOR = 1e-10


def attractive_loss(real: Tensor, fake: Tensor, sigma: float = 1.0) -> Tensor:
    """The discriminator's loss in the original MMD-GAN: the negative squared discrepancy."""
    return -mmd2(real, fake, sigma)


def bounded_repulsive_loss(
    real: Tensor,
    fake: Tensor,
    *,
    lower: float = LOWER_BOUND,
    upper: float = UPPER_BOUND,
    sigma: float = 1.0,
) -> Tensor:
    """The discriminator's loss that pushes real scores apart and fake scores together, a scalar.

    Squared distances of real scores have the cap `upper`, those of fake scores the floor `lower`;
    beyond them the kernel has hardly any gradient. With `sigma` 1 the loss is in
    `[exp(-upper/2) - exp(-lower/2), 1]`.
    """
    real, fake = paired(real, fake)
    real_kernel = gaussian(squared_distances(real, real).clamp(max=upper), sigma)
    fake_kernel = gaussian(squared_distances(fake, fake).clamp(min=lower), sigma)
    return off_diagonal_mean(real_kernel) - off_diagonal_mean(fake_kernel)


@dataclass(frozen=True)
class RepulsiveMMD(AdversarialLoss):
    """The bounded repulsive loss with the kick-start term that keeps fake scores within reach.

    Attributes:
        g_transform: What the generator minimises: the squared discrepancy (`none`), its positive
            part (`clamp`), or the root of that (`sqrt`).
        extra: Form of the kick-start term on fake scores: the mean of squared distances with a
            floor, diagonal included (`sq_l2_mean`), or the off-diagonal mean of the root of L1
            distances with a floor (`sqrt_l1_offdiag`).
        extra_weight: Weight of the kick-start term.
        extra_epochs: Number of epochs, from the first, that have the term; None means all.
        lower: Lower bound on the squared distances of fake scores.
        sigma: Width of the Gaussian kernel.
    """

    g_transform: Literal["none", "clamp", "sqrt"] = "none"
    extra: Literal["sq_l2_mean", "sqrt_l1_offdiag"] = "sqrt_l1_offdiag"
    extra_weight: float = 1e-4
    extra_epochs: int | None = None
    lower: float = LOWER_BOUND
    sigma: float = 1.0

    def __post_init__(self) -> None:
        # With a floor of 0, the root in the kick-start term could have an infinite slope.
        if not (self.lower > 0 and self.sigma > 0):
            raise InvalidValueError(
                f"lower and sigma must be above 0; got {self.lower} and {self.sigma}"
            )

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """Loss of the discriminator on `(m, d)` scores, a scalar."""
        real, fake = paired(real, fake)
        loss = bounded_repulsive_loss(real, fake, lower=self.lower, upper=upper, sigma=self.sigma)
        if self.extra_weight and (self.extra_epochs is None or epoch < self.extra_epochs):
            loss = loss + self.extra_weight * self._kick_start(fake)
        return loss

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator on `(m, d)` scores, a scalar; it never uses the bounds."""
        value = mmd2(real, fake, self.sigma)
        if self.g_transform == "none":
            return value
        if self.g_transform == "clamp":
            return value.clamp(min=0)
        # The floor inside the root keeps the slope finite where the discrepancy is not positive.
        # With a clamp at 0, the gradient there would be 0 times infinity.
        return value.clamp(min=SQRT_FLOOR).sqrt()

    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Mean kernels within the reals, within the fakes and across."""
        return kernel_health(real, fake, GaussianKernel((self.sigma,)))

    def _kick_start(self, fake: Tensor) -> Tensor:
        if self.extra == "sq_l2_mean":
            return squared_distances(fake, fake).clamp(min=self.lower).mean()
        l1 = (fake[:, None, :] - fake[None, :, :]).abs().sum(dim=-1)
        return off_diagonal_mean(l1.clamp(min=self.lower).sqrt())
