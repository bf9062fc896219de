"""Recovering quality by distillation from the dense generator, which needs latents only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ard.errors import NonFiniteError
from nas_gan.networks.hooks import hooked
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distillation import DistillationStep, image_distance
from nas_gan.training.draws import Sampler
from nas_gan.training.loop import Every, run_training

Distance = Callable[[Tensor, Tensor], Tensor]

# Fraction of the updates in which the rate warms up. A factorized network is nearly right, and the
# first steps of Adam are as long as any others: at the full rate they would do more harm than good.
WARM_UP = 0.3
# The network that is scored and kept is an average over about ten updates: single updates scatter
# by more than the last ones improve.
DECAY = 0.9
# Images that show whether a student is a network at all.
N_FINITE = 8


@dataclass(frozen=True)
class Recovery:
    """Settings of the distillation.

    Attributes:
        n_steps: updates of the student; 0 skips the distillation.
        batch_size: latents per update.
        lr: the peak learning rate.
        n_checks: how often the student is scored, the last time at the end. In between, at a high
            rate, it is hardly ever at its best.
        seed: seed of the latents.
        factor_lr: a separate rate for the factors, for comparisons. The published recipe uses 1e-8,
            which amounts to freezing them. All weights share `lr` if None.
    """

    n_steps: int = 300
    batch_size: int = 32
    lr: float = 5e-4
    n_checks: int = 1
    seed: int = 0
    factor_lr: float | None = None


def recover(
    student: nn.Module,
    teacher: nn.Module,
    settings: Recovery,
    *,
    latents: Sampler,
    selection: Tensor,
    score: Callable[[nn.Module], float] | None = None,
    distance: Distance = image_distance,
    device: str = "cpu",
    on_update: Callable[[int], None] = lambda n: None,
    target_of: Callable[[int, Tensor], Tensor] | None = None,
) -> nn.Module:
    """Distil a student from its teacher on fresh latents and keep its best state.

    Both see the same latents, so no data is needed. The rate warms up during the first `WARM_UP` of
    the updates and then decays along a cosine. The student that is scored is an average over the
    last few updates.

    Args:
        student: the generator to recover; it is not changed.
        teacher: the dense generator; it is not changed.
        settings: steps, learning rate and so on.
        latents: `latents(index)` returns the batch of an update, as `StepLatents` does. For a
            network with other inputs, such as images `(n, c, h, w)`, see `rows_of`.
        selection: `(n, ...)` latents on which the image error is monitored; the first ones show
            beforehand that the student's images are finite.
        score: the score of a network, lower being better. The best state is returned, which may be
            the initial one, since training can also hurt. The default is the image error on
            `selection`; unlike an FID, it favours smoother images than the teacher's.
        distance: the loss, a scalar distance between the student's and the teacher's images.
        device: the device that both networks run on.
        on_update: called with 1 after every update.
        target_of: `target_of(index, latents)` returns the teacher's images of an update, if the
            caller keeps them; by default the teacher makes them.

    Returns:
        A new generator in evaluation mode.

    Raises:
        NonFiniteError: the student's images are NaN or infinite before the first update.
    """
    selection = selection.to(device)
    student = copy.deepcopy(student).to(device).eval()
    if settings.n_steps == 0:
        return student
    teacher = copy.deepcopy(teacher).to(device).eval()
    if not _draw(student, selection[:N_FINITE]).isfinite().all():
        raise NonFiniteError(
            "recovery: the factorized generator's images are NaN or infinite before the first "
            "update; check the checkpoint's weights"
        )
    average = ExponentialMovingAverage(student, DECAY)
    best = KeepBest(average.average, score or _image_error(selection, _draw(teacher, selection)))
    student.requires_grad_(True)
    optimizer = torch.optim.Adam(parameter_groups(student, teacher, settings), settings.lr)
    run_training(  # divergence ends it early; the best state is from before
        DistillationStep(
            student,
            teacher,
            optimizer=optimizer,
            scheduler=warm_up_and_decay(optimizer, settings.n_steps),
            latents=latents,
            distance=distance,
            device=device,
            target=target_of,
        ),
        n_steps=settings.n_steps,
        callbacks=[
            lambda index, scalars: average.update(student),
            lambda index, scalars: on_update(1),
            Every(max(settings.n_steps // settings.n_checks, 1), best, settings.n_steps),
        ],
    )
    student.load_state_dict(best.state)
    return student.requires_grad_(False)


def rows_of(bank: Tensor, batch_size: int, seed: int = 0) -> Sampler:
    """A sampler of random rows of `bank`, for networks whose inputs cannot be drawn at random.

    A batch `(batch_size, ...)` depends on the seed and on its index only.

    Args:
        bank: `(n, ...)` inputs.
        batch_size: rows per batch.
        seed: seed of the choice of rows.

    Returns:
        A sampler.
    """

    def rows(index: int) -> Tensor:
        return bank[np.random.default_rng([seed, index]).integers(len(bank), size=batch_size)]

    return rows


class KeepBest:
    """Keeps the state of `network` with the lowest `score`, beginning with the current one."""

    def __init__(self, network: nn.Module, score: Callable[[nn.Module], float]) -> None:
        self.network, self.score = network, score
        self.error, self.state = score(network), snapshot(network)

    def __call__(self, index: int, scalars: Mapping[str, float]) -> None:
        """A callback of `run_training`."""
        error = self.score(self.network)
        if error < self.error:
            self.error, self.state = error, snapshot(self.network)


def feature_distance(discriminator: nn.Module, weight: float = 1.0) -> Distance:
    """Image distance plus `weight` times the distance of the discriminator's feature maps.

    The feature maps are the outputs of the discriminator's direct children, if these are batches of
    maps; each difference is relative to the mean magnitude of the target. The discriminator has
    learned to tell real images from generated ones, and no pretrained weights are needed.
    """
    judge = copy.deepcopy(discriminator).eval().requires_grad_(False)
    maps: list[Tensor] = []

    def keep(inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps.append(output)

    def maps_of(images: Tensor) -> list[Tensor]:
        maps.clear()
        with hooked(leaving=[(part, keep) for part in judge.children()]):
            judge(images)
        return list(maps)

    def distance(images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = maps_of(target)
        found = maps_of(images)
        shares = [
            (f - w).abs().mean() / w.abs().mean().clamp(min=1e-6)
            for f, w in zip(found, wanted, strict=True)
        ]
        extra = torch.stack(shares).mean() if shares else images.new_zeros(())
        return image_distance(images, target) + weight * extra

    return distance


def warm_up_and_decay(optimizer: torch.optim.Optimizer, n_steps: int) -> OneCycleLR:
    """A schedule that warms every rate up to its own value and then decays it along a cosine."""
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        # Two more than there are: the last ones would have a rate near 0, and a run may be short.
        total_steps=n_steps + 2,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )


def parameter_groups(
    student: nn.Module, teacher: nn.Module, settings: Recovery
) -> list[dict[str, Any]]:
    """One group of all parameters, or a second one at `factor_lr` for those the teacher lacks."""
    if settings.factor_lr is None:
        return [{"params": list(student.parameters())}]
    shapes = {name: p.shape for name, p in teacher.named_parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in student.named_parameters():
        groups[shapes.get(name) == parameter.shape].append(parameter)
    return [{"params": groups[True]}, {"params": groups[False], "lr": settings.factor_lr}]


def _draw(network: nn.Module, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(z) for z in latents.split(64)])


def _image_error(latents: Tensor, target: Tensor) -> Callable[[nn.Module], float]:
    return lambda student: (_draw(student, latents) - target).abs().mean().item()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
