from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.paired_kernel import (
    PairedKernelDistance,
    gaussian_kernel,
    median_distance,
    polynomial_kernel,
)


def draw(seed: int, n: int, d: int = 4, scale: float = 1.0, shift: float = 0.0):
    return (scale * np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def by_definition(x, y, kernel):
    """The unbiased estimator of Gretton et al. (2012), pair by pair."""

    def mean(pairs):
        return np.mean([kernel(a[None], b[None])[0, 0] for a, b in pairs])

    x, y = x.astype(np.float64), y.astype(np.float64)
    within = [mean(itertools.permutations(side, 2)) for side in (x, y)]
    return sum(within) - 2 * mean(itertools.product(x, y))


KERNELS = {"polynomial": polynomial_kernel, "gaussian": gaussian_kernel(1.5)}


def test_the_kernels_by_hand():
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, -1.0], [1.0, 2.0]])
    # a.b = 1 and 5; (1 / 2 + 1)^3 and (5 / 2 + 1)^3.
    assert polynomial_kernel(a, b) == pytest.approx(np.array([[3.375, 42.875]]))
    # |a - b|^2 = 13 and 0.
    assert gaussian_kernel(2.0)(a, b) == pytest.approx(np.array([[np.exp(-13 / 8), 1.0]]))


@pytest.mark.parametrize("name", KERNELS)
def test_values_are_those_of_the_definition(name):
    kernel, x, y, r = KERNELS[name], draw(1, 7), draw(2, 7, scale=1.3), draw(3, 9)
    paired = PairedKernelDistance(r, x, kernel)
    found = paired.compare(y)
    assert found.dense == paired.dense_value == pytest.approx(by_definition(x, r, kernel))
    assert found.value == pytest.approx(by_definition(y, r, kernel))
    assert found.delta == pytest.approx(found.value - found.dense)
    assert found.n == 7


def test_the_polynomial_distance_is_torch_fidelitys_on_one_subset_of_everything():
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    x, r = draw(1, 60, d=16), draw(2, 80, d=16, shift=0.2)
    theirs = metric.kid_features_to_metric(
        torch.from_numpy(x).double(),
        torch.from_numpy(r[:60]).double(),
        kid_subsets=2,
        kid_subset_size=60,
        rng_seed=0,
        verbose=False,
    )[metric.KEY_METRIC_KID_MEAN]
    ours = PairedKernelDistance(r[:60], x, polynomial_kernel).dense_value
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_the_interval_is_that_of_leaving_out_one_row_after_the_other(name):
    kernel, x, y, r = KERNELS[name], draw(1, 6), draw(2, 6, shift=0.5), draw(3, 8)
    n = len(x)

    def rise(rows):
        return by_definition(y[rows], r, kernel) - by_definition(x[rows], r, kernel)

    every = list(range(n))
    pseudo = [n * rise(every) - (n - 1) * rise([i for i in every if i != k]) for k in every]
    found = PairedKernelDistance(r, x, kernel).compare(y)
    half = 2.5706 * np.std(pseudo, ddof=1) / n**0.5  # Student's t, 5 degrees of freedom
    assert found.ci_high - found.delta == pytest.approx(half, rel=1e-4)
    assert found.delta - found.ci_low == pytest.approx(half, rel=1e-4)


@pytest.mark.parametrize("name", KERNELS)
def test_an_equal_candidate_rises_by_nothing_without_doubt(name):
    x, r = draw(1, 20), draw(2, 30)
    found = PairedKernelDistance(r, x, KERNELS[name]).compare(x.copy())
    assert (found.delta, found.ci_low, found.ci_high) == (0, 0, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_the_interval_covers_the_rise_of_many_images(name):
    """A candidate is the dense generator's row plus noise; the truth comes from 6,000 rows."""
    kernel, r = KERNELS[name], draw(1, 60)

    def pair(seed, n):
        x = draw(seed, n, scale=0.9)
        return x, x + 0.5 * draw(seed + 1, n)

    truth = np.mean(
        [
            PairedKernelDistance(r, x, kernel).compare(y).delta
            for x, y in (pair(7, 3000), pair(9, 3000))
        ]
    )
    covered = 0
    for draw_of in range(200):
        x, y = pair(1000 + 2 * draw_of, 60)
        found = PairedKernelDistance(r, x, kernel).compare(y)
        covered += bool(found.ci_low <= truth <= found.ci_high)
    # 95 % of 200 is 190; 180 would be three standard deviations below.
    assert covered >= 180


def test_the_median_is_that_of_the_distances():
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2.0
    with pytest.raises(InvalidValueError, match="all equal"):
        median_distance(np.ones((5, 3)))


def test_rows_that_do_not_pair_are_refused():
    paired = PairedKernelDistance(draw(1, 5), draw(2, 6), polynomial_kernel)
    with pytest.raises(InvalidValueError, match="cannot be paired"):
        paired.compare(draw(3, 7))
    with pytest.raises(InvalidValueError, match="another extractor"):
        PairedKernelDistance(draw(1, 5, d=3), draw(2, 6), polynomial_kernel)
    with pytest.raises(InvalidValueError, match="at least 3 images"):
        PairedKernelDistance(draw(1, 5), draw(2, 2), polynomial_kernel)
    broken = draw(2, 6)
    broken[0, 0] = np.nan
    with pytest.raises(InvalidValueError, match="NaN"):
        paired.compare(broken)
