"""One pass over a source of images that collects what the metrics need.

Statistics for a Fréchet distance and sums for a class score take constant memory. KID, precision
and recall need the features themselves, and pixel metrics need pixels: a random subset of those,
chosen before the pass, is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.class_score import SPLITS, ClassScore, StreamingClassScore
from nas_gan.metrics.features import ClassExtractor
from nas_gan.metrics.frechet import FeatureStatistics, StreamingStatistics
from nas_gan.metrics.looking import looked_at
from nas_gan.metrics.sources import ImageBatch, ImageSource
from nas_gan.workers.executors import Executor

# Separates the random stream of what is kept from others with the same seed.
_KEEP_STREAM = 5


@dataclass(frozen=True)
class Wanted:
    """What to collect; `features` and `images` are the largest numbers of rows to keep."""

    statistics: bool = False
    class_score: bool = False
    features: int = 0
    images: int = 0

    @property
    def needs_features(self) -> bool:
        """Whether the images must go through the network."""
        return self.statistics or self.class_score or self.features > 0


@dataclass(frozen=True)
class Collected:
    """What was collected from the `n` readable images.

    `features` is `(k, d)` float32 and `images` is uint8 `(k, 3, h, w)`, with `labels` `(k,)` if the
    source has them: a random subset of rows, in the order of the source.
    """

    n: int
    statistics: FeatureStatistics | None = None
    class_score: ClassScore | None = None
    features: npt.NDArray[np.float32] | None = None
    images: Tensor | None = None
    labels: Tensor | None = None


def choose_rows(n: int, keep: int, seed: int) -> npt.NDArray[np.intp]:
    """`keep` random rows of 0 to n - 1 in ascending order, or all of them if there are fewer."""
    if keep >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, _KEEP_STREAM]).permutation(n)[:keep])


def collect(
    source: ImageSource,
    wanted: Wanted,
    extractor: Callable[[], ClassExtractor],
    *,
    seed: int = 0,
    batch_size: int = 64,
    advance: Callable[[int], None] | None = None,
    executor: Executor | None = None,
) -> Collected:
    """Go through the images of a source once; the extractor is only made if features are needed.

    Args:
        source: the images.
        wanted: what to collect.
        extractor: returns the network for the features.
        seed: seed of the random subsets.
        batch_size: images per batch.
        advance: called with the number of images in each batch.
        executor: draws what a generator draws, and takes its features, in whole batches; in this
            process if None. What is collected does not depend on it.
    """
    n = len(source)
    network = extractor() if wanted.needs_features else None
    statistics = StreamingStatistics(network.dim) if network and wanted.statistics else None
    score = None
    if network and wanted.class_score:
        # A part of one image scores 1, whatever it shows.
        score = StreamingClassScore(n, network.name, SPLITS if n >= SPLITS else 1, seed)
    keeps_features, keeps_images = (
        np.isin(np.arange(n), choose_rows(n, keep, seed))
        for keep in (wanted.features, wanted.images)
    )
    # Filled batch by batch: a list and its concatenation would need twice the memory.
    kept = np.empty((int(keeps_features.sum()), network.dim), np.float32) if network else None
    done = n_kept = 0
    pixels: list[ImageBatch] = []
    for batch, features in looked_at(source, network, batch_size, executor):
        if network is not None and features is not None:
            if statistics is not None:
                statistics.update(features)
            if score is not None:
                score.update(batch.rows, network.logits(features))
            if kept is not None:
                rows = features[keeps_features[batch.rows]]
                kept[n_kept : n_kept + len(rows)] = rows
                n_kept += len(rows)
        if wanted.images:
            pixels.append(_rows_of(batch, keeps_images[batch.rows]))
        done += len(batch.rows)
        if advance is not None:
            advance(len(batch.rows))
    images, labels = _joined(pixels, source.name)
    return Collected(
        done,
        statistics.result() if statistics else None,
        score.result() if score else None,
        kept[:n_kept] if kept is not None and wanted.features else None,
        images,
        labels,
    )


def _rows_of(batch: ImageBatch, chosen: npt.NDArray[np.bool_]) -> ImageBatch:
    mask = torch.from_numpy(chosen)
    labels = None if batch.labels is None else batch.labels[mask]
    return ImageBatch(batch.rows[chosen], batch.images[mask], labels)


def _joined(batches: list[ImageBatch], name: str) -> tuple[Tensor | None, Tensor | None]:
    batches = [batch for batch in batches if len(batch.rows)]
    if not batches:
        return None, None
    sizes = {tuple(batch.images.shape[1:]) for batch in batches}
    if len(sizes) > 1:
        raise InvalidValueError(
            f"{name}: images of {len(sizes)} sizes; metrics on pixels need one size"
        )
    images = torch.cat([batch.images for batch in batches])
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return images, torch.cat(labels) if labels else None
