"""The trace of a root in the limit, against spectra that are known."""

from __future__ import annotations

import numpy as np
import pytest

from nas_gan.metrics.frechet_limit import BLOCK, blocks, partners, root_traces


def centred(n: int, d: int, seed: int, roots: np.ndarray | None = None) -> np.ndarray:
    """Normal rows with mean zero whose covariance has the root `diag(roots)`."""
    rows = np.random.default_rng(seed).standard_normal((n, d)) * (1 if roots is None else roots)
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize("n", [20, 30, 100])
def test_the_trace_of_the_identity_is_its_dimension(n: int):
    # 16 = tr I. The roots of the sample alone sum to 16 (1 - 16 / 8n) and less.
    found = [root_traces(centred(n, 16, seed)).whole for seed in range(300)]
    error = np.std(found) / 300**0.5
    assert abs(np.mean(found) - 16) < 4 * error + 0.05  # the dimension is finite
    plain = [np.sqrt(np.linalg.eigvalsh(np.cov(centred(n, 16, s).T))).sum() for s in range(50)]
    assert np.mean(plain) < 16 - 16 * 16 / (8 * n)


def test_a_falling_spectrum_is_summed_over_five_decades():
    roots = 10 ** -np.linspace(0, 5, 24)
    found = [root_traces(centred(60, 24, seed, roots)).whole for seed in range(200)]
    assert np.mean(found) == pytest.approx(roots.sum(), rel=0.02)


def test_many_rows_give_the_sum_of_the_roots():
    rows = centred(50_000, 6, 1, np.arange(1, 7))
    plain = np.sqrt(np.linalg.eigvalsh(np.cov(rows.T))).sum()
    assert root_traces(rows).whole == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("n", [40, 13, 12, 8], ids=["more", "one more", "as many", "fewer"])
def test_leaving_rows_out_is_computing_without_them(n: int):
    rows = centred(n, 12, 3, np.linspace(0.1, 2, 12))

    def without(*left_out: int) -> float:
        kept = np.delete(rows, left_out, axis=0)
        return root_traces(kept - kept.mean(axis=0)).whole

    found = root_traces(rows)
    # The grid of the integral moves with the largest eigenvalue.
    expected = [without(i) for i in range(n)]
    np.testing.assert_allclose(found.without_one, expected, rtol=1e-6)
    for partner, pairs in zip(partners(n), found.without_two, strict=True):
        expected = [without(i, j) for i, j in enumerate(partner)]
        np.testing.assert_allclose(pairs, expected, rtol=1e-6)
    assert found.rank == min(12, n - 1)


def test_the_trace_scales_with_the_rows_and_no_rotation_changes_it():
    rows = centred(30, 10, 4)
    rotation, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((10, 10)))
    whole = root_traces(rows).whole
    assert root_traces(1e-4 * rows).whole == pytest.approx(1e-4 * whole, rel=1e-9)
    assert root_traces(rows @ rotation).whole == pytest.approx(whole, rel=1e-9)


def test_rows_without_any_spread_have_no_trace():
    found = root_traces(np.zeros((5, 3)))
    assert (found.whole, found.rank) == (0, 0)
    assert not found.without_one.any()
    assert not found.without_two.any()


@pytest.mark.parametrize("n", [4, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_every_row_has_two_partners_and_is_none_of_them(n: int):
    rows = np.arange(n)
    first, second = partners(n)
    assert not (first == rows).any()
    assert not (second == rows).any()
    assert not (first == second).any()
    assert sorted(first) == sorted(second) == list(rows)
    assert sum(block.stop - block.start for block in blocks(n)) == n
