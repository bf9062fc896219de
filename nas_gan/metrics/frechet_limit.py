"""The trace of `(F^T Σ F)^½` in the limit of many images, from a sample of few.

Let `y = F^T x` be projected features with covariance `M = F^T Σ F`, and `λ_i` the eigenvalues of
its estimate from n rows. The roots of a noisy spectrum are too small in sum, since the root is
concave: with n rows in d dimensions by about a share of d / 8n. With ν = n - 1,

    tr M^½  =  4 ν / π  ∫ 1 - (1 - g(t) / ν)^½ dt,    g(t) = sum_i λ_i / (λ_i + t²),

has no such bias. As n grows it becomes the sum of the roots. It follows from the equation of
Marčenko and Pastur (1967) between both spectra, which is solved for the population's; Tiomoko and
Couillet (2019) have the same estimator of a Fréchet distance as a contour integral. It needs
n > d. With fewer rows, part of the spectrum was never seen, and only some of the bias is removed.

The equation assumes that rows are linear images of independent numbers. What their other
properties add is removed by a jackknife, for which the same integral is needed without every
single row, and without pairs of rows for its variance. All of them follow from one
eigendecomposition, because a row changes `g` by a quotient of two sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.floating[Any]]

# The integrand is analytic in log t with singularities at a distance of π / 2, so that the
# trapezoidal rule errs by exp(-π² / STEP), 3e-9.
STEP = 0.5
# The integral runs from SMALLEST to LARGEST times the root of the largest eigenvalue; beyond both
# ends the integrand is a power of t and is summed in closed form.
SMALLEST, LARGEST = 1e-6, 1e3
# Every row is left out together with these many rows after it, one at a time.
SHIFTS = (1, 2)
# Rows that are processed at once.
BLOCK = 4096
# Fewest rows from which two can be left out and leave a covariance.
FEWEST = 4


@dataclass(frozen=True)
class RootTraces:
    """Estimates of `tr M^½`, from all n rows and without some of them.

    Attributes:
        seen: the sum of the roots of the spectrum of these rows.
        whole: the estimate in the limit, from all rows.
        without_one: without each row, `(n,)`.
        without_two: without each row and its partner, `(len(SHIFTS), n)`; see `partners`.
        rank: the number of eigenvalues above rounding, at most n - 1.
    """

    seen: float
    whole: float
    without_one: Array
    without_two: Array
    rank: int


def root_traces(rows: Rows) -> RootTraces:
    """Estimate the trace of the root of a covariance.

    Args:
        rows: `(n, d)` with mean zero, n at least `FEWEST`.

    Returns:
        The trace from all rows and without one or two of them, in units of the rows.
    """
    n = len(rows)
    values, whiten = _spectrum(rows)  # (r,), eigenvalues of rows^T rows
    rank = len(values)
    if not rank:
        return RootTraces(0.0, 0.0, np.zeros(n), np.zeros((len(SHIFTS), n)), 0)
    integral = _Integral(values, n)
    # With a full rank of n - 1 the leverages are known, and subtracting them would cancel.
    spare = rank < n - 1
    one, two = integral.without(1), integral.without(2)
    without_one, without_two = np.empty(n), np.empty((len(SHIFTS), n))
    for block in blocks(n):
        white = whiten(block)  # (b, r), rows with covariance 1 / (n - 1)
        squares = white**2
        free = 1 - 1 / n - squares.sum(axis=1)[:, None] if spare else 0.0
        without_one[block] = one.trace(
            (squares @ one.moved) / _positive(free + squares @ one.shares)
        )
        own, moved = free + squares @ two.shares, squares @ two.moved
        for k, shift in enumerate(SHIFTS):
            products = white * _after(white, shift)
            free_pair = -1 / n - products.sum(axis=1)[:, None] if spare else 0.0
            shared = free_pair + products @ two.shares
            # The trace of the inverse of a 2 x 2 matrix times another, for every pair and node.
            change = (
                _after(own, shift) * moved
                + own * _after(moved, shift)
                - 2 * shared * (products @ two.moved)
            ) / _positive(own * _after(own, shift) - shared**2)
            without_two[k, block] = two.trace(change)
    whole = integral.without(0).trace(np.zeros(1)).item()
    seen = float(np.sqrt(values / (n - 1)).sum())
    return RootTraces(seen, whole, without_one, without_two, rank)


def partners(n: int) -> npt.NDArray[np.intp]:
    """The row that is left out together with each row, `(len(SHIFTS), n)`."""
    rows = np.arange(n)
    return np.stack(
        [np.concatenate([_after(rows[block], shift) for block in blocks(n)]) for shift in SHIFTS]
    )


def blocks(n: int) -> Iterator[slice]:
    """Slices of at most `BLOCK` of n rows, of nearly equal size."""
    bounds = np.linspace(0, n, -(-n // BLOCK) + 1).astype(int)
    return (slice(start, end) for start, end in pairwise(bounds))


def _after(rows: Any, shift: int) -> Any:
    """The row `shift` rows later in the block, around its end."""
    return np.roll(rows, -shift, axis=0)


class _Integral:
    """The integral over `t` for a spectrum, on one grid whatever rows are left out."""

    def __init__(self, values: Array, n: int) -> None:
        self.values, self.n = values, n  # eigenvalues of rows^T rows
        scale = (values.max() / (n - 1)) ** 0.5
        self.nodes = scale * np.exp(np.arange(np.log(SMALLEST), np.log(LARGEST), STEP))  # (k,)
        self.weights = STEP * self.nodes
        # Both tails are geometric series: the integrand tends to a constant and to 1 / t².
        tail = 1 / np.expm1(STEP)
        self.weights[0] *= 1 + tail
        self.weights[-1] *= 1 + tail

    def without(self, rows: int) -> _LeftOut:
        degrees = self.n - 1 - rows
        ridge = degrees * self.nodes**2
        shares = ridge / (self.values[:, None] + ridge)  # (r, k), t² / (λ + t²)
        return _LeftOut(degrees, shares, shares * (1 - shares), self.weights)


@dataclass(frozen=True)
class _LeftOut:
    """The integral with a covariance of `degrees` degrees of freedom."""

    degrees: int
    shares: Array  # (r, k)
    moved: Array  # (r, k), what a unit of leverage takes from g
    weights: Array  # (k,)

    def trace(self, change: Array) -> Array:
        """The integral for `g - change`, `(b, k)` to `(b,)`."""
        g = np.clip((1 - self.shares).sum(axis=0) - change, 0, self.degrees)
        share = g / self.degrees
        # 1 - (1 - share)^½ without cancellation
        lost = share / (1 + np.sqrt(1 - share))
        result: Array = 4 * self.degrees / np.pi * (lost @ self.weights)
        return np.atleast_1d(result)


def _spectrum(rows: Rows) -> tuple[Array, Callable[[slice], Array]]:
    """Eigenvalues of `rows^T rows` above rounding, and the whitened rows of a block of rows."""
    n, d = rows.shape
    if n <= d:
        whole = rows.astype(np.float64)
        values, vectors = _eigh(whole @ whole.T)
        kept = _above_rounding(values)
        kept[: len(values) - (n - 1)] = False  # since the rows have mean zero
        whitened = np.ascontiguousarray(vectors[:, kept])
        return values[kept], lambda block: whitened[block]
    gram = np.zeros((d, d))
    for block in blocks(n):
        part = rows[block].astype(np.float64)
        gram += part.T @ part
    values, vectors = _eigh(gram)
    kept = _above_rounding(values)
    scaled = vectors[:, kept] / np.sqrt(values[kept])
    return values[kept], lambda block: rows[block].astype(np.float64) @ scaled


def _eigh(symmetric: Array) -> tuple[Array, Array]:
    found: tuple[Array, Array] = scipy.linalg.eigh(
        symmetric, lower=True, check_finite=False, driver="evd"
    )
    return found


def _above_rounding(values: Array) -> npt.NDArray[np.bool_]:
    return values > 4 * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)


def _positive(values: Array) -> Array:
    """Denominators that rounding may have made zero."""
    return np.maximum(values, np.finfo(np.float64).tiny)
