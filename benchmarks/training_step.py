"""Claim: our training step makes at least 1.3 times the images a second of the published one.

The published step is written from its description: the discriminator scores real and fake images
in two passes, the generator's step draws new latents and generates a second time, scores the real
images again with gradients, lets gradients run into the discriminator's weights, and averages
parameters one by one. Same networks, loss, optimisers and batch on both sides, in this process,
interleaved; ratios are medians over rounds, in processor time too because the clock of a shared
machine also measures its other users. A third side is our step in bfloat16.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_gan.files import write_json
from nas_gan.losses import make_loss
from nas_gan.networks.searched import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    build_discriminator,
    initialize_,
)
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.draws import StepNoise
from nas_gan.training.learner import Learner
from nas_gan.training.schedule import Schedule
from nas_gan.training.steps import AdversarialStep, Batches, Compute
from nas_gan.training.upper_bound import UpperBoundSchedule

BAR = 1.3
RESULT = Path(__file__).parent / "results" / "training_step.json"


def build(gf_dim: int, df_dim: int, device: str) -> tuple[Generator, nn.Module]:
    rng = torch.Generator().manual_seed(0)
    generator = Generator(GeneratorConfig(gf_dim=gf_dim, n_classes=0))
    initialize_(generator, "xavier_uniform", rng)
    discriminator = build_discriminator(DiscriminatorConfig(df_dim=df_dim, n_classes=0), rng=rng)
    return generator.to(device), discriminator.to(device)


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 2e-4, (0.0, 0.9))


def published_step(
    generator: nn.Module, discriminator: nn.Module, images: Tensor, latents: Callable[[int], Tensor]
) -> Callable[[int], None]:
    """One iteration as the published description has it."""
    loss = make_loss("latest")
    g_optimizer, d_optimizer = adam(generator), adam(discriminator)
    average = [p.detach().clone() for p in generator.parameters()]
    device = next(generator.parameters()).device

    def step(index: int) -> None:
        generator.train()
        discriminator.train()
        real = images.to(device)
        fake = generator(latents(2 * index).to(device)).detach()
        d_optimizer.zero_grad()
        d_loss = loss.discriminator(discriminator(real), discriminator(fake))
        d_loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        fake = generator(latents(2 * index + 1).to(device))
        g_loss = loss.generator(discriminator(real), discriminator(fake))
        g_loss.backward()
        g_optimizer.step()
        for averaged, parameter in zip(average, generator.parameters(), strict=True):
            averaged.mul_(0.999).add_(parameter.data, alpha=0.001)
        d_loss.item(), g_loss.item()

    return step


def our_step(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    latents: Callable[[int], Tensor],
    *,
    bf16: bool,
    compile_backend: str | None,
) -> Callable[[int], Any]:
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    return AdversarialStep(
        Learner(generator, adam(generator)),
        Learner(discriminator, adam(discriminator)),
        make_loss("latest"),
        average=ExponentialMovingAverage(generator),
        upper_bound=UpperBoundSchedule("fixed"),
        batches=Batches(lambda index: images, latents),
        schedule=Schedule(n_steps=100, updates_per_epoch=100),
        compute=Compute(bf16=bf16, compile_backend=compile_backend),
    )


def timed(action: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def summary(
    published: list[tuple[float, float]], side: list[tuple[float, float]], batch: int
) -> dict[str, float]:
    """Medians; a ratio is the median over rounds, whose two sides ran one after the other."""
    wall, cpu = (statistics.median(pair[i] for pair in side) for i in (0, 1))
    ratio_wall, ratio_cpu = (
        statistics.median(a[i] / b[i] for a, b in zip(published, side, strict=True)) for i in (0, 1)
    )
    return {
        "seconds_wall": wall,
        "seconds_cpu": cpu,
        "images_per_second": batch / wall,
        "ratio_wall": ratio_wall,
        "ratio_cpu": ratio_cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gf-dim", type=int, default=32)
    parser.add_argument("--df-dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", dest="backend", help="ours is compiled, for example inductor")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    networks = build(arguments.gf_dim, arguments.df_dim, arguments.device)
    images = torch.rand(arguments.batch, 3, 32, 32) * 2 - 1
    latents = StepNoise(0, arguments.batch, networks[0].latent_dim)

    def ours(bf16: bool) -> Callable[[int], Any]:
        nets = copy.deepcopy(networks)
        return our_step(*nets, images, latents, bf16=bf16, compile_backend=arguments.backend)

    sides: dict[str, Callable[[int], Any]] = {
        "published": published_step(*copy.deepcopy(networks), images, latents),
        "ours": ours(bf16=False),
        "ours_bf16": ours(bf16=True),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for index in range(arguments.repeats + 2):  # two rounds to warm up
        for name, step in sides.items():
            taken = timed(partial(step, index), arguments.device)
            if index >= 2:
                times[name].append(taken)

    rows = {name: summary(times["published"], times[name], arguments.batch) for name in sides}
    setting = ("gf_dim", "df_dim", "batch", "repeats", "device", "threads", "backend")
    result = {
        "setting": {key: getattr(arguments, key) for key in setting},
        "bar": BAR,
        "met": rows["ours"]["ratio_cpu"] >= BAR,
        "steps": rows,
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch": str(torch.__version__),
        },
    }
    write_json(arguments.out, result)
    for name, row in rows.items():
        print(
            f"{name}: {row['images_per_second']:.1f} images/s, {row['ratio_wall']:.2f}x on the "
            f"clock, {row['ratio_cpu']:.2f}x in processor time"
        )


if __name__ == "__main__":
    main()
