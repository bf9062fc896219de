"""Kernel distances as metrics, on the features of FID: KID, and an MMD with a Gaussian kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Candidate
from ard.measuring.metric import Metric, ReferenceRequest
from ard.measuring.score import Score
from nas_gan.data.batches import iterate_uint8
from nas_gan.data.images import Images
from nas_gan.errors import MissingDataError
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.given_reference import (
    NAMED,
    GivenReference,
    features_of_images,
    load_features,
    open_given,
)
from nas_gan.metrics.paired_kernel import (
    Kernel,
    PairedKernelDistance,
    gaussian_kernel,
    median_distance,
    polynomial_kernel,
)

Features = npt.NDArray[np.float32]
# Images of a data set in a reference. Every candidate is compared with all of them, so the noise of
# the reference is the same on both sides of a rise.
N_REFERENCE = 10_000


@dataclass(frozen=True, eq=False)
class KernelEvaluator:
    """A paired kernel distance against the dense generator on one bank of latents."""

    metric: str
    paired: PairedKernelDistance
    bank: DenseBank

    def __call__(self, candidate: Candidate) -> Score:
        found = self.paired.compare(self.bank.features_of(candidate.generator))
        return Score(
            metric=self.metric,
            value=found.value,
            rise=found.delta,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            n_images=found.n,
            features=self.bank.extractor.name,
            measured=True,
        )

    @property
    def dense_value(self) -> float:
        """The dense generator's own distance on these latents."""
        return self.paired.dense_value


def find_features(request: ReferenceRequest) -> Reference:
    """Features `(m, d)` of reference images; a kernel distance cannot use statistics.

    `auto` takes the data set that the checkpoint names, if available, else images of the dense
    generator. A path is that of images, or of an `.npz` file with an array `features`.

    Raises:
        MissingDataError: there is nothing at the path.
        InvalidValueError: it holds neither, or the features of another extractor.
    """
    if request.wanted not in NAMED:
        return _given_features(open_given(request.wanted), request)
    real = None
    if request.wanted == "auto" and request.data is not None:
        with suppress(MissingDataError):
            real = request.data()
    images = request.dense() if real is None else real
    n = min(len(images), N_REFERENCE)
    with request.progress("reference", n) as advance:
        features = _features(images, n, request.extractor, advance)
    return Reference(f"{n} images of {images.name}", features, dense=real is None)


def _given_features(given: GivenReference, request: ReferenceRequest) -> Reference:
    """The features in a file, or those of at most `N_REFERENCE` of the given images."""
    if given.images is None:
        return Reference(given.name, load_features(given.path, request.extractor), dense=False)
    found = features_of_images(given, request.extractor, request.progress, N_REFERENCE)
    features = np.concatenate(list(found))
    return Reference(f"{len(features)} images of {given.name}", features, dense=False)


def _features(
    images: Images, n: int, extractor: FeatureExtractor, advance: Callable[[int], None]
) -> Features:
    """Features `(n, d)` of the first `n` images; `advance(n)` is called when n more are done."""
    found: list[npt.NDArray[np.float32]] = []
    done = 0
    for batch in iterate_uint8(images):
        wanted = batch[: n - done]
        found.append(np.asarray(extractor(torch.as_tensor(wanted)), dtype=np.float32))
        done += len(wanted)
        advance(len(wanted))
        if done == n:
            break
    return np.concatenate(found)


def _evaluator(
    bank: DenseBank, reported: bool, *, metric: str, kernel: Callable[[Features], Kernel]
) -> KernelEvaluator:
    reference: Features = bank.reference.content
    paired = PairedKernelDistance(reference, bank.features, kernel(reference))
    return KernelEvaluator(metric, paired, bank)


def _enough(extractor: FeatureExtractor) -> int:
    """The estimator is unbiased, so images are needed for the interval only, not per feature."""
    return 100


KID = Metric(
    name="kid",
    symbol="KID",
    symbol_elsewhere="KD",
    description="kernel distance (cubic polynomial kernel)",
    enough_images=_enough,
    find_reference=find_features,
    evaluator=partial(_evaluator, metric="kid", kernel=lambda reference: polynomial_kernel),
)
MMD = Metric(
    name="mmd",
    symbol="MMD²",
    symbol_elsewhere="MMD²",
    description="squared maximum mean discrepancy (Gaussian kernel as wide as the median distance)",
    enough_images=_enough,
    find_reference=find_features,
    evaluator=partial(
        _evaluator,
        metric="mmd",
        kernel=lambda reference: gaussian_kernel(median_distance(reference)),
    ),
)
