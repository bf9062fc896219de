"""MMD losses with one kernel, a mixture of kernels, or a kernel of random scale.

Source: MMD-GAN with repulsive loss (Wang, Sun, Halgamuge; ICLR 2019). All kernel means leave out
the diagonal, even the one across real and fake scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.feedback import Draws, Feedback, Mixing
from nas_gan.losses.kernels import (
    LOWER_BOUND,
    ONE_GAUSSIAN,
    UPPER_BOUND,
    Kernel,
    kernel_health,
    kernel_means,
    normal_discrepancy,
    off_diagonal_mean,
    paired,
    scale_for,
    squared_distances,
)

# The random scale gives the mean kernel across a value between these.
OMEGA = (0.05, 0.85)
# The bounds of a kernel of random scale are bounds of `beta * d2`.
SCALED_LOWER, SCALED_UPPER = 0.125, 2.0
# Noise on scores has the standard deviation ln(1 + level): at most 1.
NOISE_CAP = 1.7183


@dataclass(frozen=True)
class KernelMMD(AdversarialLoss):
    """`w0 E k(real, fake) - E k(fake) - w1 E k(real)` against the squared discrepancy.

    The first is the discriminator's loss, with `w1 = w0 - 1`; the second is the generator's. With
    `w0 = 2` the first is the negative discrepancy, the attractive loss, and with `w0 = 0` it is the
    repulsive loss.

    Attributes:
        kernel: Kernel of the squared distances of scores.
        cross_weight: The weight w0.
        bounded: Whether distances that the discriminator reduces have the floor `lower`, and those
            that it increases the cap `upper`. The loss of the generator has no bounds.
        lower: Lower bound on squared distances.
        mixing: Discrepancy above which real and fake scores are mixed; None never mixes them.
        seed: Seed of the mixing.
    """

    kernel: Kernel = ONE_GAUSSIAN
    cross_weight: float = 2.0
    bounded: bool = False
    lower: float = LOWER_BOUND
    mixing: float | None = None
    seed: int = 0
    _draws: Draws = field(init=False, repr=False, compare=False)
    _mixing: Mixing | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _start_state(self, self.mixing)

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """Loss of the discriminator on `(m, d)` scores, a scalar."""
        real, fake = paired(real, fake)
        if self._mixing is not None:
            with torch.no_grad():
                unmixed = kernel_means(real, fake, self.kernel).discrepancy
            real, fake = self._mixing(real, fake, unmixed)
        real_weight = self.cross_weight - 1
        lower, cap = (self.lower, upper) if self.bounded else (None, None)
        real_lower, real_cap = (lower, None) if real_weight > 0 else (None, cap)
        loss = -self._mean(fake, fake, lower, None)
        if real_weight:
            loss = loss - real_weight * self._mean(real, real, real_lower, real_cap)
        if self.cross_weight:
            loss = loss + self.cross_weight * self._mean(real, fake, None, cap)
        return loss

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The squared discrepancy of `(m, d)` scores, a scalar."""
        return kernel_means(*paired(real, fake), self.kernel).discrepancy

    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Mean kernels within the reals, within the fakes and across."""
        return kernel_health(real, fake, self.kernel)

    def _mean(self, a: Tensor, b: Tensor, lower: float | None, upper: float | None) -> Tensor:
        squared = squared_distances(a, b)
        if lower is not None or upper is not None:
            squared = squared.clamp(min=lower, max=upper)
        return off_diagonal_mean(self.kernel(squared))

    def state_dict(self) -> dict[str, Any]:
        """The number of draws and, with mixing, its level."""
        return _state(self._draws, self._mixing)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        _load_state(state, self._draws, self._mixing)


@dataclass(frozen=True)
class RandomScaleMMD(AdversarialLoss):
    """Discrepancies under `exp(-beta d2)`, where beta gives a mean kernel that is drawn at random.

    The generator minimises the discrepancy between real and fake scores. The discriminator
    maximises it, and may also pull scores towards a normal distribution of spread 1 or push them
    away from it.

    Attributes:
        real_to_normal: Weight in the discriminator's loss of the discrepancy between real scores
            and the normal distribution.
        fake_to_normal: The same for fake scores.
        g_fake_to_normal: The same for fake scores in the generator's loss.
        center: Mean of the normal distribution for real scores; fake scores have its negative.
        bounded: Whether the discriminator's discrepancy is bounded. The published form swaps two
            coefficients; this one is the negative bounded discrepancy that was intended.
        mixing: Discrepancy above which real and fake scores are mixed; None never mixes them.
        noise: Discrepancy above which noise is added to the scores; None never adds any.
        seed: Seed of the scales, the mixing and the noise.
    """

    real_to_normal: float = 1.0
    fake_to_normal: float = 0.0
    g_fake_to_normal: float = 0.0
    center: float = 0.0
    bounded: bool = False
    mixing: float | None = None
    noise: float | None = None
    seed: int = 0
    _draws: Draws = field(init=False, repr=False, compare=False)
    _mixing: Mixing | None = field(init=False, repr=False, compare=False)
    _noise: Feedback | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _start_state(self, self.mixing)
        noise = None if self.noise is None else Feedback(self.noise, rate=0.001, cap=NOISE_CAP)
        object.__setattr__(self, "_noise", noise)

    def discriminator(
        self, real: Tensor, fake: Tensor, *, upper: float = UPPER_BOUND, epoch: int = 0
    ) -> Tensor:
        """Loss of the discriminator on `(m, d)` scores, a scalar."""
        real, fake = paired(real, fake)
        if self._noise is not None:
            real, fake = self._noisy(real, fake, self._noise)
        loss = torch.zeros((), dtype=real.dtype, device=real.device)
        if self.real_to_normal:
            loss = loss + self.real_to_normal * self._to_normal(real, self.center)
        if self.fake_to_normal:
            loss = loss + self.fake_to_normal * self._to_normal(fake, -self.center)
        if self._mixing is not None:
            with torch.no_grad():
                unmixed = self._discrepancy(real, fake)
            real, fake = self._mixing(real, fake, unmixed)
        return loss - self._discrepancy(real, fake, bounded=self.bounded)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator on `(m, d)` scores, a scalar."""
        real, fake = paired(real, fake)
        loss = self._discrepancy(real, fake)
        if self.g_fake_to_normal:
            loss = loss + self.g_fake_to_normal * self._to_normal(fake, -self.center)
        return loss

    def health(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """Mean Gaussian kernels with sigma 1, since a random scale is fitted to its mean kernel."""
        return kernel_health(real, fake, ONE_GAUSSIAN)

    def _discrepancy(self, real: Tensor, fake: Tensor, *, bounded: bool = False) -> Tensor:
        across = squared_distances(real, fake)
        beta = scale_for(across, self._draws.between(*OMEGA))
        within = [squared_distances(scores, scores) for scores in (real, fake)]
        if bounded:
            beta = beta.clamp(SCALED_LOWER, SCALED_UPPER)
            within = [squared.clamp(min=SCALED_LOWER / beta) for squared in within]
            across = across.clamp(max=SCALED_UPPER / beta)
        k_real, k_fake, k_across = (
            off_diagonal_mean(torch.exp(-beta * squared)) for squared in (*within, across)
        )
        return k_real + k_fake - 2 * k_across

    def _to_normal(self, scores: Tensor, center: float) -> Tensor:
        return normal_discrepancy(scores, self._draws.between(*OMEGA), center)

    def _noisy(self, real: Tensor, fake: Tensor, noise: Feedback) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            clean = self._discrepancy(real, fake)
        std = torch.tensor(noise.level).log1p().item()
        noise.observe(clean.item())
        return real + std * self._draws.normal(real), fake + std * self._draws.normal(fake)

    def state_dict(self) -> dict[str, Any]:
        """The number of draws and, if there are any, the levels of mixing and noise."""
        state = _state(self._draws, self._mixing)
        return state if self._noise is None else state | {"noise": self._noise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        _load_state(state, self._draws, self._mixing)
        if self._noise is not None:
            self._noise.load_state_dict(state["noise"])


def _start_state(loss: KernelMMD | RandomScaleMMD, mixing: float | None) -> None:
    if loss.seed < 0:
        raise InvalidValueError(f"the seed of a loss must be at least 0; got {loss.seed}")
    draws = Draws(loss.seed)
    # The settings are frozen; the state that a loss keeps between steps is not.
    object.__setattr__(loss, "_draws", draws)
    object.__setattr__(loss, "_mixing", None if mixing is None else Mixing(mixing, draws))


def _state(draws: Draws, mixing: Mixing | None) -> dict[str, Any]:
    state = {"draws": draws.state_dict()}
    return state if mixing is None else state | {"mixing": mixing.feedback.state_dict()}


def _load_state(state: dict[str, Any], draws: Draws, mixing: Mixing | None) -> None:
    draws.load_state_dict(state["draws"])
    if mixing is not None:
        mixing.feedback.load_state_dict(state["mixing"])
