"""The Fréchet distance between two sets of features, and confidence intervals of differences.

    d² = |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_a^½ Σ_b Σ_a^½)^½

The last trace is the sum of the square roots of the eigenvalues of one symmetric matrix, so no
matrix square root of a product is needed: this is faster than the usual `sqrtm` and cannot become
complex. The distance is that of Heusel et al. (2017). Everything here is numpy in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.stats

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.frechet_limit import FEWEST, SHIFTS, blocks, partners, root_traces

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

# Rows processed at once, because a float64 copy of all features would double the memory.
CHUNK = 4096
# An interval moves by at most this many standard errors, so that it always holds the rise.
LARGEST_SHIFT = 0.6
# The jackknife corrects the bias in full from this many images per feature on.
FULL_JACKKNIFE = 1.2


@dataclass(frozen=True)
class FeatureStatistics:
    """What the distance needs of a set of features: mean `(d,)` and covariance `(d, d)`.

    `n` is the number of images; None if a file does not say.
    """

    mean: Array
    covariance: Array
    n: int | None = None

    def __post_init__(self) -> None:
        d = self.mean.size
        if self.mean.shape != (d,) or self.covariance.shape != (d, d):
            raise InvalidValueError(
                f"a mean of shape {self.mean.shape} does not fit a covariance of shape "
                f"{self.covariance.shape}; they must be (d,) and (d, d)"
            )

    @property
    def dim(self) -> int:
        """Length of one feature vector."""
        return self.mean.size


class StreamingStatistics:
    """Mean and sample covariance (n - 1, as `numpy.cov`) of features that come in batches.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which stays
    accurate if the mean is large compared with the spread; the size of the batches only changes
    rounding.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(d)
        self.scatter: Array = np.zeros((d, d))  # sum of (x - mean)(x - mean)^T

    def update(self, features: Features) -> None:
        """Add a batch of features `(b, d)`."""
        d = self.mean.size
        if features.ndim != 2 or features.shape[1] != d:
            raise InvalidValueError(f"features must be (n, {d}); got shape {features.shape}")
        for chunk in _chunks(len(features)):
            self._merge(features[chunk].astype(np.float64))

    def _merge(self, batch: Array) -> None:
        if not np.isfinite(batch).all():
            raise InvalidValueError("features hold a NaN or an infinity")
        b, total = len(batch), self.n + len(batch)
        mean = batch.mean(axis=0)
        centred = batch - mean
        shift = mean - self.mean
        self.scatter += centred.T @ centred
        self.scatter += np.outer(shift * (self.n * b / total), shift)
        self.mean = self.mean + shift * (b / total)
        self.n = total

    def result(self) -> FeatureStatistics:
        """Statistics of all batches so far."""
        if self.n < 2:
            raise InvalidValueError(f"a covariance needs at least 2 images; got {self.n}")
        return FeatureStatistics(self.mean.copy(), self.scatter / (self.n - 1), self.n)


def statistics_of(features: Features) -> FeatureStatistics:
    """Mean and covariance of features, as FID defines them.

    Args:
        features: `(n, d)` features of n images, at least two.

    Returns:
        The mean `(d,)` and the covariance `(d, d)` with divisor n - 1, in float64.
    """
    streaming = StreamingStatistics(features.shape[-1])
    streaming.update(features)
    return streaming.result()


