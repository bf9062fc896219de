"""Kernels of discriminator scores, and the discrepancies that their means make up.

Scores are `(m, d)`. A kernel is a function of squared distances. Sources: MMD-GAN with repulsive
loss (Wang, Sun, Halgamuge; ICLR 2019) and MMD-PMish-NAS (IEEE Access 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError

LOWER_BOUND = 0.25
UPPER_BOUND = 4.0
NEWTON_STEPS = 3


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """`||a_i - b_j||^2` for every pair, `(m, d)` and `(n, d)` to `(m, n)`.

    The squares are those of differences, since the expanded form cancels for scores far from the
    origin.
    """
    return (a[:, None, :] - b[None, :, :]).square().sum(dim=-1)


def off_diagonal_mean(pairs: Tensor) -> Tensor:
    """Mean of an `(m, m)` matrix without its diagonal, a scalar."""
    m = pairs.shape[0]
    return (pairs.sum() - pairs.diagonal().sum()) / (m * (m - 1))


def paired(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The real scores, and equally many of the fake ones.

    Raises:
        InvalidValueError: There are fewer than two real scores, of which a kernel mean without its
            diagonal needs a pair, or fewer fake scores than real ones.
    """
    m = real.shape[0]
    if m < 2:
        raise InvalidValueError(f"an MMD loss needs a batch of at least 2; got {m}")
    if fake.shape[0] < m:
        raise InvalidValueError(
            f"an MMD loss needs as many fake scores as real ones ({m}); got {fake.shape[0]}"
        )
    return real, fake[:m]


def gaussian(squared: Tensor, sigma: float = 1.0) -> Tensor:
    """The Gaussian kernel of squared distances, elementwise."""
    return torch.exp(-squared / (2 * sigma**2))


class Kernel(Protocol):
    """A kernel as a function of squared distances, elementwise: a sum of `members` kernels."""

    @property
    def members(self) -> int: ...

    def __call__(self, squared: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GaussianKernel:
    """Sum of `exp(-d2 / (2 sigma^2))` over `sigmas`."""

    sigmas: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not (self.sigmas and all(sigma > 0 for sigma in self.sigmas)):
            raise InvalidValueError(f"a Gaussian kernel needs sigmas above 0; got {self.sigmas}")

    @property
    def members(self) -> int:
        return len(self.sigmas)

    def __call__(self, squared: Tensor) -> Tensor:
        return torch.stack([gaussian(squared, sigma) for sigma in self.sigmas]).sum(dim=0)


@dataclass(frozen=True)
class StudentKernel:
    """Sum of `(1 + d2 / (beta alpha))^-alpha` over `alphas`, with heavier tails than a Gaussian."""

    alphas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)
    beta: float = 2.0

    def __post_init__(self) -> None:
        if not (self.alphas and all(alpha > 0 for alpha in self.alphas) and self.beta > 0):
            raise InvalidValueError(
                f"a t kernel needs alphas and beta above 0; got {self.alphas} and {self.beta}"
            )

    @property
    def members(self) -> int:
        return len(self.alphas)

    def __call__(self, squared: Tensor) -> Tensor:
        return torch.stack(
            [(1 + squared / (self.beta * alpha)) ** -alpha for alpha in self.alphas]
        ).sum(dim=0)


@dataclass(frozen=True)
class CramerKernel:
    """The negative distance; its discrepancy is the energy distance."""

    # Added inside the root, so that the slope is finite where scores coincide.
    floor: float = 1e-16

    @property
    def members(self) -> int:
        return 1

    def __call__(self, squared: Tensor) -> Tensor:
        return -(squared + self.floor).sqrt()


ONE_GAUSSIAN = GaussianKernel()


@dataclass(frozen=True)
class KernelMeans:
    """Mean kernels within the real scores, within the fake scores and across the two, scalars."""

    real: Tensor
    fake: Tensor
    cross: Tensor

    @property
    def discrepancy(self) -> Tensor:
        """The squared maximum mean discrepancy."""
        return self.real + self.fake - 2 * self.cross


def kernel_means(real: Tensor, fake: Tensor, kernel: Callable[[Tensor], Tensor]) -> KernelMeans:
    """Kernel means of equally many real and fake scores, all without the diagonal."""
    return KernelMeans(
        *(
            off_diagonal_mean(kernel(squared_distances(a, b)))
            for a, b in ((real, real), (fake, fake), (real, fake))
        )
    )


@torch.no_grad()
def kernel_health(real: Tensor, fake: Tensor, kernel: Kernel) -> dict[str, float]:
    """Mean kernels within real scores, within fake scores and across, per member of the kernel."""
    means = kernel_means(*paired(real, fake), kernel)
    return {
        f"kernel/{name}": getattr(means, name).item() / kernel.members
        for name in ("real", "fake", "cross")
    }


def mmd2(real: Tensor, fake: Tensor, sigma: float = 1.0) -> Tensor:
    """Squared maximum mean discrepancy, a scalar; the cross term keeps its diagonal.

    It can be slightly negative, since only the terms within a set leave out their diagonal.
    """
    real, fake = paired(real, fake)
    within_real = off_diagonal_mean(gaussian(squared_distances(real, real), sigma))
    within_fake = off_diagonal_mean(gaussian(squared_distances(fake, fake), sigma))
    return within_real + within_fake - 2 * gaussian(squared_distances(real, fake), sigma).mean()


def scale_for(squared: Tensor, omega: float) -> Tensor:
    """The `beta` at which `exp(-beta d2)` has the off-diagonal mean `omega`, a scalar.

    Three Newton steps, without gradient. `squared` is `(m, m)`.
    """
    with torch.no_grad():

        def mean_and_slope(beta: Tensor) -> tuple[Tensor, Tensor]:
            kernel = torch.exp(-beta * squared)
            return off_diagonal_mean(kernel), off_diagonal_mean(squared * kernel)

        return _newton(mean_and_slope, off_diagonal_mean(squared), omega)


def normal_discrepancy(scores: Tensor, omega: float, center: float = 0.0) -> Tensor:
    """Squared discrepancy between scores and a normal distribution of spread 1, a scalar.

    The distribution has mean `center` and variance `1 / (2 d)` in each of the d coordinates. Its
    kernel means have closed forms; `beta` is chosen so that the mean kernel across is `omega`.
    """
    d = scores.shape[1]
    to_center = (scores - center).square().sum(dim=1)  # (m,)

    def across(beta: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        shrink = d / (d + beta)
        kernel = shrink ** (d / 2) * torch.exp(-beta * shrink * distance)  # (m,)
        return kernel.mean(), (kernel * (shrink / 2 + distance * shrink**2)).mean()

    with torch.no_grad():
        beta = _newton(lambda b: across(b, to_center), to_center.mean() + 0.5, omega)
    within = off_diagonal_mean(torch.exp(-beta * squared_distances(scores, scores)))
    return within + (d / (d + 2 * beta)) ** (d / 2) - 2 * across(beta, to_center)[0]


def _newton(
    mean_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]], mean_distance: Tensor, omega: float
) -> Tensor:
    # The mean kernel is convex and falls with beta, and by Jensen's inequality it is above omega at
    # the start, so that Newton's steps approach the root from below and never pass it.
    tiny = torch.finfo(mean_distance.dtype).tiny
    start = -math.log(omega) / mean_distance.clamp(min=1e-12)
    beta = start
    for _ in range(NEWTON_STEPS):
        mean, slope = mean_and_slope(beta)
        # If half of the pairs coincide there may be no root; the cap keeps beta finite.
        beta = (beta + (mean - omega) / slope.clamp(min=tiny)).clamp(max=1e3 * start)
    return beta
