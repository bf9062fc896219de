"""Kernel distances of two generators on the same latents, with an interval of the difference.

    MMD²(X, R) = mean_{i≠j} k(x_i, x_j) + mean_{r≠s} k(r, s) - 2 mean_{i,r} k(x_i, r)

This is the unbiased estimator of Gretton et al., "A kernel two-sample test" (JMLR 2012): its mean
does not depend on the number of images, unlike that of a Fréchet distance, and it can be slightly
negative. With the cubic polynomial kernel it is the KID of Bińkowski et al. (ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from nas_gan.errors import InvalidValueError

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]
# Rows `(a, d)` and `(b, d)` to kernel values `(a, b)`.
Kernel = Callable[[Array, Array], Array]

# Rows of a kernel matrix that are computed at once.
CHUNK = 1024
# Reference rows used for the median heuristic; with more, the median of half a million distances
# changes by less than 0.1 %.
N_MEDIAN = 1000


def polynomial_kernel(a: Array, b: Array) -> Array:
    """`(a·b / d + 1)³`, the kernel of KID."""
    values: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return values


def gaussian_kernel(width: float) -> Kernel:
    """`exp(-|a - b|² / (2 width²))`."""

    def kernel(a: Array, b: Array) -> Array:
        values: Array = np.exp(-_squared_distances(a, b) / (2 * width**2))
        return values

    return kernel


def median_distance(features: Features) -> float:
    """The median distance between two rows of `(n, d)`, a usual width of a Gaussian kernel.

    Raises:
        InvalidValueError: all rows are equal, or there are fewer than two.
    """
    rows = features[:N_MEDIAN].astype(np.float64)
    squares = _squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    median = float(np.sqrt(np.median(squares))) if squares.size else 0.0
    if median == 0:
        raise InvalidValueError("the features of the reference are all equal; no kernel fits them")
    return median


@dataclass(frozen=True)
class PairedDifference:
    """Two generators scored on the same `n` latents, and the interval of the difference."""

    dense: float
    value: float
    delta: float
    ci_low: float
    ci_high: float
    n: int


class PairedKernelDistance:
    """Compares candidates with the dense generator on the same latents.

    Row i of a candidate's features must belong to the same latent as row i of `dense_features`
    `(n, d)`; `reference` is `(m, d)`. The interval of the difference is that of the jackknife over
    paired rows, with the reference held fixed: the estimator is a U-statistic, whose value without
    row i follows from the sums of row i alone, so that all n of them come for free.

    Raises:
        InvalidValueError: a side has too few rows, or they differ in length.
    """

    def __init__(
        self,
        reference: Features,
        dense_features: Features,
        kernel: Kernel,
        *,
        confidence: float = 0.95,
    ) -> None:
        if not 0 < confidence < 1:
            raise InvalidValueError(
                f"must lie between 0 and 1; got {confidence}", setting="confidence"
            )
        if len(dense_features) < 3 or len(reference) < 2:
            raise InvalidValueError(
                "a kernel distance with an interval needs at least 3 images of a generator and 2 "
                f"of a reference; got {len(dense_features)} and {len(reference)}"
            )
        if dense_features.shape[1] != reference.shape[1]:
            raise InvalidValueError(
                f"features of length {dense_features.shape[1]} cannot be compared with a "
                f"reference of {reference.shape[1]}; were they made by another extractor?"
            )
        self.kernel, self.confidence = kernel, confidence
        self.reference = reference.astype(np.float64)
        m = len(reference)
        self._within_reference = float(_row_sums(kernel, self.reference).sum()) / (m * (m - 1))
        self._shape = dense_features.shape
        self._dense = self._pseudo_values(dense_features)  # (n,)
        self.n = len(dense_features)

    @property
    def dense_value(self) -> float:
        """The dense generator's distance to the reference."""
        return float(self._dense.mean())

    def compare(self, features: Features) -> PairedDifference:
        """A candidate with features `(n, d)` against the dense generator."""
        if features.shape != self._shape:
            raise InvalidValueError(
                f"features of shape {features.shape} cannot be paired with the dense generator's "
                f"{self._shape}; use the same latents and extractor"
            )
        values = self._pseudo_values(features)
        differences = values - self._dense
        delta = float(differences.mean())
        error = float(differences.std(ddof=1)) / self.n**0.5
        half = error * float(scipy.stats.t.ppf((1 + self.confidence) / 2, self.n - 1))
        return PairedDifference(
            self.dense_value, float(values.mean()), delta, delta - half, delta + half, self.n
        )

    def _pseudo_values(self, features: Features) -> Array:
        """`n U - (n - 1) U_i` for each row i, `(n,)`; `U_i` leaves it out. Their mean is U."""
        rows = features.astype(np.float64)
        if not np.isfinite(rows).all():
            raise InvalidValueError("features hold a NaN or an infinity")
        n = len(rows)
        own = _row_sums(self.kernel, rows)  # sum over the other rows
        across = np.concatenate(
            [self.kernel(rows[c], self.reference).mean(axis=1) for c in _chunks(n)]
        )
        all_own, all_across = own.sum(), across.sum()
        whole = all_own / (n * (n - 1)) + self._within_reference - 2 * all_across / n
        without = (
            (all_own - 2 * own) / ((n - 1) * (n - 2))
            + self._within_reference
            - 2 * (all_across - across) / (n - 1)
        )
        values: Array = n * whole - (n - 1) * without
        return values


def _row_sums(kernel: Kernel, rows: Array) -> Array:
    """`sum_{j≠i} k(x_i, x_j)` for each row i, `(n,)`."""
    sums = []
    for chunk in _chunks(len(rows)):
        values = kernel(rows[chunk], rows)
        index = np.arange(len(values))
        sums.append(values.sum(axis=1) - values[index, index + chunk.start])
    return np.concatenate(sums)


def _squared_distances(a: Array, b: Array) -> Array:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0.0)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))
