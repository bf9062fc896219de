"""The Fréchet distance between two sets of features, and how sure a difference of two is.

    d² = |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_a^½ Σ_b Σ_a^½)^½

The last trace is a sum of square roots of eigenvalues of one symmetric matrix, so no matrix
square root of a product is needed: it is faster than the `sqrtm` of the usual implementations and
cannot turn complex (Heusel et al. 2017 for the distance). Everything here is numpy in float64.
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

# Rows worked on at once where a float64 copy of all features would double the memory.
CHUNK = 4096


@dataclass(frozen=True)
class FeatureStatistics:
    """What the distance needs to know of a set of features: mean `(d,)` and covariance `(d, d)`.

    `n` is the number of images behind them; None where a file does not say.
    """

    mean: Array
    covariance: Array
    n: int | None = None

    def __post_init__(self) -> None:
        d = self.mean.size
        if self.mean.shape != (d,) or self.covariance.shape != (d, d):
            raise InvalidValueError(
                f"a mean of shape {self.mean.shape} does not go with a covariance of shape "
                f"{self.covariance.shape}; they must be (d,) and (d, d)"
            )

    @property
    def dim(self) -> int:
        """Length of one feature vector."""
        return self.mean.size


class StreamingStatistics:
    """Mean and sample covariance (n - 1, as `numpy.cov`) of features that come in batches.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which keeps its
    digits where the mean is large beside the spread; the result depends on the size of the batches
    only by rounding.
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
        """Statistics of everything seen so far."""
        if self.n < 2:
            raise InvalidValueError(f"a covariance needs 2 images or more; got {self.n}")
        return FeatureStatistics(self.mean.copy(), self.scatter / (self.n - 1), self.n)


def statistics_of(features: Features) -> FeatureStatistics:
    """Mean and covariance of features `(n, d)`."""
    streaming = StreamingStatistics(features.shape[-1])
    streaming.update(features)
    return streaming.result()


class FrechetReference:
    """The side of the distance that stays the same, prepared once for many candidates.

    Holds a factor `F` of the covariance, `F F^T = Σ_r`, of shape `(d, rank)`: directions that are
    zero are left out, so a reference made of fewer images than features is exact there and cheaper.
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
        """The squared Fréchet distance to `statistics`: the FID where the features are Inception's.

        Rounding can leave a tiny negative number for two equal inputs.
        """
        if statistics.dim != self.dim:
            raise InvalidValueError(
                f"statistics of {statistics.dim} features do not compare with a reference of "
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
        """`F^T Σ F`, `(rank, rank)`; only its lower triangle is meant to be read."""
        d, rank = self.factor.shape
        if rank < d:
            return self.factor.T @ covariance @ self.factor
        # With rows and columns in the order of the pivots F is triangular, and LAPACK has a routine
        # for the symmetric product with a quarter of the arithmetic.
        lower = np.asfortranarray(self.factor[self._order])
        permuted = covariance[np.ix_(self._order, self._order)].T  # symmetric, in Fortran order
        product, _ = scipy.linalg.lapack.dsygst(permuted, lower, itype=2, lower=1, overwrite_a=1)
        return product


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared Fréchet distance between two Gaussians; symmetric in its arguments.

    Singular covariances need no special care. (Where scipy's root of a singular product is not
    finite, pytorch-fid adds 1e-6 to both diagonals and returns the distance of other Gaussians.)
    """
    # Factor the side with fewer images: if one of them has a rank below d it is that one.
    if a.n is not None and (b.n is None or a.n < b.n):
        a, b = b, a
    return FrechetReference(b).distance(a)


@dataclass(frozen=True)
class DeltaFid:
    """By how much a candidate's FID exceeds the dense generator's, on the same latents.

    `ci_low` and `ci_high` bound `delta = fid - fid_dense` with the confidence that was asked for;
    `n` is the number of images on either side.
    """

    fid_dense: float
    fid: float
    delta: float
    ci_low: float
    ci_high: float
    n: int


