"""Kernel distances as metrics, on the features of FID: KID, and an MMD with a Gaussian kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Candidate
from ard.measuring.metric import Metric, ReferenceRequest
from ard.measuring.score import Score
from nas_gan.data.batches import iterate_uint8
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.paired_kernel import (
    Kernel,
    PairedKernelDistance,
    gaussian_kernel,
    median_distance,
    polynomial_kernel,
)
from nas_gan.npz import open_npz
from nas_gan.remote.fetching import local_copy

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
    generator. A file must be an `.npz` with an array `features`.

    Raises:
        MissingDataError: the file does not exist.
        InvalidValueError: the file has no such array, or the array is from another extractor.
    """
    if request.wanted not in ("auto", "dense"):
        path = local_copy(Path(request.wanted))
        return Reference(request.wanted, _read_features(path, request.extractor), dense=False)
    real = None
    if request.wanted == "auto" and request.data is not None:
        with suppress(MissingDataError):
            real = request.data()
    images = request.dense() if real is None else real
    n = min(len(images), N_REFERENCE)
    with request.progress("reference", n) as advance:
        features = _features(images, n, request.extractor, advance)
    return Reference(f"{n} images of {images.name}", features, dense=real is None)


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


def _read_features(path: Path, extractor: FeatureExtractor) -> Features:
    with open_npz(path, "reference features") as file:
        if "features" not in file.files:
            raise InvalidValueError(
                f"{path}: a kernel distance needs an .npz with an array 'features', one row per "
                f"image; found {', '.join(sorted(file.files)) or 'nothing'}"
            )
        features = np.asarray(file["features"], dtype=np.float32)
    if features.ndim != 2 or features.shape[1] != extractor.dim or len(features) < 2:
        raise InvalidValueError(
            f"{path}: features of shape {features.shape}; {extractor.name} has {extractor.dim} "
            "per image, and two images or more are needed"
        )
    if not np.isfinite(features).all():
        raise InvalidValueError(f"{path}: the features hold a NaN or an infinity")
    return features


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
