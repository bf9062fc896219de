from __future__ import annotations

import numpy as np
import pytest

from edge_bench.errors import InvalidValueError
from edge_bench.statistics import (
    disturbance,
    images_per_second,
    instability,
    is_settled,
    ratio_of_medians,
    summarize,
)


def test_percentiles_interpolate_linearly_between_neighbours():
    # Rank q (n - 1) of 10, 20, ..., 50: p90 is rank 3.6, 40 + 0.6 * 10.
    found = summarize(np.array([50.0, 10, 40, 20, 30]))
    assert (found.p50_us, found.min_us, found.max_us, found.mean_us) == (30, 10, 50, 30)
    assert [found.p90_us, found.p95_us, found.p99_us] == pytest.approx([46, 48, 49.6], rel=1e-12)


def test_the_standard_deviation_is_that_of_a_sample():
    # Deviations -10, 0, 10: variance 200 / (3 - 1).
    assert summarize(np.array([10.0, 20, 30])).std_us == 10
    assert summarize(np.array([10.0])).std_us == 0


def test_times_of_any_shape_are_one_population():
    times = np.arange(1.0, 13)
    assert summarize(times.reshape(3, 4)) == summarize(times)


@pytest.mark.parametrize("times", [[], [1.0, 0.0], [np.nan]], ids=["none", "zero", "nan"])
def test_times_that_are_no_times_are_refused(times):
    with pytest.raises(InvalidValueError):
        summarize(np.array(times))


def test_throughput_counts_all_the_time_and_not_the_median():
    # Two batches of 8 in 4 ms together: 16 images in 4 ms.
    assert images_per_second(summarize(np.array([1000.0, 3000.0])), batch=8) == 4000


def test_a_constant_ratio_has_an_interval_of_no_width():
    first = np.full((20, 5), 300.0)
    ratio = ratio_of_medians(first, first / 3, np.random.default_rng(0))
    assert (ratio.value, ratio.low, ratio.high) == (3, 3, 3)


def test_drift_that_hits_both_alike_leaves_the_ratio_exact():
    # The machine slows down to a third over the run; every round is slowed for both models.
    slower = np.linspace(1, 3, 40)[:, None] * np.ones((1, 5))
    ratio = ratio_of_medians(200 * slower, 100 * slower, np.random.default_rng(0))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2), rel=1e-12)


def test_the_interval_contains_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        first, other = rng.gamma(50, 4, (30, 5)), rng.gamma(50, 2, (30, 5))
        ratio = ratio_of_medians(first, other, rng, resamples=200)
        hits += ratio.low <= 2 <= ratio.high
    # 95 of 100 expected; below 88 has a probability under one in a hundred.
    assert hits >= 88


def test_a_ratio_that_the_fastest_runs_do_not_show_is_reported():
    # Both models take 10 us; something interrupts the first in most of its runs.
    first = np.tile([10.0, 30, 30, 30, 30], (20, 1))
    ratio = ratio_of_medians(first, np.full((20, 5), 10.0), np.random.default_rng(0))
    assert (ratio.value, ratio.of_fastest) == (3, 1)
    assert "ratio 3.00 of medians, but 1.00 of the fastest" in disturbance(ratio)[0]
    assert disturbance(ratio_of_medians(first, first / 2, np.random.default_rng(0))) == ()


def test_times_without_common_rounds_have_no_ratio():
    with pytest.raises(InvalidValueError, match="equal rounds"):
        ratio_of_medians(np.ones((3, 2)), np.ones((4, 2)), np.random.default_rng(0))


def test_steady_times_give_no_warning():
    assert instability(np.tile([99.0, 100.0, 101.0], 50)) == ()


def test_a_few_runs_that_take_far_longer_are_reported():
    times = np.full(200, 2000.0)
    times[50::50] = 70_000
    [warning] = instability(times)
    assert "unstable" in warning
    assert "3 of 200" in warning


def test_a_machine_that_slows_down_is_reported():
    [warning] = instability(np.repeat([100.0, 110.0], 100))
    assert "drifting, median of the second half +10%" in warning


def test_too_few_runs_for_a_99th_percentile_are_reported():
    assert instability(np.full(99, 5.0)) == ("p99 of only 99 runs is close to their maximum",)


def test_times_have_settled_when_two_windows_agree():
    falling = [100.0, 80, 60, 40, 20, 10]
    assert not is_settled(falling, window=3)
    assert not is_settled([10.0] * 5, window=3)
    assert is_settled([*falling, 10, 10, 10, 10, 10], window=3)


def test_one_slow_run_does_not_unsettle_a_window():
    assert is_settled([10.0] * 15 + [500.0] + [10.0] * 4)
