"""How good is a generator under a plan? The seam between measuring and deciding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor, nn

from ard.errors import ArdError
from ard.plan import RankPlan
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import PairedFid
from nas_gan.metrics.sampling import extract_features


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
