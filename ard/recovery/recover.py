"""The interface of a recovery: a function of a plan and of what builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from ard.plan import RankPlan


class Build(Protocol):
    """Builds the factorized generator of the plan at hand, corrected in closed form."""

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None, /) -> nn.Module:
        """Build `part` of the plan on `base`, which has the earlier parts; all of it by default."""
        ...


Recover = Callable[[Build, RankPlan], nn.Module]


@dataclass(frozen=True)
class Recovered:
    """A function from a plan to its recovered generator, which holds nothing else.

    So it can be sent to a worker, unlike a function inside a search.

    Attributes:
        assemble: builds the factorized generator of a plan, or of a part of it on a base.
        recover: the recovery.
    """

    assemble: Callable[[RankPlan, nn.Module | None], nn.Module]
    recover: Recover

    def __call__(self, plan: RankPlan) -> nn.Module:
        def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
            return self.assemble(plan if part is None else part, base)

        return self.recover(build, plan)


def closed_form_only(build: Build, plan: RankPlan) -> nn.Module:
    """The recovery without training."""
    return build()
