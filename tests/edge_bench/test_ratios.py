from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.ratios import (
    ratio_of_unpaired,
    ratio_over_processes,
    student_quantile,
    verdict,
)
from edge_bench.statistics import Ratio, ratio_of_medians

Times = list[NDArray[np.float64]]


def constant(*us: float) -> Times:
    return [np.full((4, 5), value) for value in us]


def noisy(rng: np.random.Generator, us: float, between: float, within: float, n: int) -> Times:
    """Times of n processes that scatter by these shares."""
    return [
        us * math.exp(rng.normal(0, between)) * np.exp(rng.normal(0, within, (8, 5)))
        for _ in range(n)
    ]


def test_the_ratio_is_the_geometric_mean_of_those_of_the_processes():
    # Ratios of 2 and 8: their geometric mean is 4.
    ratio = ratio_over_processes(constant(20, 80), constant(10, 10), np.random.default_rng(0))
    assert ratio.value == pytest.approx(4, rel=1e-12)
    # Student's t of one degree of freedom at 97.5 % is 12.706; log 2 is the standard error.
    assert ratio.high / ratio.value == pytest.approx(2**12.7062, rel=1e-3)


def test_processes_that_agree_leave_no_interval():
    ratio = ratio_over_processes(
        constant(30, 60, 90), constant(10, 20, 30), np.random.default_rng(0)
    )
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3, 3, 3), rel=1e-12)


def test_one_process_has_the_interval_of_its_rounds():
    rng = np.random.default_rng(0)
    [first], [other] = noisy(rng, 10, 0, 0.1, 1), noisy(rng, 5, 0, 0.1, 1)
    expected = ratio_of_medians(first, other, np.random.default_rng(1))
    assert ratio_over_processes([first], [other], np.random.default_rng(1)) == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 6), scatter=st.floats(0, 0.5))
def test_the_other_way_round_is_the_inverse_with_its_bounds(seed, n, scatter):
    rng = np.random.default_rng(seed)
    a, b = noisy(rng, 10, scatter, 0.1, n), noisy(rng, 7, scatter, 0.1, n)
    there = ratio_over_processes(a, b, np.random.default_rng(seed))
    back = ratio_over_processes(b, a, np.random.default_rng(seed))
    found = (back.value, back.low, back.high, back.of_fastest)
    inverse = (1 / there.value, 1 / there.high, 1 / there.low, 1 / there.of_fastest)
    assert found == pytest.approx(inverse, rel=1e-12)
    assert there.low <= there.value <= there.high


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 6), scale=st.floats(0.01, 100))
def test_the_unit_of_time_does_not_matter(seed, n, scale):
    rng = np.random.default_rng(seed)
    a, b = noisy(rng, 10, 0.1, 0.1, n), noisy(rng, 7, 0.1, 0.1, n)
    one = ratio_over_processes(a, b, np.random.default_rng(seed))
    other = ratio_over_processes(
        [scale * us for us in a], [scale * us for us in b], np.random.default_rng(seed)
    )
    assert other.value == pytest.approx(one.value, rel=1e-9)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), rel=1e-9)


@pytest.mark.parametrize(("between", "within"), [(0.05, 0.01), (0.02, 0.05), (0.0, 0.05)])
def test_the_interval_holds_for_the_next_processes_too(between, within):
    rng = np.random.default_rng(1)
    right = 0
    for _ in range(150):
        a, b = noisy(rng, 20, between, within, 5), noisy(rng, 10, between, within, 5)
        ratio = ratio_over_processes(a, b, rng, resamples=200)
        right += ratio.low <= 2 <= ratio.high
    # 142 of 150 expected at least; below 134 has a probability under one in a thousand.
    assert right >= 134


def test_rounds_alone_are_too_sure_of_themselves():
    rng = np.random.default_rng(1)
    right = 0
    for _ in range(100):
        [a], [b] = noisy(rng, 20, 0.05, 0.01, 1), noisy(rng, 10, 0.05, 0.01, 1)
        ratio = ratio_over_processes([a], [b], rng, resamples=200)
        right += ratio.low <= 2 <= ratio.high
    assert right < 50


@pytest.mark.parametrize(
    ("freedom", "expected"),
    # Any table of Student's t, two-sided 95 %.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (120, 1.980)],
)
def test_student_quantiles_are_those_of_the_table(freedom, expected):
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("probability", "freedom"), [(0.5, 4), (1.0, 4), (0.975, 0)])
def test_quantiles_that_do_not_exist_are_refused(probability, freedom):
    with pytest.raises(InvalidValueError, match="degrees of freedom"):
        student_quantile(probability, freedom)


@pytest.mark.parametrize(
    ("low", "high", "busy", "expected"),
    [
        (1.1, 1.3, None, "faster"),
        (0.7, 0.9, None, "slower"),
        (0.9, 1.1, None, "undecided"),
        (1.0, 1.2, None, "undecided"),
        (1.1, 1.3, "a neighbour", "busy"),
        (0.7, 0.9, "a neighbour", "busy"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_1_and_a_quiet_machine(
    low, high, busy, expected
):
    assert verdict(Ratio(math.sqrt(low * high), low, high, 0.95, 1.0), busy) == expected


@pytest.mark.parametrize(
    ("first", "other"),
    [([], []), (constant(1, 1), constant(1)), ([np.ones((3, 2))], [np.ones((4, 2))])],
    ids=["none", "another number", "other rounds"],
)
def test_times_of_different_processes_have_no_ratio(first, other):
    with pytest.raises(InvalidValueError):
        ratio_over_processes(first, other, np.random.default_rng(0))


def test_unpaired_processes_have_welchs_interval():
    # Logarithms 0, 2 and 1, 3 (in base e): a difference of -1 and standard errors of 1 each.
    ratio = ratio_of_unpaired(constant(1, math.e**2), constant(math.e, math.e**3))
    assert ratio.value == pytest.approx(math.exp(-1), rel=1e-12)
    # Two degrees of freedom: 4.303 standard errors of sqrt(2).
    assert math.log(ratio.high) == pytest.approx(-1 + 4.3027 * math.sqrt(2), rel=1e-4)
    with pytest.raises(InvalidValueError, match="two processes"):
        ratio_of_unpaired(constant(1), constant(1, 2))


@pytest.mark.parametrize("ratio", [ratio_of_unpaired, ratio_over_processes])
def test_bounds_are_numbers_even_of_processes_that_have_nothing_in_common(ratio):
    wild = constant(1e-300, 1e300)
    found = (
        ratio(wild, constant(1, 1), np.random.default_rng(0))
        if ratio is ratio_over_processes
        else ratio(wild, constant(1, 1))
    )
    assert 0 < found.low < found.value < found.high < math.inf
