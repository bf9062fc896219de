"""The interface of a recovery: a function of a plan and of what builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from ard.plan import RankPlan


class Build(Protocol):
    """Builds the factorized generator of the plan at hand, corrected in closed form."""

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None, /) -> nn.Module:
        """Build `part` of the plan on `base`, which has the earlier parts; all of it by default."""
        ...


Recover = Callable[[Build, RankPlan], nn.Module]


@runtime_checkable
class InRounds(Protocol):
    """A recovery that can go on where it ended."""

    def __call__(self, build: Build, plan: RankPlan, /) -> nn.Module:
        """The first round."""
        ...

    def after(self, build: Build, plan: RankPlan, rounds: int, /) -> nn.Module:
        """The generator after so many rounds; those that were made before are not repeated."""
        ...


@dataclass(frozen=True)
class Recovered:
    """A function from a plan to its recovered generator, which holds nothing else.

    So it can be sent to a worker, unlike a function inside a search.

    Attributes:
        assemble: builds the factorized generator of a plan, or of a part of it on a base.
        recover: the recovery.
        rounds: of recovery for the plans that get more than one.
    """

    assemble: Callable[[RankPlan, nn.Module | None], nn.Module]
    recover: Recover
    rounds: Mapping[RankPlan, int] = field(default_factory=dict)

    def __call__(self, plan: RankPlan) -> nn.Module:
        def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
            return self.assemble(plan if part is None else part, base)

        rounds = self.rounds.get(plan, 1)
        if rounds > 1:
            assert isinstance(self.recover, InRounds), "only such a recovery is asked for more"
            return self.recover.after(build, plan, rounds)
        return self.recover(build, plan)


def closed_form_only(build: Build, plan: RankPlan) -> nn.Module:
    """The recovery without training."""
    return build()
