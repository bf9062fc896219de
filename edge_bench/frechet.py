"""The rise of the Fréchet distance of one generator over another, on the same latents.

    d² = |μ - μ_r|² + tr Σ + tr Σ_r - 2 tr (F^T Σ F)^½,    F F^T = Σ_r

is the FID if the features are Inception's (Heusel et al. 2017). That of n images is too large, by
more for the generator with more spread, so each distance here is an estimate in the limit of many
images. With λ the eigenvalues of `F^T Σ F` as n images have it, and ν = n - 1,

    tr (F^T Σ F)^½  ≈  4 ν / π  ∫ 1 - (1 - g(t) / ν)^½ dt,    g(t) = sum_i λ_i / (λ_i + t²),

which solves the equation of Marčenko and Pastur (1967) for the spectrum of many images. A jackknife
over latents removes what is left of the bias and gives the interval of the difference. The same
estimate, with the reasons for each step, is in `nas_gan.metrics` of the toolkit, whose reports this
one agrees with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.ratios import student_quantile

Array = NDArray[np.float64]

# Fewest rows from which two can be left out and leave a covariance.
FEWEST = 4
CONFIDENCE = 0.95
# Nodes of the trapezoidal rule in log t, and how far they reach in units of the largest root.
_STEP, _SMALLEST, _LARGEST = 0.5, 1e-6, 1e3
# Every row is left out together with these many rows after it, one at a time.
_SHIFTS = (1, 2)
_BLOCK = 4096
# The interval moves by at most so many standard errors, and the jackknife corrects the bias in full
# from so many images per feature on.
_LARGEST_SHIFT, _FULL_JACKKNIFE = 0.6, 1.2
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Reference:
    """The statistics that images are compared with.

    Attributes:
        mean: of the features, `(d,)`.
        factor: a factor of their covariance, `(d, rank)`: `factor @ factor.T`.
    """

    mean: Array
    factor: Array

    @property
    def trace(self) -> float:
        """The total variance of the features."""
        return float((self.factor**2).sum())


@dataclass(frozen=True)
class Rise:
    """The rise of a distance over another, in the limit of many images, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Distances:
    """A distance in the limit of many images, from n images and without some of them.

    Attributes:
        at_n: as these images have it, with its bias.
        whole: the estimate in the limit.
        without_one: without each image, `(n,)`.
        without_two: without each image and its partner, `(2, n)`.
        rank: of the covariance.
    """

    at_n: float
    whole: float
    without_one: Array
    without_two: Array
    rank: int

    def __sub__(self, other: Distances) -> Distances:
        return Distances(
            self.at_n - other.at_n,
            self.whole - other.whole,
            self.without_one - other.without_one,
            self.without_two - other.without_two,
            max(self.rank, other.rank),
        )

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.without_one)

    @property
    def value(self) -> float:
        """The distance, with what the jackknife takes from its bias."""
        return self.whole + self._share * self._correction

    @property
    def _correction(self) -> float:
        return (self.n - 1) * (self.whole - float(self.without_one.mean()))

    @property
    def _share(self) -> float:
        """How much of the correction is used, 0 to 1."""
        if not self.rank:
            return 1.0
        return min(max((self.n / self.rank - 1) / (_FULL_JACKKNIFE - 1), 0.0), 1.0)

    def rise_over(self, dense: Distances) -> Rise:
        """The rise over the distance of another generator on the same latents."""
        return (self - dense)._interval()

    def _interval(self) -> Rise:
        value, error = self.value, self._standard_error()
        quantile = student_quantile((1 + CONFIDENCE) / 2, self.n - 1)
        shift = self._shift(quantile)
        low, high = value + error * (shift - quantile), value + error * (shift + quantile)
        if self.rank == self.n - 1:  # part of a spectrum was never seen
            low = min(low, self.at_n - error * quantile)
            high = max(high, self.at_n + error * quantile)
        return Rise(value, low, high)

    def _standard_error(self) -> float:
        n = self.n
        one = (n - 1) * (self.whole - self.without_one)
        jackknife = float(one.var(ddof=1)) / n
        interactions = one + one[_partners(n)] - (n - 2) * (self.whole - self.without_two)
        counted_twice = float((interactions**2).mean()) / 2
        variance = jackknife - max(1 - self.rank / n, 0.0) * counted_twice
        unused = (1 - self._share) * self._correction
        return float((max(variance, jackknife / 2) + unused**2) ** 0.5)

    def _shift(self, quantile: float) -> float:
        """By how many standard errors the interval moves for skewness (Hall 1992)."""
        centred = self.without_one.mean() - self.without_one
        variance = float((centred**2).mean())
        if variance == 0:
            return 0.0
        skewness = float((centred**3).mean()) / variance**1.5
        shift = skewness * (2 * quantile**2 + 1) / (6 * self.n**0.5)
        largest = min(_LARGEST_SHIFT, quantile / 2)
        return min(max(shift, -largest), largest)