class FrechetReference:
    """The fixed side of the distance, prepared once for many candidates.

    Holds a factor `F` of the covariance, `F F^T = Σ_r`, of shape `(d, rank)`. Directions without
    variance are left out, so a reference of fewer images than features is exact and cheaper.
    `Σ_r^½ Σ Σ_r^½` and `F^T Σ F` have the same non-zero eigenvalues.
    """

    def __init__(self, statistics: FeatureStatistics) -> None:
        self.mean = statistics.mean
        self.trace = float(np.trace(statistics.covariance))
        # (d, rank), and the order of its rows in which it is lower triangular
        self.factor, self._order = _factor(statistics.covariance, statistics.n)

    @property
    def dim(self) -> int:
        """Length of one feature vector."""
        return self.mean.size

    def distance(self, statistics: FeatureStatistics) -> float:
        """The squared Fréchet distance to `statistics`: the FID if the features are Inception's.

        Because of rounding it can be slightly negative for equal inputs.
        """
        if statistics.dim != self.dim:
            raise InvalidValueError(
                f"statistics of {statistics.dim} features cannot be compared with a reference of "
                f"{self.dim}; were they made by another extractor?"
            )
        product = self._product(statistics.covariance)
        shift = statistics.mean - self.mean
        trace = self.trace + float(np.trace(statistics.covariance))
        return (
            float(shift @ shift)
            + trace
            - 2 * _sum_of_roots(product, _rank(len(product), statistics.n))
        )

    def _product(self, covariance: Array) -> Array:
        """`F^T Σ F`, `(rank, rank)`; only its lower triangle is valid."""
        d, rank = self.factor.shape
        if rank < d:
            return self.factor.T @ covariance @ self.factor
        # With rows and columns in the order of the pivots F is triangular, for which LAPACK has a
        # symmetric product at a quarter of the operations.
        lower = np.asfortranarray(self.factor[self._order])
        permuted = covariance[np.ix_(self._order, self._order)].T  # symmetric, in Fortran order
        product, _ = scipy.linalg.lapack.dsygst(permuted, lower, itype=2, lower=1, overwrite_a=1)
        return product


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared Fréchet distance between two Gaussians; symmetric in its arguments.

    Singular covariances need no special treatment. (If scipy's root of a singular product is not
    finite, pytorch-fid adds 1e-6 to both diagonals and returns the distance of other Gaussians.)

    Args:
        a: mean and covariance of one set of features.
        b: those of the other; the dimensions must agree.

    Returns:
        ``|mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2))``, in squared units
        of the features.
    """
    # Factor the side with fewer images, since only that one can have a rank below d.
    if a.n is not None and (b.n is None or a.n < b.n):
        a, b = b, a
    return FrechetReference(b).distance(a)


@dataclass(frozen=True)
class DeltaFid:
    """FIDs in the limit of many images, estimated from n on the same latents.

    Attributes:
        fid_dense: the dense generator's.
        fid: the candidate's.
        delta: the rise, `fid - fid_dense`.
        ci_low: lower end of the interval of `delta`, at the confidence that was asked for.
        ci_high: its upper end.
        n: images per side.
    """

    fid_dense: float
    fid: float
    delta: float
    ci_low: float
    ci_high: float
    n: int


class PairedFid:
    """Compares candidates with the dense generator on the same latents.

    Row i of a candidate's features must belong to the same latent as row i of `dense_features`
    `(n, d)`. The noise that both sides share cancels, so the interval of the difference is far
    narrower than that of either FID.

    The FID of n images is too large, by more for a generator with more spread. So the rise is that
    of two estimates in the limit of many images, each

        d²∞ = |μ - μ_r|² - tr Σ / n + tr Σ + tr Σ_r - 2 T,

    with T the estimate of `tr (F^T Σ F)^½` in `nas_gan.metrics.frechet_limit`. The first term is
    unbiased, and so is T if features are linear images of independent numbers. Let D be the
    difference of the two sides, D_a without latent a, and D_ab without two. The jackknife removes
    what is left of the bias, and gives the variance:

        rise = D + w B,    B = (n - 1) (D - mean D_a),
        s² = var(n D - (n - 1) D_a) / n - (1 - r/n) mean Q_ab² / 2 + (1 - w)² B²,
        Q_ab = n D - (n - 1) (D_a + D_b) + (n - 2) D_ab,

    with r the rank of the covariance. Pairs of latents matter to a candidate that adds noise of
    its own; the jackknife counts their share of the variance twice (Efron and Stein, 1981), and the
    second term takes it out once, but never more than half of the first. Close to n = r a single
    row is no small change any more, and B is a size rather than a correction: w falls from 1 at
    n = 1.2 r to 0 at n = r, and the part of B that is not used widens the interval.

    The interval is `rise + (k ± q) s` with a quantile q of Student's t and

        k = γ (2 q² + 1) / 6 n^½,    at most `LARGEST_SHIFT`,

    where γ is the skewness of the n D - (n - 1) D_a. A few latents decide about spread, so a draw
    without them shows too small a rise and too small an s; k moves the interval to where both of
    its ends err equally often (Hall, 1992). How often it covers the true rise was simulated
    (`benchmarks/coverage.py`). With fewer images than features, part of the spectrum was never
    seen, and the interval promises nothing; it is extended by that of the rise of these images.
    """

    def __init__(
        self, reference: FrechetReference, dense_features: Features, *, confidence: float = 0.95
    ) -> None:
        if not 0 < confidence < 1:
            raise InvalidValueError(
                f"must lie between 0 and 1; got {confidence}", setting="confidence"
            )
        self.reference = reference
        self.confidence = confidence
        self.n = len(dense_features)
        self._shape = dense_features.shape
        self._dense = _Sample(dense_features, reference)

    @property
    def fid_dense(self) -> float:
        """The dense generator's FID in the limit of many images."""
        return _limit(self._dense.limits)

    def compare(self, features: Features, *, careful: bool = True) -> DeltaFid:
        """The rise of a candidate with features `(n, d)`, and its confidence interval.

        With fewer than 1.2 images per feature a `careful` interval is far wider than one of noise
        alone, which is good enough to put candidates in order.
        """
        if features.shape != self._shape:
            raise InvalidValueError(
                f"features of shape {features.shape} cannot be paired with the dense generator's "
                f"{self._shape}; use the same latents and extractor"
            )
        difference = _Sample(features, self.reference).limits - self._dense.limits
        delta = _limit(difference)
        error = _standard_error(difference, careful)
        quantile = float(scipy.stats.t.ppf((1 + self.confidence) / 2, self.n - 1))
        shift = _shift(difference, quantile)
        low, high = delta + error * (shift - quantile), delta + error * (shift + quantile)
        if careful and difference.rank == self.n - 1:  # part of a spectrum was never seen
            low = min(low, difference.at_n - error * quantile)
            high = max(high, difference.at_n + error * quantile)
        return DeltaFid(self.fid_dense, self.fid_dense + delta, delta, low, high, self.n)


