"""The last touch: a compressed generator trained on against the discriminator of its checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ard.recovery import KeepBest
from nas_gan.averaging import ExponentialMovingAverage
from nas_gan.losses import make_loss
from nas_gan.steps import AdversarialStep, Batch, StepLatents
from nas_gan.training import Every, run_training
from nas_gan.upper_bound import UpperBoundSchedule

# An average over about fifty updates: a polish is short.
POLISH_DECAY = 0.98
# Where the bound of the repulsive loss ends up in training; early training is over.
POLISH_BOUND = 16.0


@dataclass(frozen=True)
class Polish:
    """Adversarial updates after distillation; `n_steps` 0 leaves them out."""

    n_steps: int = 0
    batch_size: int = 32
    lr: float = 5e-5
    n_checks: int = 4
    seed: int = 0


def polish(
    student: nn.Module,
    discriminator: nn.Module,
    settings: Polish,
    *,
    real: Callable[[int], Batch],
    latent_dim: int,
    n_classes: int = 0,
    score: Callable[[nn.Module], float],
    device: str = "cpu",
    on_update: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """A new generator: the student trained on against its discriminator, best state kept.

    `real(index)` are `(batch_size, c, h, w)` images in [-1, 1]: those of the data set, or the dense
    generator's; of a conditional one a pair with their one-hot labels. The loss is the repulsive
    MMD that the checkpoint was trained with; what is scored and returned is an average over the
    updates.
    """
    student = copy.deepcopy(student).to(device)
    if settings.n_steps == 0:
        return student
    judge = copy.deepcopy(discriminator).to(device).requires_grad_(True)
    student.requires_grad_(True)
    average = ExponentialMovingAverage(student, decay=POLISH_DECAY)
    best = KeepBest(average.average, score)
    betas = (0.0, 0.9)
    run_training(
        AdversarialStep(
            student,
            judge,
            make_loss("latest"),
            g_optimizer=torch.optim.Adam(student.parameters(), settings.lr, betas),
            d_optimizer=torch.optim.Adam(judge.parameters(), settings.lr, betas),
            average=average,
            upper_bound=UpperBoundSchedule("geometric", POLISH_BOUND, POLISH_BOUND),
            real=real,
            latents=StepLatents(settings.seed, settings.batch_size, latent_dim, n_classes),
            updates_per_epoch=settings.n_steps,
            n_steps=settings.n_steps,
            device=device,
        ),
        n_steps=settings.n_steps,
        callbacks=[
            lambda index, scalars: on_update(1),
            Every(max(settings.n_steps // settings.n_checks, 1), best, settings.n_steps),
        ],
    )
    average.average.load_state_dict(best.state)
    return average.average.eval().requires_grad_(False)