def distances(features: NDArray[np.floating[Any]], reference: Reference) -> Distances:
    """The distance of images to a reference, in the limit of many.

    Args:
        features: `(n, d)`, row i of the image of latent i.
        reference: Statistics of features of the same length d.

    Returns:
        What `Distances.rise_over` needs.

    Raises:
        InvalidValueError: There are fewer than 4 rows, a number is not finite, or d is another.
    """
    n, d = features.shape
    if d != len(reference.mean) or reference.factor.shape[:1] != (d,):
        raise InvalidValueError(
            f"features of length {d} cannot be compared with a reference of {len(reference.mean)}"
        )
    if n < FEWEST:
        raise InvalidValueError(f"an interval needs at least {FEWEST} images; got {n}")
    mean: Array = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise InvalidValueError("the features hold a NaN or an infinity")
    shift = mean - reference.mean
    projected = np.empty((n, reference.factor.shape[1]), np.float32)
    norms, along = np.empty(n), np.empty(n)  # |x - mean|² and (x - mean)^T shift
    products = np.empty((len(_SHIFTS), n))  # with the partners
    for rows in _blocks(n):
        centred = features[rows].astype(np.float64) - mean
        projected[rows] = centred @ reference.factor
        norms[rows] = np.einsum("ij,ij->i", centred, centred)
        along[rows] = centred @ shift
        for k, pair in enumerate(_SHIFTS):
            products[k, rows] = np.einsum("ij,ij->i", centred, np.roll(centred, -pair, axis=0))
    projected -= projected.mean(axis=0, dtype=np.float64)
    seen, roots, without_one, without_two, rank = _root_traces(projected)
    scatter = float(norms.sum())

    def without(rows: int, along: Any, total: Any, norms: Any, roots: Any) -> Any:
        left = n - rows
        moved = float(shift @ shift) - 2 * along / left + total / left**2
        trace = (scatter - norms - total / left) / (left - 1)
        return moved - trace / left + trace + reference.trace - 2 * roots

    partner = _partners(n)
    pairs = norms + norms[partner]
    return Distances(
        float(without(0, 0.0, 0.0, 0.0, seen)) + scatter / (n - 1) / n,
        float(without(0, 0.0, 0.0, 0.0, roots)),
        without(1, along, norms, norms, without_one),
        without(2, along + along[partner], pairs + 2 * products, pairs, without_two),
        rank,
    )


def _root_traces(rows: NDArray[np.float32]) -> tuple[float, float, Array, Array, int]:
    """The trace of the root of the covariance of rows `(n, r)` with mean zero.

    Returns the sum of the roots that these rows show; the estimate in the limit, from all rows,
    without each, and without each and its partner; and the rank.
    """
    n = len(rows)
    gram = np.zeros((rows.shape[1],) * 2)
    for block in _blocks(n):
        part = rows[block].astype(np.float64)
        gram += part.T @ part
    values, vectors = np.linalg.eigh(gram)
    kept = values > 4 * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    kept[: max(len(values) - (n - 1), 0)] = False  # since the rows have mean zero
    values, whiten = values[kept], vectors[:, kept] / np.sqrt(values[kept])
    rank = len(values)
    if not rank:
        return 0.0, 0.0, np.zeros(n), np.zeros((len(_SHIFTS), n)), 0
    scale = float(values.max() / (n - 1)) ** 0.5
    nodes = scale * np.exp(np.arange(np.log(_SMALLEST), np.log(_LARGEST), _STEP))  # (k,)
    weights = _STEP * nodes
    # Both tails are geometric series: the integrand tends to a constant and to 1 / t².
    weights[[0, -1]] *= 1 + 1 / np.expm1(_STEP)
    whole, one, two = (_Integral(n - 1 - left, values, nodes, weights) for left in (0, 1, 2))
    # With a full rank of n - 1 the leverages are known, and subtracting them would cancel.
    spare = rank < n - 1
    without_one, without_two = np.empty(n), np.empty((len(_SHIFTS), n))
    for block in _blocks(n):
        white = rows[block].astype(np.float64) @ whiten
        squares = white**2
        free = 1 - 1 / n - squares.sum(axis=1)[:, None] if spare else 0.0
        change = (squares @ one.moved) / np.maximum(free + squares @ one.shares, _TINY)
        without_one[block] = one.trace(change)
        own, moved = free + squares @ two.shares, squares @ two.moved
        for k, shift in enumerate(_SHIFTS):
            after = white * np.roll(white, -shift, axis=0)
            free_pair = -1 / n - after.sum(axis=1)[:, None] if spare else 0.0
            shared = free_pair + after @ two.shares
            own_after, moved_after = (np.roll(x, -shift, axis=0) for x in (own, moved))
            # The trace of the inverse of a 2 x 2 matrix times another, for every pair and node.
            above = own_after * moved + own * moved_after - 2 * shared * (after @ two.moved)
            below = np.maximum(own * own_after - shared**2, _TINY)
            without_two[k, block] = two.trace(above / below)
    seen = float(np.sqrt(values / (n - 1)).sum())
    return seen, float(whole.trace(np.zeros((1, len(nodes))))[0]), without_one, without_two, rank


class _Integral:
    """The integral over `t` for a spectrum with so many degrees of freedom."""

    def __init__(self, degrees: int, values: Array, nodes: Array, weights: Array) -> None:
        ridge = degrees * nodes**2
        self.degrees, self.weights = degrees, weights
        self.shares = ridge / (values[:, None] + ridge)  # (r, k), t² / (λ + t²)
        self.moved = self.shares * (1 - self.shares)  # what a unit of leverage takes from g

    def trace(self, change: Array) -> Array:
        """The integral for `g - change`, `(b, k)` to `(b,)`."""
        g = np.clip((1 - self.shares).sum(axis=0) - change, 0, self.degrees)
        share = g / self.degrees
        # 1 - (1 - share)^½ without cancellation
        lost = share / (1 + np.sqrt(1 - share))
        result: Array = 4 * self.degrees / np.pi * (lost @ self.weights)
        return result


def _blocks(n: int) -> Iterator[slice]:
    bounds = np.linspace(0, n, -(-n // _BLOCK) + 1).astype(int)
    return (slice(start, end) for start, end in pairwise(bounds))


def _partners(n: int) -> NDArray[np.intp]:
    """The row that is left out together with each row, `(2, n)`."""
    rows = np.arange(n)
    return np.stack(
        [np.concatenate([np.roll(rows[block], -k) for block in _blocks(n)]) for k in _SHIFTS]
    )
