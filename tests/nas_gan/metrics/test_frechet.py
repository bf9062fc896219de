from __future__ import annotations

import numpy as np
import pytest
from pytorch_fid.fid_score import calculate_frechet_distance

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.frechet import (
    FeatureStatistics,
    FrechetReference,
    PairedFid,
    StreamingStatistics,
    frechet_distance,
    statistics_of,
)


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rotation = np.random.default_rng(0).standard_normal((d, d)) / d**0.5
    noise = np.random.default_rng(seed).standard_normal((n, d))
    return (noise / np.sqrt(np.arange(1, d + 1))) @ rotation + shift


def candidate_of(features: np.ndarray, size: float = 0.1) -> np.ndarray:
    """A small smooth change of each row, as compression makes."""
    d = features.shape[1]
    mix = np.random.default_rng(9).standard_normal((d, d)) / d**0.5
    return features + size * np.tanh(3 * features @ mix)


def test_commuting_gaussians_give_the_sum_of_squared_differences():
    a = FeatureStatistics(np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    b = FeatureStatistics(np.array([3.0, 1.0]), np.diag([1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-14)


def test_singular_gaussians_follow_the_same_rule():
    a = FeatureStatistics(np.zeros(3), np.diag([4.0, 0.0, 0.0]))
    b = FeatureStatistics(np.zeros(3), np.diag([0.0, 9.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(4 + 9, rel=1e-14)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-14)


def test_a_reference_without_any_spread_leaves_the_traces():
    point = FeatureStatistics(np.ones(2), np.zeros((2, 2)))
    assert frechet_distance(statistics_of(np.eye(2)), point) == pytest.approx(0.5 + 1.0)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize(
    ("n_a", "n_b"),
    [(400, 300), (40, 300), (300, 40), (50, 40)],
    ids=["full rank", "a singular", "b singular", "both singular"],
)
def test_the_distance_is_that_of_pytorch_fid(n_a: int, n_b: int):
    # 1e-6 is the accuracy of pytorch-fid's square root where a covariance is singular.
    a, b = statistics_of(draw(n_a, 96, 1)), statistics_of(draw(n_b, 96, 2, 0.1) * 1.2)
    theirs = calculate_frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("n", [400, 40], ids=["full rank", "singular"])
def test_small_eigenvalues_keep_their_digits(n: int):
    # The oracle takes singular values of the features, whose spectrum is never squared.
    scale = np.arange(1.0, 97) ** -3  # covariance eigenvalues over 12 decades
    x, y = draw(n, 96, 1) * scale, draw(n, 96, 2) * scale
    roots = [np.linalg.qr(z - z.mean(0), mode="r") / (n - 1) ** 0.5 for z in (x, y)]
    shift = x.mean(0) - y.mean(0)
    traces = sum((root**2).sum() for root in roots)
    nuclear = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    expected = shift @ shift + traces - 2 * nuclear
    assert frechet_distance(statistics_of(x), statistics_of(y)) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_symmetric():
    a, b = statistics_of(draw(60, 32, 1)), statistics_of(draw(20, 32, 2) * 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_streamed_statistics_are_those_of_numpy_for_every_batch_size(batch: int):
    features = draw(100, 8, 3, shift=1e4)  # a large mean shows lost digits
    streaming = StreamingStatistics(8)
    for start in range(0, 100, batch):
        streaming.update(features[start : start + batch])
    result = streaming.result()
    np.testing.assert_allclose(result.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(features.T), rtol=1e-9, atol=1e-12)
    assert result.n == 100


def test_streamed_statistics_refuse_what_they_cannot_use():
    streaming = StreamingStatistics(4)
    with pytest.raises(InvalidValueError, match=r"\(n, 4\); got shape \(2, 3\)"):
        streaming.update(np.zeros((2, 3)))
    with pytest.raises(InvalidValueError, match="NaN"):
        streaming.update(np.full((2, 4), np.nan))
    with pytest.raises(InvalidValueError, match="at least 2 images; got 0"):
        streaming.result()


def test_statistics_of_another_dimension_are_refused():
    reference = FrechetReference(statistics_of(draw(20, 8, 1)))
    with pytest.raises(InvalidValueError, match=r"4 features cannot be compared with .* 8"):
        reference.distance(statistics_of(draw(20, 4, 1)))
    with pytest.raises(InvalidValueError, match="length 4"):
        PairedFid(reference, draw(20, 4, 1))


@pytest.mark.parametrize("n", [300, 20], ids=["more images than features", "fewer"])
def test_the_rise_is_the_difference_of_the_two_fids(n: int):
    reference = FrechetReference(statistics_of(draw(500, 32, 1)))
    dense = draw(n, 32, 2).astype(np.float32)
    paired = PairedFid(reference, dense)
    result = paired.compare(candidate_of(dense).astype(np.float32))
    assert result.fid_dense == paired.fid_dense
    assert result.delta == pytest.approx(result.fid - result.fid_dense)
    assert result.ci_low < result.delta < result.ci_high
    # The distance of n images is too large.
    assert result.fid_dense < reference.distance(statistics_of(dense))


def test_of_many_images_the_fids_are_the_distances():
    reference = FrechetReference(statistics_of(draw(500, 4, 1)))
    dense = draw(100_000, 4, 2)
    result = PairedFid(reference, dense).compare(1.2 * dense)
    for fid, features in ((result.fid_dense, dense), (result.fid, 1.2 * dense)):
        assert fid == pytest.approx(reference.distance(statistics_of(features)), abs=1e-3)


@pytest.mark.parametrize("n", [100, 17, 16, 10, 4])
def test_the_dense_generator_differs_from_itself_by_nothing(n: int):
    dense = draw(n, 16, 2)
    paired = PairedFid(FrechetReference(statistics_of(draw(200, 16, 1))), dense)
    result = paired.compare(dense.copy())
    assert (result.delta, result.ci_low, result.ci_high) == (0, 0, 0)


def narrower_than(dense: np.ndarray) -> np.ndarray:
    """Features that lost variance, so that their FID has less bias than the dense side's."""
    return 0.9 * dense


def test_a_shift_alone_rises_by_its_square_whatever_the_number_of_images():
    # With the same covariance on both sides, |μ + s - μ_r|² - |μ - μ_r|² = |s|² + 2 s^T (μ - μ_r).
    reference = FrechetReference(FeatureStatistics(np.zeros(8), np.eye(8)))
    for n in (6, 30, 300):
        dense = draw(n, 8, 2)
        shift = np.linspace(-1, 1, 8)
        expected = shift @ shift + 2 * shift @ dense.mean(axis=0)
        assert PairedFid(reference, dense).compare(dense + shift).delta == pytest.approx(expected)


@pytest.mark.parametrize(("scale", "rise"), [(0.8, 16 * 0.2**2), (1.3, 16 * 0.3**2)])
@pytest.mark.parametrize("n", [24, 64, 400])
def test_scaled_normal_features_rise_by_the_closed_form(n: int, scale: float, rise: float):
    # Between N(0, I) and N(0, s² I) in 16 dimensions the distance is 16 (1 - s)². Averaged over 200
    # draws, the rise in the limit must be that, while the rise at n is off by many deviations.
    reference = FrechetReference(FeatureStatistics(np.zeros(16), np.eye(16)))
    found = []
    for dense in np.random.default_rng(n).standard_normal((200, n, 16)):
        at_n = [reference.distance(statistics_of(x)) for x in (scale * dense, dense)]
        found.append((PairedFid(reference, dense).compare(scale * dense).delta, at_n[0] - at_n[1]))
    limit, at_n = np.array(found).T
    error = limit.std() / len(found) ** 0.5
    assert abs(limit.mean() - rise) < 4 * error
    assert abs(at_n.mean() - rise) > 10 * error


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("change", [narrower_than, lambda dense: 1.1 * dense, candidate_of])
def test_the_interval_covers_the_rise_in_the_limit(change, ratio: int):
    reference = FrechetReference(statistics_of(draw(3000, 16, 1)))
    many = draw(200_000, 16, 2)
    truth = PairedFid(reference, many).compare(change(many)).delta
    covered = false_met = 0
    for dense in many[: 200 * 16 * ratio].reshape(200, 16 * ratio, 16):
        result = PairedFid(reference, dense).compare(change(dense))
        covered += result.ci_low <= truth <= result.ci_high
        false_met += result.ci_high < truth
    assert covered >= 179  # 190 of 200 expected, deviation 3.1
    assert false_met <= 15  # 5 expected, 10 allowed, deviation 2.2 and 3.1


def test_a_candidate_with_noise_of_its_own_has_no_needlessly_wide_interval():
    # Its variance comes from pairs of rows, which a jackknife counts twice.
    reference = FrechetReference(FeatureStatistics(np.zeros(16), np.eye(16)))
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        dense = rng.standard_normal((64, 16))
        noisy = dense + 0.3 * rng.standard_normal(dense.shape)
        result = PairedFid(reference, dense).compare(noisy)
        found.append((result.delta, result.ci_high - result.ci_low))
    rise, width = np.array(found).T
    assert 0.85 < width.mean() / (2 * 1.998 * rise.std()) < 1.25  # Student's quantile at 63


def test_pairing_narrows_the_interval():
    reference = FrechetReference(statistics_of(draw(500, 16, 1)))
    dense = draw(400, 16, 2)
    paired = PairedFid(reference, dense)
    same = paired.compare(candidate_of(dense, 0.02))
    other = paired.compare(candidate_of(draw(400, 16, 3), 0.02))
    assert same.ci_high - same.ci_low < 0.2 * (other.ci_high - other.ci_low)


def test_more_confidence_widens_the_interval():
    reference = FrechetReference(statistics_of(draw(200, 8, 1)))
    dense = draw(100, 8, 2)
    narrow, again, wide = (
        PairedFid(reference, dense, confidence=c).compare(candidate_of(dense))
        for c in (0.8, 0.8, 0.99)
    )
    assert narrow == again
    assert wide.ci_low < narrow.ci_low < narrow.ci_high < wide.ci_high


def test_features_that_do_not_pair_are_refused():
    reference = FrechetReference(statistics_of(draw(50, 8, 1)))
    with pytest.raises(InvalidValueError, match="use the same latents"):
        PairedFid(reference, draw(40, 8, 1)).compare(draw(39, 8, 1))
    with pytest.raises(InvalidValueError, match="confidence"):
        PairedFid(reference, draw(40, 8, 1), confidence=1)
    with pytest.raises(InvalidValueError, match="at least 4 images; got 3"):
        PairedFid(reference, draw(3, 8, 1))
