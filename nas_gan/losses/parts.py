"""The parts of a loss that need more than scores: penalties, scaling, clipping, image noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.losses.kernels import Kernel, squared_distances

Score = Callable[[Tensor], Tensor]
Place = Literal["interpolated", "real", "fake"]


@dataclass(frozen=True)
class GradientPenalty:
    """`weight * mean((||gradient of f|| - target)^2)` over images (Gulrajani et al. 2017).

    Attributes:
        weight: Factor in the discriminator's loss.
        witness: Kernel of the MMD whose witness `E k(., real) - E k(., fake)` is f. With None, f is
            the critic itself, the mean of its outputs.
        at: Images at which the gradient is taken: random points between real and fake images, or
            one of the two.
        target: Target norm; with 0 at real images, this is twice the R1 penalty.
    """

    weight: float = 10.0
    witness: Kernel | None = None
    at: Place = "interpolated"
    target: float = 1.0

    def __post_init__(self) -> None:
        _positive("the weight of a gradient penalty", self.weight)

    def __call__(
        self, score: Score, real: Tensor, fake: Tensor, real_scores: Tensor, fake_scores: Tensor
    ) -> Tensor:
        """The weighted penalty, a scalar with gradient.

        `real` and `fake` are images `(m, c, h, w)` and `(n, c, h, w)` with `n >= m`.
        """
        images = _place(self.at, real, fake).requires_grad_()
        scores = score(images)  # (m, d)
        if self.witness is None:
            value = scores.flatten(1).mean(dim=1)
        else:
            near_real = self.witness(squared_distances(scores, real_scores)).mean(dim=1)
            near_fake = self.witness(squared_distances(scores, fake_scores)).mean(dim=1)
            value = near_real - near_fake
        (gradient,) = torch.autograd.grad(value.sum(), images, create_graph=True)
        # The constant keeps the slope of the root finite where the gradient vanishes.
        norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()  # (m,)
        return self.weight * (norm - self.target).square().mean()


@dataclass(frozen=True)
class GradientScaling:
    """Multiplies `loss - offset` by `1 / (weight * mean ||J||_F^2 + 1)` (Arbel et al. 2018).

    J is the Jacobian of all scores of an image with respect to the image.
    """

    weight: float = 0.1
    offset: float = 0.0
    at: Place = "real"

    def __post_init__(self) -> None:
        _positive("the weight of gradient scaling", self.weight)

    def squared_jacobian(self, score: Score, real: Tensor, fake: Tensor) -> Tensor:
        """Mean of `||J||_F^2` over images, a scalar with gradient."""
        images = _place(self.at, real, fake).requires_grad_()
        total = torch.zeros((), device=images.device)
        for output in score(images).flatten(1).unbind(dim=1):  # d times (m,)
            (gradient,) = torch.autograd.grad(output.sum(), images, create_graph=True)
            total = total + gradient.square().sum() / len(images)
        return total

    def scaled(self, loss: Tensor, squared_jacobian: Tensor) -> Tensor:
        return (loss - self.offset) / (self.weight * squared_jacobian + 1)


@dataclass(frozen=True)
class WeightClipping:
    """Clips every weight of the critic to `[-bound, bound]` after each of its updates (WGAN)."""

    bound: float = 0.01

    def __post_init__(self) -> None:
        _positive("the bound of weight clipping", self.bound)

    @torch.no_grad()
    def clip_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clip in place."""
        for parameter in parameters:
            parameter.clamp_(-self.bound, self.bound)


@dataclass(frozen=True)
class ImageNoise:
    """Normal noise on every image that the discriminator sees, which falls linearly to 0.

    Attributes:
        std: Initial standard deviation; images are in [-1, 1].
        updates: Number of steps until the noise is 0; with None it stays as it is.
    """

    std: float = 0.1
    updates: int | None = None

    def __post_init__(self) -> None:
        _positive("the standard deviation of image noise", self.std)
        if self.updates is not None and self.updates < 1:
            raise InvalidValueError(f"image noise must last at least 1 step; got {self.updates}")

    def std_at(self, index: int) -> float:
        """Standard deviation in step `index`."""
        return self.std * max(0.0, 1 - index / self.updates) if self.updates else self.std

    def add(self, images: Tensor, index: int) -> Tensor:
        """The images with the noise of step `index`, drawn from torch's global generator."""
        std = self.std_at(index)
        return images + std * torch.randn_like(images) if std else images


@dataclass(frozen=True)
class Parts:
    """What a loss can have beyond a function of scores; all parts are optional."""

    penalty: GradientPenalty | None = None
    scaling: GradientScaling | None = None
    clipping: WeightClipping | None = None
    noise: ImageNoise | None = None


def _place(at: Place, real: Tensor, fake: Tensor) -> Tensor:
    fake = fake[: len(real)]
    if at == "interpolated":
        weight = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device)
        # The points are the same in any precision: under autocast, fake images have another type.
        return torch.lerp(real, fake.to(real), weight.to(real)).detach()
    return (real if at == "real" else fake).detach().clone()


def _positive(what: str, value: float) -> None:
    if not value > 0:
        raise InvalidValueError(f"{what} must be above 0; got {value}")
