"""How good is a generator under a plan? The seam between measuring and deciding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from ard.errors import ArdError, NonFiniteError
from ard.plan import RankPlan
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import PairedFid
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.structure import evaluating

Score = Callable[[nn.Module], Tensor | float]


@dataclass(frozen=True)
class Evaluation:
    """The score of one plan.

    Attributes:
        fid: Fréchet distance to the reference statistics, in the extractor's feature space.
        delta_fid: rise over the dense generator on the same latents.
        ci_low: lower end of the 95 % interval of `delta_fid`.
        ci_high: its upper end; a budget is met when this is within it.
        n_samples: images behind the score.
        extractor: whose features they are.
    """

    fid: float
    delta_fid: float
    ci_low: float
    ci_high: float
    n_samples: int
    extractor: str


@dataclass(frozen=True)
class Candidate:
    """A plan and its generator, which is built only when someone looks at it."""

    plan: RankPlan
    build: Callable[[RankPlan], nn.Module]

    @cached_property
    def generator(self) -> nn.Module:
        """The generator with the plan applied."""
        return self.build(self.plan)


class Evaluator(Protocol):
    """Scores a candidate."""

    def __call__(self, candidate: Candidate) -> Evaluation: ...


@dataclass(frozen=True, eq=False)
class FidEvaluator:
    """Paired ΔFID against the dense generator on one bank of latents.

    `paired` holds the dense generator's features on `latents` `(n, latent_dim)`. With `bootstrap`
    the interval is resampled, otherwise it comes from the influence function, which costs a
    fraction of that and agrees where the candidate is close to the dense net.
    """

    paired: PairedFid
    latents: Tensor
    extractor: FeatureExtractor
    bootstrap: bool = False
    batch_size: int = 64
    device: str = "cpu"

    def __call__(self, candidate: Candidate) -> Evaluation:
        features = extract_features(
            candidate.generator,
            self.latents,
            self.extractor,
            batch_size=self.batch_size,
            device=self.device,
        )  # (n, dim)
        delta = self.paired.compare(features, bootstrap=self.bootstrap)
        return Evaluation(
            delta.fid, delta.delta, delta.ci_low, delta.ci_high, delta.n, self.extractor.name
        )


class ScoreEvaluator:
    """Any number that should not rise: an image error, a loss, one minus an accuracy.

    `score(generator)` is one number, or a number for each sample `(n,)` of which the mean counts;
    it is called in evaluation mode and without gradients. The samples must be the same for every
    generator: the interval of the rise is that of paired differences, 1.96 standard errors to
    either side. One number has no samples to tell its noise from, and an interval of no width.

    >>> class Constant(nn.Module):
    ...     def __init__(self, value: float) -> None:
    ...         super().__init__()
    ...         self.value = value
    >>> score = lambda net: torch.tensor([net.value, net.value + 2.0])
    >>> rise = ScoreEvaluator(score, Constant(1.0))(Candidate(RankPlan(), lambda _: Constant(4.0)))
    >>> rise.fid, rise.delta_fid, rise.n_samples
    (5.0, 3.0, 2)

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """

    def __init__(self, score: Score, dense: nn.Module, name: str = "score") -> None:
        self.score, self.name = score, name
        self.dense = self._values(dense, "the dense generator")

    def __call__(self, candidate: Candidate) -> Evaluation:
        values = self._values(candidate.generator, f"the plan {candidate.plan}")
        rises = values - self.dense  # (n,)
        n, rise = len(rises), rises.mean().item()
        half = 1.96 * rises.std().item() / n**0.5 if n > 1 else 0.0
        return Evaluation(values.mean().item(), rise, rise - half, rise + half, n, self.name)

    def _values(self, generator: nn.Module, whose: str) -> Tensor:
        """`(n,)` in float64 on the CPU."""
        with evaluating(generator):
            values = torch.as_tensor(self.score(generator)).detach().double().cpu().flatten()
        if not values.isfinite().all():
            raise NonFiniteError(f"the score of {whose} is NaN or infinite")
        return values


class TableEvaluator:
    """Replays recorded evaluations and never builds a generator."""

    def __init__(self, recorded: Mapping[RankPlan, Evaluation]) -> None:
        self.recorded = dict(recorded)

    def __call__(self, candidate: Candidate) -> Evaluation:
        """The recorded evaluation of the candidate's plan.

        Raises:
            ArdError: the plan was never recorded.
        """
        try:
            return self.recorded[candidate.plan]
        except KeyError:
            raise ArdError(f"no recorded evaluation of the plan {candidate.plan}") from None
