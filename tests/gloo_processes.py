"""What each of two processes runs in `nas_gan/test_distributed.py`; a spawned one imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.draws import Sampling
from nas_gan.architecture_search.relaxation import Relaxation, TemperatureSchedule
from nas_gan.architecture_search.run import search
from nas_gan.architecture_search.step import (
    ArchitectureLoss,
    ArchitectureStep,
    Optimizers,
    SearchLosses,
    Supernets,
    make_architecture_loss,
)
from nas_gan.architecture_search.supernet import SuperDiscriminator, SuperGenerator
from nas_gan.data.loading import synthetic_shapes
from nas_gan.losses import make_loss
from nas_gan.networks.interface import interface_of
from nas_gan.networks.searched import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    build_discriminator,
    initialize_,
)
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distributed import (
    Processes,
    Share,
    exchange_among,
    gather_scores,
    global_batch_norm_,
    joined_processes,
    mean_over_processes,
)
from nas_gan.training.draws import StepLatents
from nas_gan.training.learner import Learner
from nas_gan.training.schedule import Schedule
from nas_gan.training.skipping import DynamicSkipping
from nas_gan.training.steps import AdversarialStep, Batches, Logged
from nas_gan.training.upper_bound import UpperBoundSchedule

BATCH = 8


def curve(
    loss: str,
    processes: Processes,
    *,
    n_steps: int = 4,
    n_critic: int = 1,
    g_batch: int = 0,
    skip: bool = False,
) -> list[dict[str, float]]:
    """Scalars of a small run of the published nets on this process's share of each batch."""
    rng = torch.Generator().manual_seed(0)
    generator = Generator(GeneratorConfig(gf_dim=8, bottom_width=2, n_classes=0))
    initialize_(generator, "xavier_uniform", rng)
    torch.manual_seed(0)
    discriminator = build_discriminator(
        DiscriminatorConfig(df_dim=8, n_classes=0), "xavier_uniform", rng
    )
    for network in (generator, discriminator):
        global_batch_norm_(network)
    images = torch.rand(n_steps, BATCH, 3, 16, 16, generator=rng) * 2 - 1

    def real(index: int) -> Tensor:
        return images[index]

    skipping = DynamicSkipping(0, seed=2)
    skipping.average = 0.2  # of a run that has been going on: half of the updates are left out

    step = AdversarialStep(
        # Not Adam: it divides by gradients, and makes much of rounding where they are near 0.
        Learner(generator, torch.optim.SGD(generator.parameters(), 0.05)),
        Learner(discriminator, torch.optim.SGD(discriminator.parameters(), 0.05)),
        make_loss(loss),
        average=ExponentialMovingAverage(generator, 0.9),
        upper_bound=UpperBoundSchedule("fixed"),
        batches=Batches(
            Share(real, processes),
            Share(StepLatents(1, BATCH, interface_of(generator)), processes),
            Share(StepLatents(2, g_batch, interface_of(generator)), processes) if g_batch else None,
        ),
        schedule=Schedule(
            n_steps,
            updates_per_epoch=2,
            n_critic=n_critic,
            d_skipping=skipping if skip else None,
        ),
        logged=Logged(gradients=True, health=True),
        exchange=exchange_among(processes),
    )
    scalars = [step(index) for index in range(n_steps)]
    averaged = step.average.average.state_dict()
    scalars.append(
        {name: averaged[f"to_rgb.0.running_{name}"][0].item() for name in ("mean", "var")}
    )
    return scalars


