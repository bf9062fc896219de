"""Quality back after factorizing: batch statistics first, then distillation from the dense net."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ard.errors import NonFiniteError
from nas_gan.steps import DistillationStep, StepLatents
from nas_gan.structure import evaluating
from nas_gan.training import Every, run_training


@dataclass(frozen=True)
class Recovery:
    """How to recover; `n_steps` 0 leaves the student as it is."""

    n_steps: int = 300
    batch_size: int = 32
    lr: float = 1e-4
    n_checks: int = 4
    seed: int = 0


# Mean and variance `(c,)` of what enters each batch normalisation, by name, in execution order.
BatchMoments = Mapping[str, tuple[Tensor, Tensor]]


def correct_batchnorm(
    factorized: nn.Module,
    dense: nn.Module,
    latents: Tensor,
    batch_size: int = 64,
    *,
    dense_moments: BatchMoments | None = None,
) -> nn.Module:
    """A copy of `factorized` whose batch statistics follow what factorizing did to its activations.

    Both nets run on the same latents. A mean moves by the difference that is found, a variance is
    scaled by the ratio. Statistics measured afresh would also change a net that was not factorized
    at all: a trained net's are those of its training, often of other weights than the averaged
    ones, and the dense net that it is compared with keeps them. Who corrects many plans passes the
    dense net's own `batch_moments` on the latents, so that it runs once.
    """
    corrected = copy.deepcopy(factorized).eval()
    before = dense_moments
    if before is None:
        before = batch_moments(dense, latents, batch_size)
    for name, (dense_mean, dense_variance) in before.items():
        # One at a time, in execution order: correcting a norm changes what enters the next.
        mean, variance = batch_moments(corrected, latents, batch_size, only=name)[name]
        norm = cast(nn.modules.batchnorm._BatchNorm, corrected.get_submodule(name))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += mean - dense_mean
        norm.running_var *= variance / dense_variance.clamp(min=norm.eps)
    return corrected


def batch_moments(
    generator: nn.Module, latents: Tensor, batch_size: int = 64, only: str | None = None
) -> BatchMoments:
    """The `BatchMoments` of a generator over all of `latents`; `only` names the one to look at."""
    sums: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double().transpose(0, 1).flatten(1)  # (c, n h w)
            n = torch.full_like(x[:, 0], x.shape[1])
            moments = torch.stack([n, x.sum(dim=1), x.square().sum(dim=1)])
            sums[name] = sums[name] + moments if name in sums else moments

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(name))
        for name, module in generator.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.track_running_stats
        and only in (None, name)
    ]
    try:
        with evaluating(generator):
            for batch in latents.split(batch_size) if handles else ():
                generator(batch)
    finally:
        for handle in handles:
            handle.remove()
    moments = {}
    for name, (n, total, squares) in sums.items():
        mean = total / n
        moments[name] = (mean.float(), (squares / n - mean.square()).clamp(min=0).float())
    return moments


def recover(
    student: nn.Module,
    teacher: nn.Module,
    settings: Recovery,
    *,
    selection: Tensor,
    latent_dim: int,
    score: Callable[[nn.Module], float] | None = None,
    device: str = "cpu",
    on_update: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """A new generator: the student distilled from the teacher on fresh latents, best state kept.

    Both see the same latents, so no data is needed. The state with the smallest `score` wins, the
    untouched student included: tuning can also hurt. Without a score it is the image error on the
    `selection` latents `(n, latent_dim)`; that favours images that are smoother than the
    teacher's, which an FID punishes, so give the FID where there is one. All factors and all
    other weights share one learning rate with a cosine decay.

    Raises:
        NonFiniteError: the student's images are NaN or infinite before the first update.
    """
    selection = selection.to(device)
    student = copy.deepcopy(student).to(device).eval()
    if settings.n_steps == 0:
        return student
    teacher = copy.deepcopy(teacher).to(device).eval()
    with torch.no_grad():
        target = torch.cat([teacher(z) for z in selection.split(64)])

    def error_of(network: nn.Module) -> float:
        return score(network) if score else _image_error(network, selection, target)

    if not math.isfinite(_image_error(student, selection, target)):
        raise NonFiniteError(
            "recovery: the factorized generator's images are NaN or infinite before the first "
            "update; check the checkpoint's weights"
        )
    best_error, best = error_of(student), _snapshot(student)

    def check(index: int, scalars: Mapping[str, float]) -> None:
        nonlocal best_error, best
        error = error_of(student)
        if error < best_error:
            best_error, best = error, _snapshot(student)

    student.requires_grad_(True)
    optimizer = torch.optim.Adam(student.parameters(), settings.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.n_steps)
    run_training(  # one that diverges just ends early: the best state is from before
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
    student.load_state_dict(best)
    return student.requires_grad_(False)


def _image_error(student: nn.Module, latents: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        images = torch.cat([student(z) for z in latents.split(64)])
    return (images - target).abs().mean().item()


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
