"""What a metric is: a name, what it compares with, and how it scores a generator on a bank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Evaluator
from nas_gan.data.images import Images
from nas_gan.metrics.features import FeatureExtractor


class MetricEvaluator(Evaluator, Protocol):
    """An evaluator that knows the dense generator's own score on its bank of latents."""

    @property
    def dense_value(self) -> float:
        """What the metric says of the dense generator."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceRequest:
    """What there is to find a reference with.

    Attributes:
        wanted: `auto`, `dense`, or the path of a file.
        extractor: whose features will be compared.
        dataset: the data set that the checkpoint names, if it names one.
        resolution: side of the generator's images in pixels.
        data: loads that data set.
        dense: draws images of the dense generator, on latents that no candidate is scored on.
        cache: folder in which statistics of data sets are kept.
    """

    wanted: str
    extractor: FeatureExtractor
    dataset: str | None
    resolution: int
    data: Callable[[], Images] | None
    dense: Callable[[], Images]
    cache: Path


@dataclass(frozen=True)
class Metric:
    """One way to score a generator; a budget bounds its rise over the dense generator.

    Less is better. A metric that grows with quality is negated by its evaluator.

    Attributes:
        name: as in `--metric`, in journals and in the columns of tables.
        symbol: what tables call it where it compares with published values.
        symbol_elsewhere: what they call it in another feature space or against another reference.
        description: the distance in words, as in "Fréchet distance".
        enough_images: fewer than this many make its interval doubtful.
        find_reference: finds what the dense generator and every candidate are compared with.
        evaluator: scores candidates on a bank of latents. Its second argument asks for a resampled
            interval, which is slower and used for the score that is reported.
    """

    name: str
    symbol: str
    symbol_elsewhere: str
    description: str
    enough_images: Callable[[FeatureExtractor], int]
    find_reference: Callable[[ReferenceRequest], Reference]
    evaluator: Callable[[DenseBank, bool], MetricEvaluator]

    def label(self, comparable: bool) -> str:
        """The symbol to print; `comparable` says that values compare with published ones."""
        return self.symbol if comparable else self.symbol_elsewhere
