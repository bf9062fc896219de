"""The Fréchet distance between two sets of features, and confidence intervals of differences.

    d² = |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_a^½ Σ_b Σ_a^½)^½

The last trace is the sum of the square roots of the eigenvalues of one symmetric matrix, so no
matrix square root of a product is needed: this is faster than the usual `sqrtm` and cannot become
complex. The distance is that of Heusel et al. (2017). Everything here is numpy in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.stats

from nas_gan.errors import InvalidValueError

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

# Rows processed at once, because a float64 copy of all features would double the memory.
CHUNK = 4096


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
    """The difference between the FIDs of a candidate and the dense generator on the same latents.

    `ci_low` and `ci_high` bound `delta = fid - fid_dense` at the confidence that was asked for;
    `n` is the number of images per side.
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

    The interval is `delta ± q s`, with s the standard error of the difference by one of two ways:

    * influence functions (the default, cheap): to first order a sample x moves the distance by

          2 (μ - μ_r)^T (x - μ) + (x - μ)^T G (x - μ) - tr(G Σ),
          G = I - F (F^T Σ F)^(-½) F^T,

      and s is the deviation of the paired difference of these numbers over sqrt(n). Directions in
      which `F^T Σ F` is zero are left out of its inverse root, since no sample has a component
      there.
    * a paired bootstrap: both sides on the same resampled rows, `resamples` times; s is the
      deviation of the replicates `delta*_b` about their own mean. Neither the deviation about
      `delta` nor percentiles of the replicates are used, because a resample repeats rows: like a
      smaller sample it has an FID with an upward bias, which differs between the two sides. With
      about forty resamples, a deviation and a Student quantile are also much more stable than the
      second smallest replicate.

    On synthetic features both agree with the spread of ΔFID over fresh latents if there are at
    least twice as many images as features. With fewer images neither is reliable, since the
    covariance becomes singular. The interval is that of the mean ΔFID of n images. The bias of a
    finite n is nearly the same on both sides and cancels; for a candidate that adds noise, ΔFID at
    a small n is too large rather than too small.

    Resampled rows only depend on (seed, replicate): all candidates use the same ones, and the
    replicates of the dense generator are computed once, when first needed.
    """

    def __init__(
        self,
        reference: FrechetReference,
        dense_features: Features,
        *,
        confidence: float = 0.95,
        resamples: int = 40,
        seed: int = 0,
    ) -> None:
        if not 0 < confidence < 1:
            raise InvalidValueError(
                f"must lie between 0 and 1; got {confidence}", setting="confidence"
            )
        if resamples < 2:
            raise InvalidValueError(f"a bootstrap needs at least 2 resamples; got {resamples}")
        self.reference = reference
        self.confidence = confidence
        self.resamples = resamples
        self.seed = seed
        self._dense_features = dense_features
        self.n = len(dense_features)
        dense = _Sample(dense_features, reference)
        self.fid_dense = dense.distance()
        self._dense_influence: Array | None = None
        self._dense_replicates: Array | None = None

    def compare(
        self,
        features: Features,
        bootstrap: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> DeltaFid:
        """ΔFID of a candidate with features `(n, d)`, and its confidence interval.

        `progress` is called with 1 after each resample of the candidate.
        """
        if features.shape != self._dense_features.shape:
            raise InvalidValueError(
                f"features of shape {features.shape} cannot be paired with the dense generator's "
                f"{self._dense_features.shape}; use the same latents and extractor"
            )
        sample = _Sample(features, self.reference)
        fid = sample.distance()
        delta = fid - self.fid_dense
        if bootstrap:
            error = float(
                np.std(self._replicates(sample, progress) - self.dense_replicates, ddof=1)
            )
            degrees = self.resamples - 1
        else:
            difference = sample.influence() - self.dense_influence
            error = float(np.std(difference, ddof=1)) / self.n**0.5
            degrees = self.n - 1
        half_width = error * float(scipy.stats.t.ppf((1 + self.confidence) / 2, degrees))
        return DeltaFid(self.fid_dense, fid, delta, delta - half_width, delta + half_width, self.n)

    @property
    def dense_influence(self) -> Array:
        """Influence of every sample on the dense generator's FID, `(n,)`."""
        if self._dense_influence is None:
            self._dense_influence = _Sample(self._dense_features, self.reference).influence()
        return self._dense_influence

    @property
    def dense_replicates(self) -> Array:
        """The dense generator's FID on every resample, `(resamples,)`."""
        if self._dense_replicates is None:
            self._dense_replicates = self._replicates(_Sample(self._dense_features, self.reference))
        return self._dense_replicates

    def _replicates(self, sample: _Sample, progress: Callable[[int], None] | None = None) -> Array:
        replicates = np.empty(self.resamples)
        for b in range(self.resamples):
            replicates[b] = sample.distance(self._counts(b))
            if progress is not None:
                progress(1)
        return replicates

    def _counts(self, replicate: int) -> Array:
        """How often each row is drawn in a resample, `(n,)`."""
        rng = np.random.default_rng([self.seed, replicate])
        return np.bincount(rng.integers(self.n, size=self.n), minlength=self.n).astype(np.float64)


