"""The score of Salimans et al. (2016): are single images clear, and are all of them varied?

    exp of the mean over x of KL(p(y|x) || p(y)) = exp(mean of sum p log p  -  sum q log q)

with q the mean of p(y|x). It is an Inception score only if Inception chooses the classes; with
another network it is on another scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas_gan.errors import InvalidValueError

# As in the original code.
SPLITS = 10
# Separates the random stream of the order of images from others with the same seed.
_ORDER_STREAM = 2


@dataclass(frozen=True)
class ClassScore:
    """Mean and deviation over `splits` parts of `n` images.

    `classes` names the classifier, which has `n_classes`.
    """

    mean: float
    std: float
    splits: int
    n: int
    classes: str
    n_classes: int


class StreamingClassScore:
    """The score of `n` images that come in batches, in constant memory.

    The part of an image only depends on (seed, n) and its row, and is random: a folder may be
    sorted by class.
    """

    def __init__(self, n: int, classes: str, splits: int = SPLITS, seed: int = 0) -> None:
        if not 1 <= splits <= n:
            raise InvalidValueError(
                f"{n} images cannot be split into {splits} parts; use at least {splits}"
            )
        order = np.random.default_rng([seed, _ORDER_STREAM]).permutation(n)
        self.part_of_row = np.empty(n, np.intp)  # (n,)
        self.part_of_row[order] = np.arange(n) * splits // n
        self.classes = classes
        self._counts = np.zeros(splits)
        self._negative_entropy = np.zeros(splits)  # sum over images of sum p log p
        self._sum: npt.NDArray[np.float64] | None = None  # (splits, classes), sum of p

    def update(self, rows: npt.NDArray[np.intp], logits: npt.NDArray[np.floating[Any]]) -> None:
        """Add images of these rows, with class scores before the softmax `(b, classes)`."""
        log_p = logits.astype(np.float64)
        log_p -= log_p.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        if self._sum is None:
            self._sum = np.zeros((len(self._counts), logits.shape[1]))
        parts = self.part_of_row[rows]
        np.add.at(self._counts, parts, 1)
        np.add.at(self._negative_entropy, parts, (p * log_p).sum(axis=1))
        np.add.at(self._sum, parts, p)

    def result(self) -> ClassScore:
        """The score of the images seen so far.

        Raises:
            InvalidValueError: a part has no image.
        """
        if self._sum is None or not self._counts.all():
            raise InvalidValueError(
                f"{int(self._counts.sum())} readable images leave one of {len(self._counts)} parts "
                "empty; use more"
            )
        q = self._sum / self._counts[:, None]
        # A class without any probability has q = 0 and adds nothing.
        entropy_of_mean = (q * np.log(np.maximum(q, np.finfo(np.float64).tiny))).sum(axis=1)
        scores = np.exp(self._negative_entropy / self._counts - entropy_of_mean)
        return ClassScore(
            float(scores.mean()),
            float(scores.std()),
            len(scores),
            int(self._counts.sum()),
            self.classes,
            self._sum.shape[1],
        )
