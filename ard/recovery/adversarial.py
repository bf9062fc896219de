"""Adversarial fine-tuning of a compressed generator against its checkpoint's discriminator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ard.recovery.distillation import KeepBest, warm_up_and_decay
from nas_gan.losses import make_loss
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.draws import Batch, Sampler
from nas_gan.training.learner import Learner
from nas_gan.training.loop import Every, run_training
from nas_gan.training.schedule import Schedule
from nas_gan.training.steps import AdversarialStep, Batches
from nas_gan.training.upper_bound import UpperBoundSchedule

# An average over about twenty updates; the last ones, at low rates, scatter least.
AVERAGE_DECAY = 0.95
# The upper bound of the repulsive loss that late training reaches.
UPPER_BOUND = 16.0
# Kernels and matrices learn at this fraction of the rate of biases, norms and activations. At the
# same rate the generator gets worse, and if they are frozen, as the factors nearly are in the
# published recipe, less is recovered; see benchmarks/recovery.py.
KERNEL_SHARE = 0.1


@dataclass(frozen=True)
class FineTuning:
    """Settings of adversarial fine-tuning.

    Attributes:
        n_steps: updates of both networks; 0 skips the fine-tuning.
        batch_size: real images, and latents, per update.
        lr: the peak learning rate.
        n_checks: how often the generator is scored.
        seed: seed of the latents.
        loss: name of the loss that the discriminator was trained with.
    """

    n_steps: int = 0
    batch_size: int = 32
    lr: float = 5e-4
    n_checks: int = 2
    seed: int = 0
    loss: str = "latest"


def fine_tune(
    student: nn.Module,
    discriminator: nn.Module,
    settings: FineTuning,
    *,
    real: Callable[[int], Batch],
    latents: Sampler,
    score: Callable[[nn.Module], float],
    device: str = "cpu",
    on_update: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """Train a student against a discriminator and keep its best state.

    Learning rates warm up while Adam has no statistics yet, and then decay along a cosine. The
    generator that is scored and returned is an average over the last few updates.

    Args:
        student: the generator; it is not changed.
        discriminator: the discriminator; it is not changed.
        settings: steps, learning rate, loss and so on.
        real: `real(index)` returns the real images of an update, `(batch_size, c, h, w)` in
            [-1, 1]; for a conditional generator, a pair of images and one-hot labels.
        latents: `latents(index)` returns the latents of an update, `(batch_size, latent_dim)`.
        score: the score of a generator, lower being better. The best state is returned, which may
            be the initial one.
        device: the device that both networks are trained on.
        on_update: called with 1 after every update.

    Returns:
        A new generator in evaluation mode.
    """
    student = copy.deepcopy(student).to(device)
    if settings.n_steps == 0:
        return student
    judge = copy.deepcopy(discriminator).to(device).requires_grad_(True)
    student.requires_grad_(True)
    average = ExponentialMovingAverage(student, decay=AVERAGE_DECAY)
    best = KeepBest(average.average, score)
    betas = (0.0, 0.9)
    g_optimizer = torch.optim.Adam(_by_rate(student, settings.lr), settings.lr, betas)
    d_optimizer = torch.optim.Adam(judge.parameters(), settings.lr, betas)
    run_training(
        AdversarialStep(
            Learner(student, g_optimizer, warm_up_and_decay(g_optimizer, settings.n_steps)),
            Learner(judge, d_optimizer, warm_up_and_decay(d_optimizer, settings.n_steps)),
            make_loss(settings.loss),
            average=average,
            upper_bound=UpperBoundSchedule("geometric", UPPER_BOUND, UPPER_BOUND),
            batches=Batches(real, latents),
            schedule=Schedule(settings.n_steps, updates_per_epoch=settings.n_steps),
        ),
        n_steps=settings.n_steps,
        callbacks=[
            lambda index, scalars: on_update(1),
            Every(max(settings.n_steps // settings.n_checks, 1), best, settings.n_steps),
        ],
    )
    average.average.load_state_dict(best.state)
    return average.average.eval().requires_grad_(False)


def batches_of(
    generator: nn.Module, draw: Sampler, interface: GeneratorInterface, device: str = "cpu"
) -> Callable[[int], Batch]:
    """Batches of a generator's images, to be used in place of real ones.

    Args:
        generator: the generator, on `device`.
        draw: `draw(index)` returns latents `(batch_size, latent_dim)`. For a conditional generator,
            their last columns are one-hot labels, which are returned beside the images.
        interface: the interface of the generator.
        device: the device of the generator.
    """

    def images_of(index: int) -> Batch:
        latents = draw(index).to(device)
        with torch.no_grad():
            images: Tensor = generator(latents)
        if not interface.conditional:
            return images
        return images, latents[:, -interface.n_classes :]

    return images_of


def _by_rate(student: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Two groups: vectors and scalars at the full rate, all others at `KERNEL_SHARE` of it."""
    vectors = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    kernels = [parameter for parameter in student.parameters() if parameter.ndim >= 2]
    return [{"params": vectors, "lr": lr}, {"params": kernels, "lr": KERNEL_SHARE * lr}]
