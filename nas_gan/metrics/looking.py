"""Images with their features, a batch at a time, drawn here or by workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas_gan.metrics.features import ClassExtractor
from nas_gan.metrics.sources import GeneratedSource, ImageBatch, ImageSource
from nas_gan.workers.executors import Executor

Looked = tuple[ImageBatch, npt.NDArray[np.float32] | None]
# Batches that a worker takes at a time.
BATCHES = 4


@dataclass(frozen=True)
class Look:
    """A function from a range of rows to their batches, each with its features `(b, dim)`.

    Attributes:
        source: what draws the images.
        network: takes the features; None if there are none to take.
        batch_size: images per batch.
    """

    source: GeneratedSource
    network: ClassExtractor | None
    batch_size: int

    def __call__(self, rows: range) -> list[Looked]:
        return [
            (batch, None if self.network is None else self.network(batch.images))
            for batch in self.source.batches_of(rows.start, rows.stop, self.batch_size)
        ]


def looked_at(
    source: ImageSource,
    network: ClassExtractor | None,
    batch_size: int,
    executor: Executor | None,
) -> Iterator[Looked]:
    """Every batch of a source in order, with its features.

    Args:
        source: the images. Those of files and data sets are read here, where the files are.
        network: takes the features; None if there are none to take.
        batch_size: images per batch.
        executor: draws the images of a generator; this process does if None.
    """
    if executor is None or not isinstance(source, GeneratedSource):
        for batch in source.batches(batch_size):
            yield batch, None if network is None else network(batch.images)
        return
    n, step = len(source), BATCHES * batch_size
    parts = [range(start, min(start + step, n)) for start in range(0, n, step)]
    ready: dict[int, list[Looked]] = {}
    position = 0
    # Sums are added up in the order of the source, whoever is finished first.
    for rows, looked in executor.run(Look(source, network, batch_size), parts):
        ready[rows.start] = looked
        while position in ready:
            yield from ready.pop(position)
            position += step
