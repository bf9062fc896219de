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


@dataclass(frozen=True, eq=False)
class FidEvaluator:
    """Paired ΔFID against the dense generator on one bank of latents.

    Attributes:
        paired: the reference statistics, and the dense generator's features on `latents`.
        latents: `(n, latent_dim)`.
        extractor: maps images to features.
        bootstrap: compute the interval by resampling. Otherwise it comes from the influence
            function, which is much cheaper and agrees if the candidate is close to the dense
            generator.
        batch_size: images per batch.
        device: the device that generators run on.
    """

    paired: PairedFid
    latents: Tensor
    extractor: FeatureExtractor
    bootstrap: bool = False
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
        delta = self.paired.compare(features, bootstrap=self.bootstrap)
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
        """The dense generator's own distance on these latents."""
        return self.paired.fid_dense


def _evaluator(bank: DenseBank, resampled: bool) -> FidEvaluator:
    return FidEvaluator(
        PairedFid(bank.reference.content, bank.features, seed=bank.seed),
        bank.latents,
        bank.extractor,
        bootstrap=resampled,
        batch_size=bank.batch_size,
        device=bank.device,
    )


def _reference(request: ReferenceRequest) -> Reference:
    statistics, source = find_reference(
        request.wanted,
        request.extractor,
        dataset=request.dataset,
        resolution=request.resolution,
        data=request.data,
        dense=request.dense,
        cache=request.cache,
        dense_cache=request.run_dir,
        progress=request.progress,
    )
    # FrechetReference is computed once for all banks of latents.
    return Reference(source, FrechetReference(statistics), dense=request.wanted == "dense")


FID = Metric(
    name="fid",
    symbol="FID",
    symbol_elsewhere="FD",
    description="Fréchet distance",
    enough_images=lambda extractor: 2 * extractor.dim,
    find_reference=_reference,
    evaluator=_evaluator,
)
