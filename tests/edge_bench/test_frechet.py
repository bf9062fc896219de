from __future__ import annotations

import numpy as np
import pytest

from edge_bench.errors import InvalidValueError
from edge_bench.frechet import Reference, distances
from nas_gan.metrics.frechet import FrechetReference, PairedFid, frechet_distance, statistics_of


def draw(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of a reference, of a dense generator and, on the same latents, of a smaller one."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) / d**0.5
    dense = rng.standard_normal((n, d)) @ mix
    candidate = 0.9 * dense + 0.1 * rng.standard_normal((n, d)) + 0.05
    return rng.standard_normal((8 * d, d)) @ mix + 0.1, dense, candidate


def reference_of(features: np.ndarray) -> tuple[Reference, FrechetReference]:
    statistics = statistics_of(features)
    values, vectors = np.linalg.eigh(statistics.covariance)
    root = vectors * np.sqrt(values.clip(min=0))
    return Reference(statistics.mean, root), FrechetReference(statistics)


@pytest.mark.parametrize(("n", "d"), [(400, 20), (64, 16), (44, 40), (24, 40), (5000, 6)])
def test_the_rise_is_that_of_the_toolkit(n, d):
    images, dense, candidate = draw(n, d)
    ours, theirs = reference_of(images)
    before, after = (distances(x.astype(np.float32), ours) for x in (dense, candidate))
    expected = PairedFid(theirs, dense.astype(np.float32)).compare(candidate.astype(np.float32))
    rise = after.rise_over(before)
    found = (before.value, after.value, rise.value, rise.low, rise.high)
    wanted = (
        *(expected.fid_dense, expected.fid, expected.delta),
        *(expected.ci_low, expected.ci_high),
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)


def test_the_distance_of_many_images_is_that_of_their_statistics():
    images, dense, _ = draw(20_000, 5)
    ours, _ = reference_of(images)
    found = distances(dense, ours)
    assert found.at_n == pytest.approx(
        frechet_distance(statistics_of(dense), statistics_of(images)), rel=1e-5, abs=1e-5
    )
    assert found.value == pytest.approx(found.at_n, abs=5e-3)


def test_equal_images_have_no_rise():
    images, dense, _ = draw(300, 12)
    before = distances(dense, reference_of(images)[0])
    rise = before.rise_over(before)
    assert (rise.value, rise.low, rise.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (np.zeros((3, 4)), "at least 4 images"),
        (np.zeros((9, 5)), "length 5"),
        (np.full((9, 4), np.nan), "NaN"),
    ],
)
def test_what_cannot_be_compared_is_said(features, said):
    with pytest.raises(InvalidValueError, match=said):
        distances(features, Reference(np.zeros(4), np.eye(4)))
