import pytest

from ard.coverage import Coverage, Remainder


def test_modules_of_one_kind_are_one_group_and_the_largest_comes_first():
    coverage = Coverage.of(31, [("Embedding", 20), ("Conv2DMod", 30), ("Embedding", 1), ("A", 18)])
    assert coverage.rest == (
        Remainder("Conv2DMod", 1, 30),
        Remainder("Embedding", 2, 21),
        Remainder("A", 1, 18),
    )
    assert (coverage.total, coverage.share, coverage.low) == (100, 0.31, False)
    assert coverage.describe() == (
        "31 % of the parameters are in layers that this tool can factorize; the rest: "
        "Conv2DMod (1 layer, 30), Embedding (2 layers, 21), A (1 layer, 18)"
    )


@pytest.mark.parametrize(
    ("factorizable", "rest", "words"),
    [
        (0, 9, "0 %"),
        (1, 999, "under 1 %"),
        (999, 1, "over 99 %"),
        (5, 0, "100 %"),
        (19, 81, "19 %"),
    ],
)
def test_nothing_and_everything_are_never_claimed_falsely(factorizable, rest, words):
    coverage = Coverage.of(factorizable, [("A", rest)] if rest else [])
    assert coverage.describe().startswith(f"{words} of the parameters")


def test_below_a_fifth_it_is_low():
    assert Coverage.of(19, [("A", 81)]).low
    assert not Coverage.of(20, [("A", 80)]).low
    assert not Coverage().low


def test_many_kinds_are_summed_up():
    text = Coverage.of(0, [(f"K{i}", 1000 - i) for i in range(9)]).describe()
    assert text.endswith("K5 (1 layer, 1 k), 3 other kinds (3 layers, 3 k)")