@dataclass(frozen=True)
class _Limits:
    """Distances in the limit of many images, from n images and without some of them."""

    at_n: float  # as these images have it, with its bias
    whole: float
    without_one: Array  # (n,)
    without_two: Array  # (2, n), without a row and its partner
    rank: int

    def __sub__(self, other: _Limits) -> _Limits:
        return _Limits(
            self.at_n - other.at_n,
            self.whole - other.whole,
            self.without_one - other.without_one,
            self.without_two - other.without_two,
            max(self.rank, other.rank),
        )


def _limit(limits: _Limits) -> float:
    """The distance in the limit, with what the jackknife takes from its bias."""
    return limits.whole + _share(limits) * _correction(limits)


def _correction(limits: _Limits) -> float:
    n = len(limits.without_one)
    return (n - 1) * (limits.whole - float(limits.without_one.mean()))


def _share(limits: _Limits) -> float:
    """How much of the correction is used, 0 to 1."""
    if not limits.rank:
        return 1.0
    excess = len(limits.without_one) / limits.rank - 1
    return min(max(excess / (FULL_JACKKNIFE - 1), 0.0), 1.0)


def _standard_error(limits: _Limits, careful: bool) -> float:
    n = len(limits.without_one)
    one = (n - 1) * (limits.whole - limits.without_one)  # (n,)
    jackknife = float(one.var(ddof=1)) / n
    # Q, arranged as differences of nearly equal numbers
    two = (n - 2) * (limits.whole - limits.without_two)  # (2, n)
    interactions = one + one[partners(n)] - two
    counted_twice = float((interactions**2).mean()) / 2
    variance = jackknife - max(1 - limits.rank / n, 0.0) * counted_twice
    unused = (1 - _share(limits)) * _correction(limits) if careful else 0.0
    return (max(variance, jackknife / 2) + unused**2) ** 0.5


def _shift(limits: _Limits, quantile: float) -> float:
    """By how many standard errors the interval moves for the skewness of its latents."""
    centred = limits.without_one.mean() - limits.without_one  # (n,)
    variance = float((centred**2).mean())
    if variance == 0:
        return 0.0
    skewness = float((centred**3).mean()) / variance**1.5
    shift = skewness * (2 * quantile**2 + 1) / (6 * len(centred) ** 0.5)
    largest = min(LARGEST_SHIFT, quantile / 2)
    return min(max(shift, -largest), largest)


