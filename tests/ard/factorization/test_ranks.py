import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ard.errors import RankError
from ard.factorization.methods import METHODS
from ard.factorization.ranks import snap

sizes = st.integers(1, 64)
shapes = st.tuples(sizes, sizes, st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5]))


@pytest.mark.parametrize(
    ("method", "rank", "expected"),
    [
        ("tucker2", (5, 7), (20 * 7, 7 * 5 * 15, 5 * 30)),
        ("cp", (4,), (20 * 4, 4 * 3, 4 * 5, 4 * 30)),
        ("svd", (6,), (20 * 15 * 6, 6 * 30)),
        ("spatial_svd", (6,), (20 * 3 * 6, 6 * 5 * 30)),
    ],
)
def test_factor_sizes_by_hand(method, rank, expected):
    assert METHODS[method].factor_sizes(rank, (30, 20, 3, 5)) == expected


@settings(max_examples=200, derandomize=True)
@given(
    st.sampled_from(tuple(METHODS)),
    shapes,
    st.floats(0.01, 2.0),
    st.sampled_from([1, 4, 8, 32]),
)
def test_a_rank_for_a_fraction_always_fits(method, shape, fraction, multiple_of):
    rank = METHODS[method].rank_for_fraction(shape, fraction, multiple_of)
    METHODS[method].check_rank(rank, shape)
    for r, largest in zip(rank, METHODS[method].max_rank(shape), strict=True):
        assert r % multiple_of == 0 or largest < multiple_of


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.75])
def test_a_rank_for_a_fraction_comes_near_it(method, fraction):
    shape = (256, 128, 1, 1) if method == "svd" else (256, 128, 5, 5)
    rank = METHODS[method].rank_for_fraction(shape, fraction)
    assert sum(METHODS[method].factor_sizes(rank, shape)) == pytest.approx(
        fraction * math.prod(shape), rel=0.06
    )


def test_snap_rounds_to_the_nearest_multiple_within_the_dimension():
    assert [snap(r, 100, 8) for r in (1, 11, 13, 97, 500)] == [8, 8, 16, 96, 96]
    assert snap(0.2, 100) == 1


def test_cp_needs_no_more_terms_than_fibres():
    assert METHODS["cp"].max_rank((8, 16, 3, 5)) == (8 * 3 * 5,)


@pytest.mark.parametrize("rank", [(300, 1), (0, 1), (1,), (1, 1, 1)])
def test_a_rank_that_does_not_fit_says_what_would(rank):
    with pytest.raises(RankError, match=r"does not fit a weight of shape .* up to \(256, 256\)"):
        METHODS["tucker2"].check_rank(rank, (256, 256, 3, 3))


def test_groups_by_hand():
    # Four groups of (8, 4, 3, 5) kernels.
    shape = (32, 16, 3, 5)
    assert METHODS["tucker2"].max_rank(shape, groups=4) == (32, 16)
    assert METHODS["spatial_svd"].max_rank(shape, groups=4) == (4 * min(8 * 5, 4 * 3),)
    assert METHODS["cp"].max_rank(shape, groups=4) == (4 * 4 * 3 * 5,)
    assert METHODS["spatial_svd"].factor_sizes((8,), shape, groups=4) == (4 * 2 * 12, 4 * 2 * 40)
    assert METHODS["tucker2"].factor_sizes((8, 4), shape, groups=4) == (
        4 * 4,
        4 * 2 * 15,
        4 * 2 * 8,
    )


@settings(max_examples=100, derandomize=True)
@given(
    st.sampled_from(tuple(METHODS)),
    shapes,
    st.floats(0.01, 2.0),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([2, 3, 6]),
)
def test_a_rank_for_a_fraction_fits_the_groups(method, shape, fraction, multiple_of, groups):
    shape = (shape[0] * groups, shape[1] * groups, *shape[2:])
    rank = METHODS[method].rank_for_fraction(shape, fraction, multiple_of, groups)
    METHODS[method].check_rank(rank, shape, groups)


def test_a_rank_that_is_no_multiple_of_the_groups_says_what_would_do():
    with pytest.raises(RankError, match=r"rank \(7, 4\) is not a multiple of the 4 .* \(8, 4\)"):
        METHODS["tucker2"].check_rank((7, 4), (32, 16, 3, 5), groups=4)
