"""What recovers a plan, as a function of the plan and of what builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from ard.plan import RankPlan


class Build(Protocol):
    """Builds the factorized generator of the plan in question, repaired in closed form."""

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None, /) -> nn.Module:
        """With arguments: a part of the plan, on a generator that has the other parts already."""
        ...


Recover = Callable[[Build, RankPlan], nn.Module]


def closed_form_only(build: Build, plan: RankPlan) -> nn.Module:
    """The recovery that trains nothing."""
    return build()
