"""The metrics that were asked for, from what one pass over each side collected."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.class_score import ClassScore
from nas_gan.metrics.collecting import Collected, Wanted, choose_rows
from nas_gan.metrics.frechet import FeatureStatistics, FrechetReference
from nas_gan.metrics.kernel_distance import KernelDistance, kernel_distance
from nas_gan.metrics.ms_ssim import PAIRS, Similarity, similarity
from nas_gan.metrics.parzen import ParzenScore, parzen_both_ways
from nas_gan.metrics.precision_recall import PrecisionRecall, precision_recall

MetricName = Literal["fid", "kid", "is", "prc", "parzen", "msssim", "accuracy"]

# Those that need single images of the reference; mean and covariance are not enough.
NEED_REFERENCE_IMAGES = ("kid", "prc", "parzen")
NEED_REFERENCE = ("fid", *NEED_REFERENCE_IMAGES)


@dataclass(frozen=True)
class Scores:
    """Results by metric; None if the metric was not asked for.

    `fid` and `kid` are distances in the feature space of the extractor. `inception_score` is set if
    Inception chose the classes, `class_score` if another network did.
    """

    fid: float | None = None
    kid: KernelDistance | None = None
    inception_score: ClassScore | None = None
    class_score: ClassScore | None = None
    precision_recall: PrecisionRecall | None = None
    parzen: tuple[ParzenScore, ParzenScore] | None = None
    ms_ssim: Similarity | None = None
    ms_ssim_within_class: Similarity | None = None


def wanted_of(metrics: Collection[MetricName], kept: int, *, reference: bool = False) -> Wanted:
    """What these metrics need of the images, or of the reference's images."""
    images = kept if "parzen" in metrics else 0
    if "msssim" in metrics and not reference:
        images = max(images, 2 * PAIRS)
    return Wanted(
        statistics="fid" in metrics,
        class_score="is" in metrics and not reference,
        features=kept if {"kid", "prc"} & set(metrics) else 0,
        images=images,
    )


def score(
    metrics: Collection[MetricName],
    collected: Collected,
    *,
    reference: Collected | None = None,
    reference_statistics: FeatureStatistics | None = None,
    comparable: bool = False,
    kept: int,
    seed: int = 0,
    step: Callable[[str], None] = lambda name: None,
) -> Scores:
    """The metrics of what was collected, except accuracy, which needs the generator itself.

    Args:
        metrics: the metrics to compute.
        collected: what was collected of the images.
        reference: what was collected of the reference's images, if there are any.
        reference_statistics: mean and covariance of the reference, for FID.
        comparable: whether the features are Inception's.
        kept: largest number of images per side for KID, precision and recall.
        seed: seed of the random subsets.
        step: called with the name of each metric that takes a while, before it is computed.

    Raises:
        InvalidValueError: a metric needs images of the reference and there are none.
    """
    for metric in NEED_REFERENCE_IMAGES:
        if metric in metrics and reference is None:
            raise InvalidValueError(
                f"{metric} needs images of the reference; statistics are not enough"
            )
    results: dict[str, Any] = {}
    if "fid" in metrics:
        assert reference_statistics is not None
        assert collected.statistics is not None
        step("fid")
        results["fid"] = FrechetReference(reference_statistics).distance(collected.statistics)
    if collected.class_score is not None:
        key = "inception_score" if comparable else "class_score"
        results[key] = collected.class_score
    if reference is not None and {"kid", "prc"} & set(metrics):
        ours, theirs = (_subset(side, kept, seed) for side in (collected, reference))
        if "kid" in metrics:
            step("kid")
            results["kid"] = kernel_distance(ours, theirs, seed=seed)
        if "prc" in metrics:
            step("prc")
            results["precision_recall"] = precision_recall(ours, theirs)
    if reference is not None and "parzen" in metrics:
        assert collected.images is not None
        assert reference.images is not None
        step("parzen")
        results["parzen"] = parzen_both_ways(collected.images, reference.images, seed=seed)
    if "msssim" in metrics:
        assert collected.images is not None
        step("msssim")
        results["ms_ssim"] = similarity(collected.images, seed=seed)
        if collected.labels is not None:
            within = similarity(collected.images, collected.labels, seed=seed)
            results["ms_ssim_within_class"] = within
    return Scores(**results)


def _subset(side: Collected, kept: int, seed: int) -> npt.NDArray[Any]:
    assert side.features is not None
    return side.features[choose_rows(len(side.features), kept, seed)]
