"""Quality back after factorizing: batch statistics first, then distillation from the dense net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ard.errors import NonFiniteError
from nas_gan.steps import DistillationStep, StepLatents
from nas_gan.training import Every, run_training


@dataclass(frozen=True)
class Recovery:
    """How to recover; `n_steps` 0 leaves it at the batch statistics."""

    n_steps: int = 300
    batch_size: int = 32
    lr: float = 1e-3
    n_checks: int = 6
    seed: int = 0


def reestimate_batchnorm(generator: nn.Module, latents: Tensor, batch_size: int = 64) -> nn.Module:
    """A copy whose batch statistics are those of its own activations on `latents`.

    Means and variances of the batches are averaged with equal weight, as in precise batch
    normalisation (Wu and Johnson, 2021). A net without batch normalisation is just copied.
    """
    generator = copy.deepcopy(generator).eval()
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if not norms:
        return generator
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    with torch.no_grad():
        for batch in latents.split(batch_size):
            generator(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return generator


def recover(
    student: nn.Module,
    teacher: nn.Module,
    settings: Recovery,
    *,
    selection: Tensor,
    latent_dim: int,
    device: str = "cpu",
    on_update: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """A new generator: the student distilled from the teacher on fresh latents, best state kept.

    Both see the same latents, so no data is needed. The state with the smallest image error on
    the `selection` latents `(n, latent_dim)` wins, the untouched student included: tuning can
    also hurt. All factors and all other weights share one learning rate with a cosine decay.

    Raises:
        NonFiniteError: the distillation diverged at its first updates.
    """
    selection = selection.to(device)
    student = reestimate_batchnorm(student.to(device), selection)
    if settings.n_steps == 0:
        return student
    with torch.no_grad():
        target = torch.cat([teacher(z) for z in selection.split(64)])
    best_error = _image_error(student, selection, target)
    best = _snapshot(student)

    def check(index: int, scalars: Mapping[str, float]) -> None:
        nonlocal best_error, best
        error = _image_error(student, selection, target)
        if error < best_error:
            best_error, best = error, _snapshot(student)

    student.requires_grad_(True)
    optimizer = torch.optim.Adam(student.parameters(), settings.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.n_steps)
    result = run_training(
        DistillationStep(
            student,
            teacher,
            optimizer=optimizer,
            scheduler=scheduler,
            latents=StepLatents(settings.seed, settings.batch_size, latent_dim),
            device=device,
        ),
        n_steps=settings.n_steps,
        callbacks=[
            lambda index, scalars: on_update(1),
            Every(max(settings.n_steps // settings.n_checks, 1), check, settings.n_steps),
        ],
    )
    if result.status == "diverged" and result.step == 0:
        raise NonFiniteError(f"recovery: {result.message}; use a smaller --recover-lr")
    student.load_state_dict(best)
    return student.requires_grad_(False)


def _image_error(student: nn.Module, latents: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        images = torch.cat([student(z) for z in latents.split(64)])
    return (images - target).abs().mean().item()


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
