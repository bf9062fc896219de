"""Particles in the plane that stand for scores, moved by the gradients of a loss alone.

The effect of a loss can be seen without a network: real and generated particles are the scores
`(n, 2)` of a discriminator that can put them anywhere. There are two worlds, as in the papers. In
one, both sets follow the discriminator's loss, and then the generated ones follow the generator's
(MMD-GAN with repulsive loss, ICLR 2019). In the other, the real ones are on a circle whose radius
is the upper bound of the repulsive loss, and the generated ones follow the generator's loss
(MMD-PMish-NAS, IEEE Access 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.losses import AdversarialLoss, GaussianKernel, KernelMMD, make_loss
from nas_gan.progress import Progress, no_progress

Points = npt.NDArray[np.float64]
# exp(-d²), the kernel of the published particles of the repulsive loss.
UNIT_KERNEL = GaussianKernel((0.5**0.5,))
RATE = 0.01
CIRCLE_RATE, RISING_RATE = 0.02, 0.01
SMALL_RADIUS, LARGE_RADIUS = 2.0, 8.0
CLOUD = 0.15
# Title of a world -> its loss
COMPARED = {"attractive (mmd)": "mmd", "repulsive (rep)": "rep", "bounded (rmb)": "rmb"}
# Title of a world -> the radius of its circle at the start, and at the end if it grows
CIRCLES: dict[str, tuple[float, float | None]] = {
    "small bound": (SMALL_RADIUS, None),
    "large bound": (LARGE_RADIUS, None),
    "rising bound": (SMALL_RADIUS, LARGE_RADIUS),
}


@dataclass(frozen=True)
class Frame:
    """Where all particles are after `step` updates, `(n, 2)` each.

    Attributes:
        step: updates so far.
        judged: whether the discriminator moves them, rather than the generator.
        real: the real particles.
        fake: the generated ones.
        pulls: the attractive part of what moves each particle, real ones first, `(2 n, 2)`.
        pushes: the repulsive part. Both are None if the world does not have them.
    """

    step: int
    judged: bool
    real: Points
    fake: Points
    pulls: Points | None = None
    pushes: Points | None = None


def scores_world(
    loss: str,
    *,
    n: int = 6,
    judged_steps: int = 600,
    generator_steps: int = 600,
    every: int = 20,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[Frame, ...]:
    """Both sets under the discriminator's loss, then the generated ones under the generator's.

    `loss` names a loss with one kernel, such as mmd, rep or rmb. Each update is a gradient step
    with rate 0.01; a frame with both parts of the movement is kept before the first update, after
    each `every` updates and after the last one. `advance(n)` is called after n more updates.

    Raises:
        InvalidValueError: the loss has no kernel whose parts can be separated.
    """
    kernel_loss = _kernel_loss(loss)
    rng = np.random.default_rng([seed, 0])
    real = torch.from_numpy(CLOUD * rng.standard_normal((n, 2)))
    fake = torch.from_numpy(CLOUD * rng.standard_normal((n, 2)))
    frames = []
    last = judged_steps + generator_steps
    for step in range(last + 1):
        judged = step < judged_steps
        pulls, pushes = movement(kernel_loss, real, fake, judged=judged)
        if step % every == 0 or step == last:
            frames.append(
                Frame(step, judged, real.numpy(), fake.numpy(), pulls.numpy(), pushes.numpy())
            )
        moved = torch.cat([real, fake]) + RATE * (pulls + pushes)
        real, fake = (moved[:n] if judged else real), moved[n:]
        advance(1)
    return tuple(frames)


def movement(loss: KernelMMD, real: Tensor, fake: Tensor, *, judged: bool) -> tuple[Tensor, Tensor]:
    """The negative gradient of the loss by each particle, as an attractive and a repulsive part.

    `(n, 2)` real and generated particles to `(2 n, 2)` twice, real ones first. With `judged` the
    discriminator's loss moves both sets; otherwise the generator's moves only the generated ones.
    """
    if not judged:
        # The generator minimises what the attractive discriminator maximises.
        against = replace(loss, cross_weight=2.0, bounded=False)
        pulls, pushes = _parts(against, real, fake)
        # With the opposite sign, repulsion becomes attraction.
        pulls, pushes = -pushes, -pulls
        pulls[: len(real)] = 0
        pushes[: len(real)] = 0
        return pulls, pushes
    return _parts(loss, real, fake)


def _parts(loss: KernelMMD, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of the negative gradient of the discriminator's loss by both sets.

    The loss is `w E k(real, fake) - E k(fake) - (w - 1) E k(real)`: at w = 0 the generated
    particles only interact with each other, at w = 1 the real ones only with the generated ones.
    """
    whole = _descent(loss, real, fake)
    n = len(real)
    at_0 = _descent(replace(loss, cross_weight=0.0), real, fake)
    at_1 = _descent(replace(loss, cross_weight=1.0), real, fake)
    across = torch.cat([loss.cross_weight * at_1[:n], whole[n:] - at_0[n:]])  # (2 n, 2), pushes
    within = whole - across
    pulls, pushes = torch.zeros_like(whole), across.clone()
    pulls[n:] = within[n:]
    # Real particles only attract each other if their kernel has a positive weight.
    (pulls if loss.cross_weight > 1 else pushes)[:n] += within[:n]
    return pulls, pushes