def architecture_curve(
    processes: Processes,
    *,
    arch_loss: ArchitectureLoss = "hinge",
    amending: float = 0.0,
    n_steps: int = 1,
) -> list[dict[str, float]]:
    """Scalars of a small search on this process's share, and an architecture parameter at last."""
    torch.manual_seed(0)
    generator = SuperGenerator(GeneratorConfig(gf_dim=2, bottom_width=2, latent_dim=6, n_classes=0))
    discriminator = SuperDiscriminator(4)
    for network in (generator, discriminator):
        global_batch_norm_(network)
    with torch.no_grad():
        for weight in discriminator.weights:
            weight.mul_(6)  # scores of about 1: the mean of seven operations shrinks its input
    images = torch.rand(n_steps, BATCH, 3, 16, 16) * 2 - 1

    def real(index: int) -> Tensor:
        return images[index]

    sgd = torch.optim.SGD
    step = ArchitectureStep(
        Supernets(generator, discriminator, ExponentialMovingAverage(generator, 0.9)),
        optimizers=Optimizers(
            sgd(generator.weights, 0.02), sgd(discriminator.weights, 0.02),
            sgd(generator.alphas, 0.01), sgd(discriminator.alphas, 0.01),
        ),
        losses=SearchLosses(make_loss("latest"), make_architecture_loss(arch_loss), amending),
        sampling=Sampling(Relaxation(), TemperatureSchedule(), seed=1),
        real=real,
        schedule=Schedule(n_steps, updates_per_epoch=2),
        exchange=exchange_among(processes),
    )  # fmt: skip
    scalars = [step(index) for index in range(n_steps)]
    for role, network in (("g", generator), ("d", discriminator)):
        values = network.alphas_normal.detach().flatten()
        scalars.append({f"{role} {i}": 1e3 * value.item() for i, value in enumerate(values)})
    return scalars


def run_search(folder: str, processes: Processes) -> str:
    """A search as the command has it, kept in `folder`; how it ended."""
    config = SearchConfig(
        dataset="synthetic", gf_dim=2, df_dim=2, batch_size=8, steps=1, n_critic=1, log_every=1,
        sample_every=1, arch_loss="mmd", run_dir=Path(folder),
    )  # fmt: skip
    return search(config, synthetic_shapes(size=32, n=16), processes=processes).status


def averaged(processes: Processes) -> list[Tensor]:
    """Means of tensors over processes, and of one of them the first and second derivative."""
    x = torch.tensor([1.0, 2.0]) * (processes.rank + 1)
    x.requires_grad_()
    first, second = mean_over_processes([x.square(), torch.full((2, 1), float(processes.rank))])
    (slope,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(mean_over_processes([slope])[0].sum(), x)
    return [first.detach(), second, slope.detach(), curvature]


def work(rank: int, folder: str, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    """Join the other process as torchrun would have it, do the jobs, keep their results."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": Path(folder, "port").read_text(),
    }
    with joined_processes("cpu") as processes:
        results = [JOBS[name](processes=processes, **settings) for name, settings in jobs]
    torch.save(results, Path(folder, f"{rank}.pt"))


def gathered(processes: Processes) -> tuple[Tensor, Tensor]:
    """Gathered scores, and the gradient of a loss of them by this process's own."""
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * processes.rank
    own.requires_grad_()
    together = gather_scores(own)
    (together * torch.arange(8.0).view(4, 2)).sum().backward()
    assert own.grad is not None
    return together.detach(), own.grad


def normalised(processes: Processes) -> dict[str, Tensor]:
    """Half of a batch through global batch normalisation, and its gradients."""
    torch.manual_seed(0)
    images, weight = torch.randn(6, 3, 2, 2) * 3 + 5, torch.randn(6, 3, 2, 2)
    norm = nn.Sequential(nn.BatchNorm2d(3))
    global_batch_norm_(norm)
    rows = slice(3 * processes.rank, 3 * processes.rank + 3)
    if processes.count == 1:
        rows = slice(None)
    mine = images[rows].clone().requires_grad_()
    out = norm(mine)
    loss = (gather_scores(out.flatten(1)) * weight.flatten(1)).sum()
    loss.backward()
    assert mine.grad is not None
    state = {name: tensor.detach().clone() for name, tensor in norm.state_dict().items()}
    return {"out": out.detach(), "gradient": mine.grad, **state}


def summed(processes: Processes) -> list[int]:
    """Ranks and counts as the processes see them."""
    total = torch.tensor(1)
    if processes.count > 1:
        dist.all_reduce(total)
    return [processes.rank, processes.count, int(total)]


JOBS: dict[str, Callable[..., Any]] = {
    "curve": curve,
    "gathered": gathered,
    "normalised": normalised,
    "summed": summed,
    "averaged": averaged,
    "architecture_curve": architecture_curve,
    "run_search": run_search,
}
