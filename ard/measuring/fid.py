"""The Fréchet distance as a metric: paired ΔFID against the dense generator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Candidate
from ard.measuring.metric import Metric, ReferenceRequest
from ard.measuring.score import Score
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid
from nas_gan.metrics.reference import find_reference
from nas_gan.metrics.sampling import extract_features

# Images per feature from which an interval is about as good as it gets.
ENOUGH = 4


@dataclass(frozen=True)
class Worth:
    """How often an interval held the true rise, at a number of images per feature.

    Attributes:
        ratio: images per feature.
        least: share of draws, of the population and candidate where it was smallest.
        most: where it was largest.
        width: of the interval, relative to `ENOUGH` images per feature; a median.
    """

    ratio: float
    least: float
    most: float
    width: float


# From benchmarks/results/coverage.json.
WORTH = (
    Worth(0.3, 0.11, 0.99, 23.0),
    Worth(0.5, 0.97, 1.0, 26.0),
    Worth(1, 0.98, 1.0, 15.0),
    Worth(1.2, 0.94, 0.98, 2.1),
    Worth(1.5, 0.93, 0.98, 1.7),
    Worth(2, 0.92, 0.97, 1.5),
    Worth(4, 0.92, 0.97, 1.0),
    Worth(12, 0.94, 0.96, 0.57),
)


@dataclass(frozen=True, eq=False)
class FidEvaluator:
    """Paired ΔFID against the dense generator on one bank of latents, in the limit of many images.

    Attributes:
        paired: the reference statistics, and the dense generator's features on `latents`.
        latents: `(n, latent_dim)`.
        extractor: maps images to features.
        careful: whether intervals from few images allow for their bias, beyond noise.
        batch_size: images per batch.
        device: the device that generators run on.
    """

    paired: PairedFid
    latents: Tensor
    extractor: FeatureExtractor
    careful: bool = True
    batch_size: int = 64
    device: str = "cpu"

    def __call__(self, candidate: Candidate) -> Score:
        features = extract_features(
            candidate.generator,
            self.latents,
            self.extractor,
            batch_size=self.batch_size,
            device=self.device,
        )  # (n, d)
        delta = self.paired.compare(features, careful=self.careful)
        return Score(
            metric=FID.name,
            value=delta.fid,
            rise=delta.delta,
            ci_low=delta.ci_low,
            ci_high=delta.ci_high,
            n_images=delta.n,
            features=self.extractor.name,
            measured=True,
        )

    @property
    def dense_value(self) -> float:
        """The dense generator's own distance in the limit of many images."""
        return self.paired.fid_dense


def _evaluator(bank: DenseBank, reported: bool) -> FidEvaluator:
    return FidEvaluator(
        PairedFid(bank.reference.content, bank.features),
        bank.latents,
        bank.extractor,
        careful=reported,
        batch_size=bank.batch_size,
        device=bank.device,
    )


def _reference(request: ReferenceRequest) -> Reference:
    statistics, source = find_reference(
        request.wanted,
        request.extractor,
        dataset=request.dataset,
        data_sha256=request.data_sha256,
        resolution=request.resolution,
        data=request.data,
        dense=request.dense,
        cache=request.cache,
        dense_cache=request.run_dir,
        progress=request.progress,
    )
    # FrechetReference is computed once for all banks of latents.
    return Reference(
        source,
        FrechetReference(statistics),
        dense=request.wanted == "dense",
        n_images=statistics.n,
    )


def interval_worth(extractor: FeatureExtractor, n: int) -> str:
    """What a 95 % interval of ΔFID from `n` images is worth, by the simulation."""
    ratio = n / extractor.dim
    known = [row for row in WORTH if row.ratio <= ratio]
    row = known[-1] if known else WORTH[0]
    held = f"held the true rise in {row.least:.0%} to {row.most:.0%} of simulated draws"
    if not known:
        held += f" at {row.ratio:g}, and in fewer below"
    return f"{held}, and was {row.width:.2g} times as wide as from {ENOUGH * extractor.dim}"


FID = Metric(
    name="fid",
    symbol="FID",
    symbol_elsewhere="FD",
    description="Fréchet distance",
    enough_images=lambda extractor: ENOUGH * extractor.dim,
    find_reference=_reference,
    evaluator=_evaluator,
    default_images=lambda extractor: ENOUGH * extractor.dim,
    worth=interval_worth,
    estimator="limit",
    limit="in the limit of many images",
)
