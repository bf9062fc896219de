"""Quality back by training: distillation from the dense net, on latents alone."""

from __future__ import annotations

import copy
import math
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

# Share of the updates in which the rate rises. A factorized net is nearly right, and the first
# steps of Adam are as long as any: at the full rate they undo more than they mend.
WARM_UP = 0.3
# What is scored and kept is an average over about ten updates: each alone scatters by more than
# the last ones improve.
DECAY = 0.9


@dataclass(frozen=True)
class Recovery:
    """How to recover; `n_steps` 0 leaves the student as it is.

    All factors and all other weights share the one rate `lr`. The published recipe gives its
    factors a rate of 1e-8, which amounts to freezing them; `factor_lr` is for comparing with it.
    """

    n_steps: int = 300
    batch_size: int = 32
    lr: float = 5e-4
    n_checks: int = 4
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
) -> nn.Module:
    """Distil a student from its teacher on fresh latents and keep its best state.

    Both see the same latents, so no data is needed. The state with the least score wins, the
    untouched student included: tuning can also hurt. The rate rises for the first `WARM_UP` of the
    updates and decays along a cosine; what is scored is an average over the last few.

    Args:
        student: the generator to recover; it is not changed.
        teacher: the dense generator.
        settings: how long and at which rate.
        latents: `latents(index)` is the batch of an update, as `StepLatents` draws it; for a net
            that takes anything else, such as images `(n, c, h, w)`, rows of a bank: see `rows_of`.
        selection: `(n, ...)` latents on which the image error is watched.
        score: of a network, less being better. Without one it is the image error on `selection`,
            which favours smoother images than the teacher's, as an FID does not.
        distance: of the student's images to the teacher's, a scalar that training makes small.
        device: where both networks run.
        on_update: is told of each update.

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
    with torch.no_grad():
        target = torch.cat([teacher(z) for z in selection.split(64)])

    def error_of(network: nn.Module) -> float:
        return score(network) if score else _image_error(network, selection, target)

    if not math.isfinite(_image_error(student, selection, target)):
        raise NonFiniteError(
            "recovery: the factorized generator's images are NaN or infinite before the first "
            "update; check the checkpoint's weights"
        )
    average = ExponentialMovingAverage(student, DECAY)
    best = KeepBest(average.average, error_of)
    student.requires_grad_(True)
    optimizer = torch.optim.Adam(parameter_groups(student, teacher, settings), settings.lr)
    run_training(  # one that diverges just ends early: the best state is from before
        DistillationStep(
            student,
            teacher,
            optimizer=optimizer,
            scheduler=warm_up_and_decay(optimizer, settings.n_steps),
            latents=latents,
            distance=distance,
            device=device,
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
    """Batches of random rows of `bank`, for recovering a net on inputs that cannot be drawn.

    A batch `(batch_size, ...)` depends on nothing but the seed and the index.
    """

    def rows(index: int) -> Tensor:
        return bank[np.random.default_rng([seed, index]).integers(len(bank), size=batch_size)]

    return rows


class KeepBest:
    """Remembers the state of `network` with the smallest `score`, the present one to begin with."""

    def __init__(self, network: nn.Module, score: Callable[[nn.Module], float]) -> None:
        self.network, self.score = network, score
        self.error, self.state = score(network), snapshot(network)

    def __call__(self, index: int, scalars: Mapping[str, float]) -> None:
        """A callback of `run_training`."""
        error = self.score(self.network)
        if error < self.error:
            self.error, self.state = error, snapshot(self.network)


def feature_distance(discriminator: nn.Module, weight: float = 1.0) -> Distance:
    """Image distance plus `weight` times that of the discriminator's feature maps.

    The maps are what the direct parts of the discriminator put out, where that is a batch of maps;
    each difference is taken as a share of the target's mean magnitude. The discriminator learned
    what tells real images from generated ones, and needs no weights from elsewhere.
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
    """Every rate rises from a small one to its own, and decays along a cosine to the end."""
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        # Two more than there are: the last ones would have no rate, and a run may be short.
        total_steps=n_steps + 2,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )


def parameter_groups(
    student: nn.Module, teacher: nn.Module, settings: Recovery
) -> list[dict[str, Any]]:
    """All parameters together, or those that the teacher does not have at a rate of their own."""
    if settings.factor_lr is None:
        return [{"params": list(student.parameters())}]
    shapes = {name: p.shape for name, p in teacher.named_parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in student.named_parameters():
        groups[shapes.get(name) == parameter.shape].append(parameter)
    return [{"params": groups[True]}, {"params": groups[False], "lr": settings.factor_lr}]


def _image_error(student: nn.Module, latents: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        images = torch.cat([student(z) for z in latents.split(64)])
    return (images - target).abs().mean().item()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
