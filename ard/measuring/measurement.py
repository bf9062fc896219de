"""A measurement: what one line of a journal holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ard.measuring.score import Score
from ard.plan import RankPlan

Stage = Literal["proxy", "single", "factorized", "recovered", "final"]
# The plans of the rounds of recovery before the last one, oldest first. Each round begins with the
# weights of the one before: it continues the same plan, or sharpens it to a harsher one.
History = tuple[RankPlan, ...]


@dataclass(frozen=True)
class Measurement:
    """The score of a plan at one stage.

    Attributes:
        stage: how the plan was scored. `proxy` and `single` are plans of a single layer,
            `factorized` is a whole plan before recovery, and `recovered` and `final` are whole
            plans after recovery, `final` on held-out latents.
        plan: the plan.
        score: its score.
        bank: which bank of held-out latents scored it, counted from 0. Every plan that is tested
            for the final time has one of its own.
        history: the rounds of recovery before the one that made its weights.
    """

    stage: Stage
    plan: RankPlan
    score: Score
    bank: int = 0
    history: History = ()

    @property
    def rounds(self) -> int:
        """How many rounds of recovery made its weights."""
        return len(self.history) + 1
