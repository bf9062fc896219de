"""The interface of a recovery: a function of a plan and of what builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from ard.plan import RankPlan


class Build(Protocol):
    """Builds the factorized generator of the plan at hand, corrected in closed form."""

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None, /) -> nn.Module:
        """Build `part` of the plan on `base`, which has the earlier parts; all of it by default."""
        ...


Recover = Callable[[Build, RankPlan], nn.Module]


def closed_form_only(build: Build, plan: RankPlan) -> nn.Module:
    """The recovery without training."""
    return build()
