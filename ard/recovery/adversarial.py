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

# An average over about twenty updates: those at the end of the decay, which scatter least.
AVERAGE_DECAY = 0.95
# Where the bound of the repulsive loss ends up in training; early training is over.
UPPER_BOUND = 16.0
# Kernels and matrices learn at this share of the rate of biases, norms and activations: with all
# weights at one rate the generator gets worse, and frozen, as the published recipe nearly does with
# its factors, they mend less: benchmarks/recovery.py.
KERNEL_SHARE = 0.1


@dataclass(frozen=True)
class FineTuning:
    """Adversarial updates after distillation; `n_steps` 0 leaves them out.

    `loss` is the name of the one that the discriminator was trained by, and `batch_size` is that of
    the real images and of the latents.
    """

    n_steps: int = 0
    batch_size: int = 32
    lr: float = 5e-4
    n_checks: int = 4
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
    """Train a student further against a discriminator and keep its best state.

    Rates rise for the first updates, in which Adam knows nothing yet, and decay along a cosine.
    What is scored and returned is an average over the last few updates.

    Args:
        student: the generator; it is not changed.
        discriminator: the one it is trained against; it is not changed.
        settings: how long, at which rate, by which loss.
        real: `real(index)` are `(batch_size, c, h, w)` images in [-1, 1], of the data set or of the
            dense generator; for a conditional one a pair with their one-hot labels.
        latents: `latents(index)` are those of an update, `(batch_size, latent_dim)`.
        score: of a generator; the state with the least wins, the student itself included.
        device: where both networks train.
        on_update: is told of each update.

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
    """Images of a generator in the place of real ones.

    `draw(index)` are latents; of a conditional generator one-hot labels are their last columns and
    come with the images.
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
    """Vectors and scalars at the rate itself, everything larger at its share."""
    vectors = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    kernels = [parameter for parameter in student.parameters() if parameter.ndim >= 2]
    return [{"params": vectors, "lr": lr}, {"params": kernels, "lr": KERNEL_SHARE * lr}]
