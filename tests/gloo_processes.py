"""What each of two processes runs in `nas_gan/test_distributed.py`; a spawned one imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas_gan.averaging import ExponentialMovingAverage
from nas_gan.distributed import (
    Processes,
    Share,
    gather_scores,
    global_batch_norm_,
    joined_processes,
    synchronised,
)
from nas_gan.losses import make_loss
from nas_gan.networks import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    build_discriminator,
    initialize_,
)
from nas_gan.steps import AdversarialStep, StepLatents
from nas_gan.upper_bound import UpperBoundSchedule

BATCH = 8


def curve(
    loss: str, processes: Processes, *, n_steps: int = 4, n_critic: int = 1
) -> list[dict[str, float]]:
    """Scalars of a small run of the published nets on this process's share of each batch."""
    rng = torch.Generator().manual_seed(0)
    generator = Generator(GeneratorConfig(gf_dim=8, bottom_width=2))
    initialize_(generator, "xavier_uniform", rng)
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorConfig(df_dim=8), "xavier_uniform", rng)
    for network in (generator, discriminator):
        global_batch_norm_(network)
    images = torch.rand(n_steps, BATCH, 3, 16, 16, generator=rng) * 2 - 1

    def real(index: int) -> Tensor:
        return images[index]

    step = AdversarialStep(
        generator,
        discriminator,
        make_loss(loss),
        # Not Adam: it divides by gradients, and makes much of rounding where they are near 0.
        g_optimizer=torch.optim.SGD(generator.parameters(), 0.05),
        d_optimizer=torch.optim.SGD(discriminator.parameters(), 0.05),
        average=ExponentialMovingAverage(generator, 0.9),
        upper_bound=UpperBoundSchedule("fixed"),
        real=Share(real, processes),
        latents=Share(StepLatents(1, BATCH, generator.latent_dim), processes),
        updates_per_epoch=2,
        n_steps=n_steps,
        n_critic=n_critic,
        log_gradients=True,
        log_health=True,
        gather=gather_scores,
        synchronise=synchronised,
    )
    scalars = [step(index) for index in range(n_steps)]
    averaged = step.average.average.state_dict()
    scalars.append(
        {name: averaged[f"to_rgb.0.running_{name}"][0].item() for name in ("mean", "var")}
    )
    return scalars


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
}
