"""Evaluators score candidate generators; the search only sees their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from ard.errors import ArdError, NonFiniteError
from ard.measuring.score import Score, check_metric_name
from ard.plan import RankPlan
from nas_gan.networks.structure import evaluating

ScoreFunction = Callable[[nn.Module], Tensor | float]


@dataclass(frozen=True)
class Candidate:
    """A generator to be scored, built when it is first used.

    Attributes:
        build: makes the generator.
        plan: the plan that it was built from, or None if it did not come from a plan.
    """

    build: Callable[[], nn.Module]
    plan: RankPlan | None

    @staticmethod
    def finished(generator: nn.Module) -> Candidate:
        """A candidate for a generator that exists already."""
        return Candidate(lambda: generator, None)

    @cached_property
    def generator(self) -> nn.Module:
        """The generator, built on first use."""
        return self.build()

    def __str__(self) -> str:
        return "a finished generator" if self.plan is None else f"the plan {self.plan}"


class Evaluator(Protocol):
    """A function that scores a candidate against the dense generator."""

    def __call__(self, candidate: Candidate) -> Score: ...


class ScoreEvaluator:
    """An evaluator for any score where lower is better, such as an image error or a loss.

    The interval of a rise is that of paired differences, 1.96 standard errors to either side. A
    score of one number says nothing about its noise, so its interval has no width.

    Args:
        score: `score(generator)` returns one number, or one per sample `(n,)`, whose mean counts.
            The samples must be the same for every generator. It is called in evaluation mode and
            without gradients.
        dense: the dense generator.
        name: the name of the metric in journals, tables and reports.

    >>> class Constant(nn.Module):
    ...     def __init__(self, value: float) -> None:
    ...         super().__init__()
    ...         self.value = value
    >>> score = lambda net: torch.tensor([net.value, net.value + 2.0])
    >>> found = ScoreEvaluator(score, Constant(1.0))(Candidate.finished(Constant(4.0)))
    >>> found.value, found.rise, found.n_images
    (5.0, 3.0, 2)

    Raises:
        NonFiniteError: a score is NaN or infinite.
        ValueError: the name cannot be the name of a column.
    """

    def __init__(self, score: ScoreFunction, dense: nn.Module, name: str = "score") -> None:
        check_metric_name(name)
        self.score, self.name = score, name
        self.dense = self._values(dense, "the dense generator")

    def __call__(self, candidate: Candidate) -> Score:
        values = self._values(candidate.generator, str(candidate))
        rises = values - self.dense  # (n,)
        n, rise = len(rises), rises.mean().item()
        half = 1.96 * rises.std().item() / n**0.5 if n > 1 else 0.0
        return Score(
            metric=self.name,
            value=values.mean().item(),
            rise=rise,
            ci_low=rise - half,
            ci_high=rise + half,
            n_images=n,
            features="",
            measured=True,
        )

    @property
    def dense_value(self) -> float:
        """The dense generator's score."""
        return self.dense.mean().item()

    def _values(self, generator: nn.Module, whose: str) -> Tensor:
        """Scores `(n,)` in float64 on the CPU."""
        with evaluating(generator):
            values = torch.as_tensor(self.score(generator)).detach().double().cpu().flatten()
        if not values.isfinite().all():
            raise NonFiniteError(f"the score of {whose} is NaN or infinite")
        return values


class TableEvaluator:
    """Replays recorded scores, without building any generator."""

    def __init__(self, recorded: Mapping[RankPlan, Score]) -> None:
        self.recorded = dict(recorded)

    def __call__(self, candidate: Candidate) -> Score:
        """The recorded score of the candidate's plan.

        Raises:
            ArdError: the plan was never recorded.
        """
        if candidate.plan is None or candidate.plan not in self.recorded:
            raise ArdError(f"no score of {candidate} was recorded")
        return self.recorded[candidate.plan]
