"""Every metric that was asked for, from what one pass over each side gathered."""

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

# Those that look at the reference's images one by one, for which mean and covariance do not do.
NEED_REFERENCE_IMAGES = ("kid", "prc", "parzen")
NEED_REFERENCE = ("fid", *NEED_REFERENCE_IMAGES)


@dataclass(frozen=True)
class Scores:
    """Results by metric, None where it was not asked for.

    `fid` and `kid` are in the features of the extractor, whatever that is. `inception_score` is
    filled where Inception chose the classes, `class_score` where another network did.
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
    """What has to be gathered of the images, or of the reference's, for these metrics."""
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
    """The metrics of what was collected, except accuracy, which needs a generator to ask.

    `comparable` says that the features are Inception's. `step` is told of each metric that takes
    more than a moment.

    Raises:
        InvalidValueError: a metric needs images of the reference and there are none.
    """
    for metric in NEED_REFERENCE_IMAGES:
        if metric in metrics and reference is None:
            raise InvalidValueError(f"{metric} needs images of a reference and not only statistics")
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
