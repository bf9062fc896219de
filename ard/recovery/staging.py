"""Compressing far in several steps, each of which stays near a net that works."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ard.plan import RankPlan
from ard.recovery.distillation import Recovery
from ard.recovery.recover import Build
from ard.search.candidates import capture_inputs


def in_stages(
    build: Build,
    plan: RankPlan,
    dense: nn.Module,
    latents: Tensor,
    ratio: float,
    settings: Recovery,
    distilled: Callable[[nn.Module, Recovery], nn.Module],
) -> nn.Module:
    """Factorize and distil: at once, or front to back where the net shrinks by more than `ratio`.

    In stages the layers of each part are factorized in the net that the parts before it left, so
    they are fitted to what really enters them, and never far from a net that works. The updates
    are shared out between the stages. Front and back are told by a pass of `dense` on `latents`, of
    which one or two rows will do, on its device.
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
    """`names` of layers in the order in which they first run; those that do not run come last.

    Where a class makes its layers says nothing about when it calls them.
    """
    names = list(names)
    ran = capture_inputs(network, latents, names)  # keeps the order of first calls
    return [*ran, *(name for name in names if name not in ran)]


def stages(plan: RankPlan, order: Sequence[str], n: int) -> list[RankPlan]:
    """A plan in `n` parts of about as many layers each, front to back along `order`."""
    names = [name for name in order if name in plan]
    n = max(1, min(n, len(names)))
    bounds = [round(i * len(names) / n) for i in range(n + 1)]
    parts = (names[low:high] for low, high in itertools.pairwise(bounds))
    return [RankPlan({name: plan[name] for name in part}) for part in parts]
