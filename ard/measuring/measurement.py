"""One line of a journal: a plan, how it was prepared, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ard.measuring.score import Score
from ard.plan import RankPlan

Stage = Literal["proxy", "single", "factorized", "recovered", "final"]


@dataclass(frozen=True)
class Measurement:
    """One journal line: a plan, how it was prepared, and what it scored."""

    stage: Stage
    plan: RankPlan
    score: Score
