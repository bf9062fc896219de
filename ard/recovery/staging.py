"""Recovering a far compression in stages, each of which stays close to a working network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ard.assembly.statistics import capture_inputs
from ard.plan import RankPlan
from ard.recovery.distillation import Recovery
from ard.recovery.recover import Build


def in_stages(
    build: Build,
    plan: RankPlan,
    dense: nn.Module,
    latents: Tensor,
    ratio: float,
    settings: Recovery,
    distilled: Callable[[nn.Module, Recovery], nn.Module],
) -> nn.Module:
    """Factorize and distil a plan, in stages if it shrinks the network by more than `ratio`.

    The stages go from the front of the network to its back. The layers of each stage are factorized
    in the network that the stages before it produced, so they are fitted to their actual inputs and
    the network never moves far from one that works. The updates are divided among the stages.

    Args:
        build: builds the factorized generator of the plan, or of a part of it.
        plan: the plan.
        dense: the dense generator.
        latents: one or two latents `(n, latent_dim)` on its device, which show the order in which
            layers run.
        ratio: the largest ratio of parameters per stage.
        settings: the settings of the whole distillation.
        distilled: distils a network with the settings of one stage.
    """
    small = build()
    n_dense = sum(p.numel() for p in dense.parameters())
    n_small = sum(p.numel() for p in small.parameters())
    n_stages = max(1, math.ceil(math.log(n_dense / n_small) / math.log(ratio) - 1e-9))
    parts = stages(plan, execution_order(dense, plan, latents), n_stages)
    if len(parts) == 1 or settings.n_steps == 0:
        return distilled(small, settings)
    network: nn.Module | None = None
    for number, part in enumerate(parts):
        share = replace(
            settings,
            n_steps=max(settings.n_steps // len(parts), 1),
            seed=settings.seed + 1000 * number,
        )
        network = distilled(build(part, network), share)
    assert network is not None
    return network


def execution_order(network: nn.Module, names: Iterable[str], latents: Tensor) -> list[str]:
    """The layers `names` in the order in which they first run; those that do not run come last.

    The order in which a class defines its layers may be different.
    """
    names = list(names)
    ran = capture_inputs(network, latents, names)  # keeps the order of first calls
    return [*ran, *(name for name in names if name not in ran)]


def stages(plan: RankPlan, order: Sequence[str], n: int) -> list[RankPlan]:
    """A plan split into `n` parts of about equally many layers, following `order`."""
    names = [name for name in order if name in plan]
    n = max(1, min(n, len(names)))
    bounds = [round(i * len(names) / n) for i in range(n + 1)]
    parts = (names[low:high] for low, high in itertools.pairwise(bounds))
    return [RankPlan({name: plan[name] for name in part}) for part in parts]