class _Sample:
    """Features against a reference, with their product `y = F^T (x - μ)`."""

    def __init__(self, features: Features, reference: FrechetReference) -> None:
        n, d = features.shape
        if d != reference.dim:
            raise InvalidValueError(
                f"features of length {d} cannot be compared with a reference of {reference.dim}; "
                "were they made by another extractor?"
            )
        if n < FEWEST:
            raise InvalidValueError(
                f"an interval needs at least {FEWEST} images; got {n}; use more images"
            )
        mean: Array = features.mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise InvalidValueError("features hold a NaN or an infinity")
        self._features, self._mean = features, mean
        self._reference = reference

    @cached_property
    def limits(self) -> _Limits:
        """Estimates of the distance in the limit of many images."""
        n = len(self._features)
        shift = self._mean - self._reference.mean
        # y is a factor and is never squared, so float32 rounding costs 1e-7 at most; sums over rows
        # are computed in float64.
        projected = np.empty((n, self._reference.factor.shape[1]), np.float32)
        norms, along = np.empty(n), np.empty(n)  # |x - mean|² and (x - mean)^T shift
        products = np.empty((len(SHIFTS), n))  # with the partners
        for rows in blocks(n):
            centred = self._features[rows].astype(np.float64) - self._mean
            projected[rows] = centred @ self._reference.factor
            norms[rows] = np.einsum("ij,ij->i", centred, centred)
            along[rows] = centred @ shift
            for k, pair in enumerate(SHIFTS):
                products[k, rows] = np.einsum("ij,ij->i", centred, np.roll(centred, -pair, axis=0))
        projected -= projected.mean(axis=0, dtype=np.float64)
        roots = root_traces(projected)
        terms = _Terms(n, float(shift @ shift), float(norms.sum()), self._reference.trace)
        zero, partner = np.zeros(1), partners(n)
        pair_norms = norms + norms[partner]
        biased = terms.without(0, zero, zero, zero, roots.seen) + terms.scatter / (n - 1) / n
        return _Limits(
            biased.item(),
            terms.without(0, zero, zero, zero, roots.whole).item(),
            terms.without(1, along, norms, norms, roots.without_one),
            terms.without(
                2,
                along + along[partner],
                pair_norms + 2 * products,
                pair_norms,
                roots.without_two,
            ),
            roots.rank,
        )


@dataclass(frozen=True)
class _Terms:
    """The terms of the distance that are simple in the rows.

    Attributes:
        n: rows.
        shift: `|mean - reference's mean|²`.
        scatter: the sum of `|x - mean|²`.
        trace: of the reference's covariance.
    """

    n: int
    shift: float
    scatter: float
    trace: float

    def without(
        self, rows: int, along: Array, total: Array, norms: Array, roots: Array | float
    ) -> Array:
        """Distances in the limit without `rows` rows each.

        `along` is `(sum of x - mean)^T shift` over the rows left out, `total` is `|sum|²`, `norms`
        the sum of their squared norms, and `roots` the trace of the root without them.
        """
        left = self.n - rows
        shift = self.shift - 2 * along / left + total / left**2
        trace = (self.scatter - norms - total / left) / (left - 1)
        result: Array = shift - trace / left + trace + self.trace - 2 * np.asarray(roots)
        return result


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def _rank(d: int, n: int | None) -> int:
    """Largest rank a covariance of d features of n images can have."""
    return d if n is None else max(min(d, n - 1), 0)


def _factor(covariance: Array, n: int | None) -> tuple[Array, npt.NDArray[np.intp]]:
    """`F` of shape `(d, rank)` with `F F^T` the covariance, its columns from large to small.

    Also returns the order of rows in which it is lower triangular. Cholesky with pivoting takes a
    tenth of the time of an eigendecomposition, and stops if the rest of a singular matrix is
    rounding.
    """
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance.T, lower=1)  # symmetric
    # A covariance stored in float32 has more than rounding errors in its null directions.
    rank = min(int(rank), _rank(len(covariance), n))
    factor = np.empty((len(covariance), rank))
    order = pivots.astype(np.intp) - 1
    factor[order] = np.tril(lower)[:, :rank]
    return factor, order


def _sum_of_roots(matrix: Array, rank: int) -> float:
    """Trace of the square root of a symmetric positive semi-definite matrix of at most that rank.

    A zero eigenvalue is computed as 1e-16 of the largest and its root as 1e-8, so a thousand of
    them would matter. They are left out by their number, which is known; a threshold would also
    remove small non-zero ones.
    """
    if not rank:
        return 0.0
    # LAPACK reduces the lower triangle from the top left. With the largest rows there, as `_factor`
    # orders them, small eigenvalues stay accurate: on features of Fashion-MNIST the distance is
    # accurate to 1e-14, and to 1e-7 in the reverse order.
    values = scipy.linalg.eigvalsh(matrix, lower=True, check_finite=False)
    return float(np.sqrt(values[-rank:].clip(min=0)).sum())
