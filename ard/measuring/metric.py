"""What defines a metric: its name, its reference, and its evaluator on a bank of latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Evaluator
from nas_gan.data.images import Images
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.progress import Progress, no_progress


class MetricEvaluator(Evaluator, Protocol):
    """An evaluator that knows the dense generator's own score on its bank of latents."""

    @property
    def dense_value(self) -> float:
        """The dense generator's score."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceRequest:
    """Everything that a metric may use to find its reference.

    Attributes:
        wanted: `auto`, `dense`, or the path of a file or folder.
        extractor: the network whose features will be compared.
        dataset: the data set that the checkpoint names, or None.
        data_sha256: the digest of its images that the checkpoint names, or None.
        resolution: height and width of the generator's images in pixels.
        data: loads that data set; None if there is none.
        dense: draws images of the dense generator, on latents that no candidate is scored on.
        cache: the folder that caches statistics of data sets, if there is one.
        run_dir: the folder that caches statistics of the dense generator's images, or None.
        progress: shows a bar while images are drawn and looked at.
    """

    wanted: str
    extractor: FeatureExtractor
    dataset: str | None
    data_sha256: str | None
    resolution: int
    data: Callable[[], Images] | None
    dense: Callable[[], Images]
    cache: Path | None
    run_dir: Path | None = None
    progress: Progress = no_progress


@dataclass(frozen=True)
class Metric:
    """One way to score a generator; a budget bounds its rise over the dense generator.

    Lower is better. A metric that grows with quality must be negated by its evaluator.

    Attributes:
        name: its name on command lines, in journals and in the columns of tables.
        symbol: its name in tables if values are comparable with published ones.
        symbol_elsewhere: its name with other features or another reference.
        description: the metric in words, such as "Fréchet distance".
        enough_images: the number of images, given the extractor, below which users are told what
            an interval is worth.
        find_reference: finds what the dense generator and every candidate are compared with.
        evaluator: makes the evaluator on a bank of latents. The second argument is whether its
            score will be reported, for which an interval may be slower.
        default_images: the images, given the extractor, that score a whole plan by default.
        worth: what an interval from a number of images is worth, if those are fewer than enough.
        estimator: names what is estimated; journals of another estimator are not continued.
        limit: what values and rises refer to, in words, if not to the images that were scored.
    """

    name: str
    symbol: str
    symbol_elsewhere: str
    description: str
    enough_images: Callable[[FeatureExtractor], int]
    find_reference: Callable[[ReferenceRequest], Reference]
    evaluator: Callable[[DenseBank, bool], MetricEvaluator]
    default_images: Callable[[FeatureExtractor], int] = lambda extractor: 5000
    worth: Callable[[FeatureExtractor, int], str] = lambda extractor, n: "is too narrow"
    estimator: str = "plain"
    limit: str = ""

    def label(self, comparable: bool) -> str:
        """The symbol to print; `comparable` means that values compare with published ones."""
        return self.symbol if comparable else self.symbol_elsewhere