def _descent(loss: AdversarialLoss, real: Tensor, fake: Tensor) -> Tensor:
    both = torch.cat([real, fake]).requires_grad_()
    value = loss.discriminator(both[: len(real)], both[len(real) :])
    (gradient,) = torch.autograd.grad(value, both)
    return -gradient


def _kernel_loss(name: str) -> KernelMMD:
    loss = make_loss(name)
    if not isinstance(loss, KernelMMD) or loss.mixing is not None:
        raise InvalidValueError(
            f"{name!r} has no attractive and repulsive parts to draw; choose mmd, mgb, rep or rmb"
        )
    return replace(loss, kernel=UNIT_KERNEL)


def circle_world(
    radius: float,
    end_radius: float | None = None,
    *,
    loss: str = "mmd",
    n: int = 10,
    steps: int = 5000,
    every: int = 100,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[Frame, ...]:
    """Real particles on a circle, generated ones from N(0, I) under the generator's loss.

    With `end_radius` the circle grows to it linearly during the run. The optimiser is Adam with a
    rate of 0.02, or of 0.01 if the circle grows.

    Raises:
        InvalidValueError: the loss is not known, or a radius is not above 0.
    """
    goal = radius if end_radius is None else end_radius
    if not (radius > 0 and goal > 0):
        raise InvalidValueError(f"a circle needs radii above 0; got {radius} and {goal}")
    rate = CIRCLE_RATE if end_radius is None else RISING_RATE
    objective = make_loss(loss)
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)  # (n, 2)
    rng = np.random.default_rng([seed, 1])
    fake = torch.from_numpy(rng.standard_normal((n, 2))).requires_grad_()
    optimizer = torch.optim.Adam([fake], lr=rate)
    frames = []
    for step in range(steps + 1):
        real = circle * (radius + (goal - radius) * step / max(steps, 1))
        if step % every == 0 or step == steps:
            frames.append(Frame(step, False, real.numpy(), fake.detach().numpy().copy()))
        optimizer.zero_grad(set_to_none=True)
        objective.generator(real, fake).backward()
        optimizer.step()
        advance(1)
    return tuple(frames)


def loss_worlds(
    steps: int, seed: int = 0, progress: Progress = no_progress
) -> dict[str, tuple[Frame, ...]]:
    """`scores_world` of the losses in `COMPARED` by title, with `steps` updates for each side."""
    every = max(1, steps // 30)
    with progress("particles", (2 * steps + 1) * len(COMPARED)) as advance:
        return {
            title: scores_world(
                loss,
                judged_steps=steps,
                generator_steps=steps,
                every=every,
                seed=seed,
                advance=advance,
            )
            for title, loss in COMPARED.items()
        }


def circle_worlds(
    steps: int, seed: int = 0, progress: Progress = no_progress
) -> dict[str, tuple[Frame, ...]]:
    """`circle_world` of the circles in `CIRCLES`, by title."""
    every = max(1, steps // 50)
    with progress("particles", (steps + 1) * len(CIRCLES)) as advance:
        return {
            title: circle_world(*radii, steps=steps, every=every, seed=seed, advance=advance)
            for title, radii in CIRCLES.items()
        }