class _Sample:
    """Features and their product with the reference's factor, ready for reweighting.

    With `y = F^T (x - μ)` the covariance of a resample is one Gram matrix of y, so the two products
    with the root of the reference are computed once instead of for every resample.
    """

    def __init__(self, features: Features, reference: FrechetReference) -> None:
        n, d = features.shape
        if d != reference.dim:
            raise InvalidValueError(
                f"features of length {d} cannot be compared with a reference of {reference.dim}; "
                "were they made by another extractor?"
            )
        if n < 2:
            raise InvalidValueError(f"a covariance needs at least 2 images; got {n}")
        self.features = features
        self.reference = reference
        self.mean: Array = features.mean(axis=0, dtype=np.float64)
        if not np.isfinite(self.mean).all():
            raise InvalidValueError("features hold a NaN or an infinity")
        self.shift: Array = self.mean - reference.mean
        # y is a factor and is never squared, so float32 rounding costs 1e-7 at most; sums over rows
        # are computed in float64.
        self.projected = np.empty((n, reference.factor.shape[1]), np.float32)
        self.squares: Array = np.empty(n)  # |x - mean|^2
        for rows in _chunks(n):
            centred = features[rows] - self.mean
            self.projected[rows] = centred @ reference.factor
            self.squares[rows] = np.einsum("ij,ij->i", centred, centred)

    def distance(self, counts: Array | None = None) -> float:
        """Squared Fréchet distance with row i counted `counts[i]` times (once if None)."""
        n = len(self.features)
        counts = np.ones(n) if counts is None else counts
        # The mean moves by the average of (x - mean), in which the ones of a plain sample cancel.
        # The sum is smaller than its terms by sqrt(n) only, so float32 is accurate enough.
        moved = ((counts - 1).astype(self.features.dtype) @ self.features).astype(np.float64) / n
        shift = self.shift + moved
        trace = (counts @ self.squares - n * float(moved @ moved)) / (n - 1)
        gram, rank = self._gram(counts)
        roots = _sum_of_roots(gram, rank) / (n - 1) ** 0.5
        return float(shift @ shift) + self.reference.trace + float(trace) - 2 * roots

    def influence(self) -> Array:
        """First-order effect of each sample on the distance, `(n,)`; sums to zero."""
        n = len(self.features)
        gram, rank = self._gram(np.ones(n))
        values, vectors = scipy.linalg.eigh(
            gram / (n - 1), lower=True, check_finite=False, driver="evd"
        )
        kept = _above_rounding(values)
        kept[: len(values) - rank] = False
        values, vectors = values[kept], vectors[:, kept]
        result = np.empty(n)
        for rows in _chunks(n):
            if len(gram) == self.projected.shape[1]:
                weighted = (self.projected[rows] @ (vectors * values**-0.25)) ** 2
            else:  # the Gram matrix of the rows: y V = sqrt(n - 1) U S for y = sqrt(n - 1) U S V^T
                weighted = (n - 1) * vectors[rows] ** 2 * np.sqrt(values)
            quadratic = self.squares[rows] - weighted.sum(axis=1)
            result[rows] = 2 * ((self.features[rows] - self.mean) @ self.shift) + quadratic
        return result - result.mean()

    def _gram(self, counts: Array) -> tuple[Array, int]:
        """(n - 1) times `F^T Σ F`, or a smaller one with the same non-zero eigenvalues; its rank.

        Rows that a resample leaves out, more than a third of them, cost nothing.
        """
        width = self.projected.shape[1]
        drawn = np.flatnonzero(counts)
        mean = counts @ self.projected / counts.sum()  # (rank,)
        rank = _rank(width, len(drawn))
        if len(drawn) < width:
            rows = (self.projected[drawn] - mean) * np.sqrt(counts[drawn, None])
            return rows @ rows.T, rank
        gram = np.zeros((width, width))
        for chunk in _chunks(len(drawn)):
            index = drawn[chunk]
            rows = (self.projected[index] - mean) * np.sqrt(counts[index, None])
            gram += rows.T @ rows
        return gram, rank


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


def _above_rounding(values: Array) -> npt.NDArray[np.bool_]:
    """Which eigenvalues, in ascending order, stand above the rounding of their matrix."""
    return values > 4 * float(np.finfo(np.float64).eps) * max(float(values[-1]), 0.0)