class PairedFid:
    """Compares candidates with the dense generator on the same latents.

    Row i of every candidate's features must come from the latent of row i of `dense_features`
    `(n, d)`. The noise that both share cancels, so the interval of the difference is far narrower
    than that of either FID.

    The interval is `delta ± q s`, with s the standard error of the difference by one of two ways:

    * influence functions (the default, cheap): to first order a sample x moves the distance by

          2 (μ - μ_r)^T (x - μ) + (x - μ)^T G (x - μ) - tr(G Σ),
          G = I - F (F^T Σ F)^(-½) F^T,

      and s is the deviation of the paired difference of these numbers over sqrt(n). Directions in
      which `F^T Σ F` is zero are left out of its inverse root: no sample has a component there.
    * a paired bootstrap: both sides on the same resampled rows, `resamples` times; s is the
      deviation of the replicates `delta*_b` about their own mean. It is not taken about `delta`,
      and their percentiles are not used as they stand, because a resample repeats rows: it is a
      smaller sample than the one it came from, so its FID is biased upwards as that of fewer
      images, and by unlike amounts on the two sides. With some forty resamples a deviation and a
      Student quantile are also far steadier than the second smallest replicate.

    On synthetic features both agree with the scatter of ΔFID over fresh latents down to twice as
    many images as features. Below that expect little of either: the covariance turns singular. The
    interval is for the mean ΔFID of n images. The bias of n is nearly the same on both sides and
    cancels; a candidate that adds noise of its own is judged too harshly at small n, not too
    mildly.

    Row choices depend on (seed, replicate) only: all candidates see the same resamples, and the
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
            raise InvalidValueError(f"confidence must lie between 0 and 1; got {confidence}")
        if resamples < 2:
            raise InvalidValueError(f"a bootstrap needs 2 resamples or more; got {resamples}")
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
                f"features of shape {features.shape} do not pair with the dense generator's "
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
    """Features beside their image under the reference's factor, ready for reweighting.

    With `y = F^T (x - μ)` in hand the covariance of a resample enters as one Gram matrix of y; the
    two products with the root of the reference are paid once, not for every resample.
    """

    def __init__(self, features: Features, reference: FrechetReference) -> None:
        n, d = features.shape
        if d != reference.dim:
            raise InvalidValueError(
                f"features of length {d} do not compare with a reference of {reference.dim}; "
                "were they made by another extractor?"
            )
        if n < 2:
            raise InvalidValueError(f"a covariance needs 2 images or more; got {n}")
        self.features = features
        self.reference = reference
        self.mean: Array = features.mean(axis=0, dtype=np.float64)
        if not np.isfinite(self.mean).all():
            raise InvalidValueError("features hold a NaN or an infinity")
        self.shift: Array = self.mean - reference.mean
        # y enters as a factor, never squared, so the rounding of float32 costs 1e-7 and no more;
        # sums over rows are made in float64.
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
        # The sum is small beside its terms only by sqrt(n): float32 is exact enough.
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
        """(n - 1) times `F^T Σ F`, or a smaller matrix of the same non-zero eigenvalues; its rank.

        Rows that a resample leaves out, more than a third, cost nothing.
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

    Also the order of its rows in which it is lower triangular.

    Cholesky with pivoting: a tenth of the time of an eigendecomposition, and it stops by itself
    where what is left of a singular matrix is rounding.
    """
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance.T, lower=1)  # symmetric
    # A covariance that was stored in float32 has more than rounding in its null directions.
    rank = min(int(rank), _rank(len(covariance), n))
    factor = np.empty((len(covariance), rank))
    order = pivots.astype(np.intp) - 1
    factor[order] = np.tril(lower)[:, :rank]
    return factor, order


def _sum_of_roots(matrix: Array, rank: int) -> float:
    """Trace of the square root of a symmetric positive semi-definite matrix of that rank at most.

    A zero eigenvalue comes out as 1e-16 of the largest and its root as 1e-8, so a thousand of them
    would show: they are left out by their number, which is known, and not by a threshold, which
    would cut true small ones as well.
    """
    if not rank:
        return 0.0
    # LAPACK reduces the lower triangle from the top left. With the largest rows there, as
    # `_factor` puts them, small eigenvalues keep their digits: on features of Fashion-MNIST the
    # distance is good to 1e-14, and to 1e-7 with the order reversed.
    values = scipy.linalg.eigvalsh(matrix, lower=True, check_finite=False)
    return float(np.sqrt(values[-rank:].clip(min=0)).sum())


def _above_rounding(values: Array) -> npt.NDArray[np.bool_]:
    """Which eigenvalues, in ascending order, stand above the rounding of their matrix."""
    return values > 4 * float(np.finfo(np.float64).eps) * max(float(values[-1]), 0.0)
