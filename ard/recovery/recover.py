"""The interface of a recovery: a function of a plan and of what builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from ard.measuring.measurement import History
from ard.plan import RankPlan


class Build(Protocol):
    """Builds the factorized generator of the plan at hand, corrected in closed form."""

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None, /) -> nn.Module:
        """Build `part` of the plan on `base`, which has the earlier parts; all of it by default."""
        ...


Recover = Callable[[Build, RankPlan], nn.Module]
# Builds the factorized generator of a plan, corrected in closed form: of all of it on None, or of a
# part of it on a generator that has the other parts.
Assemble = Callable[[RankPlan, nn.Module | None], nn.Module]


@dataclass(frozen=True)
class Building:
    """The `Build` of one plan.

    Attributes:
        assemble: builds any plan.
        plan: the plan.
    """

    assemble: Assemble
    plan: RankPlan

    def __call__(self, part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
        return self.assemble(self.plan if part is None else part, base)


@runtime_checkable
class InRounds(Protocol):
    """A recovery that can go on where it ended."""

    def __call__(self, build: Build, plan: RankPlan, /) -> nn.Module:
        """The first round."""
        ...

    def after(self, assemble: Assemble, plan: RankPlan, history: History, /) -> nn.Module:
        """The generator of a plan after a round that follows those of `history`.

        Rounds that were made before are not repeated.
        """
        ...


@dataclass(frozen=True)
class Recovered:
    """A function from a plan to its recovered generator, which holds nothing else.

    So it can be sent to a worker, unlike a function inside a search.

    Attributes:
        assemble: builds the factorized generator of a plan, or of a part of it on a base.
        recover: the recovery.
        histories: the rounds before the last one, of the plans that have any.
    """

    assemble: Assemble
    recover: Recover
    histories: Mapping[RankPlan, History] = field(default_factory=dict)

    def __call__(self, plan: RankPlan) -> nn.Module:
        history = self.histories.get(plan, ())
        if history:
            assert isinstance(self.recover, InRounds), "only such a recovery is asked for more"
            return self.recover.after(self.assemble, plan, history)
        return self.recover(Building(self.assemble, plan), plan)


def closed_form_only(build: Build, plan: RankPlan) -> nn.Module:
    """The recovery without training."""
    return build()
