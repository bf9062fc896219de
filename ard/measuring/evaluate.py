"""How good is a generator under a plan? The seam between measuring and deciding."""

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
    """A generator to be scored, built only when someone looks at it.

    `plan` is the one that it was built by, or None for a net that came from elsewhere.
    """

    build: Callable[[], nn.Module]
    plan: RankPlan | None

    @staticmethod
    def finished(generator: nn.Module) -> Candidate:
        """A net that is scored as it is."""
        return Candidate(lambda: generator, None)

    @cached_property
    def generator(self) -> nn.Module:
        """The generator itself."""
        return self.build()

    def __str__(self) -> str:
        return "a finished generator" if self.plan is None else f"the plan {self.plan}"


class Evaluator(Protocol):
    """Scores a candidate against the dense generator."""

    def __call__(self, candidate: Candidate) -> Score: ...


class ScoreEvaluator:
    """Any number that should not rise: an image error, a loss, one minus an accuracy.

    `score(generator)` is one number, or one per sample `(n,)`, of which the mean counts; it is
    called in evaluation mode and without gradients. The samples must be the same for every
    generator: the interval of the rise is that of paired differences, 1.96 standard errors to
    either side. One number alone gives no idea of its noise, and its interval has no width.
    `name` is what journals, tables and reports call the metric.

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
        ValueError: the name has characters that a column of a table must not have.
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
        """`(n,)` in float64 on the CPU."""
        with evaluating(generator):
            values = torch.as_tensor(self.score(generator)).detach().double().cpu().flatten()
        if not values.isfinite().all():
            raise NonFiniteError(f"the score of {whose} is NaN or infinite")
        return values


class TableEvaluator:
    """Replays recorded scores and never builds a generator."""

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
